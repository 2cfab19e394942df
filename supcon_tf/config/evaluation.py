"""Settings of evaluation."""

import dataclasses
from typing import ClassVar

from supcon_tf.config.dataset_names import absolute_dataset
from supcon_tf.config.settings import Config, setting
from supcon_tf.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """Scores of a run or a bundle on held-out, validation or other labelled images."""

    # The first setting of each group, and the group's title in `--help`.
    SECTIONS: ClassVar[dict[str, str]] = {
        "run_dir": "model",
        "split": "images",
        "knn_neighbors": "scores",
    }

    run_dir: str = setting("runs/run", "Directory of the run.", identity=False)
    model: str = setting(
        "", "Exported model to score instead of a run: saved_models/NAME.", identity=False
    )
    output_dir: str = setting(
        "", "Where an exported model's scores are written ('': nowhere).", identity=False
    )
    split: str = setting(
        "test",
        "Images to score on: held out, or the validation set of the run.",
        choices=("test", "validation"),
    )
    dataset: str = setting(
        "",
        "Other images instead: folder:PATH, csv:FILE, jsonl:FILE, or a TensorFlow Datasets name.",
        any_bytes=True,
    )
    data_dir: str = setting("", "Where TensorFlow Datasets keeps data ('': its own default).")
    skip_bad_images: bool = setting(False, "Leave out unreadable images, and count them.")
    batch_size: int = setting(256, "Images per step.", at_least=1, at_most=2**20)
    knn_neighbors: int = setting(10, "Neighbours that vote in the k-NN score.", at_least=1)
    soft_neighbors_temperature: float | None = setting(
        None,
        "Also score soft nearest neighbours at this temperature (none: do not).",
        kind=float,
        at_least=1e-3,
        at_most=1e4,
    )
    corruptions: bool = setting(
        False, "Also score the classifier on 15 corruptions of the images, at 5 severities."
    )
    corruption_images: int | None = setting(
        None,
        "Images that are corrupted, spread over the split (none: all).",
        kind=int,
        at_least=1,
    )
    baseline: str = setting(
        "", "Run that mCE compares this run's corruption errors with ('': none)."
    )
    bootstrap: int = setting(
        1000, "Resamples of the 95 % intervals (0: no intervals).", at_least=0, at_most=10**6
    )
    seed: int = setting(0, "Seed of the resamples and the corruptions.", at_least=0, below=2**31)

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "dataset", absolute_dataset(self.dataset))
        if not self.corruptions:
            self._refuse("without corruptions", "corruption_images", "baseline")
        if self.model:
            self._refuse("with model", "run_dir", "soft_neighbors_temperature", "corruptions")
        else:
            self._refuse("without model", "output_dir")
        if self.dataset:
            self._refuse("with dataset", "split")
        elif self.model:
            raise UserError(
                f"an exported model is scored on a data set. Received: model={self.model!r} alone. "
                "Pass --dataset=folder:PATH."
            )
        else:
            self._refuse("without dataset", "data_dir", "skip_bad_images")

    def _refuse(self, why, *names):
        """Refuses settings that have no effect, unless they have their defaults."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in names and value != field.default:
                raise UserError(
                    f"{field.name} has no effect {why}. Received: {field.name}={value!r}. Leave it "
                    "out."
                )
