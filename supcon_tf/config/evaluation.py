"""Settings of evaluation."""

import dataclasses

from supcon_tf.config.settings import Config, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """Scores of a run on the held-out split, or on its validation set."""

    run_dir: str = setting("runs/run", "Directory of the run.", identity=False)
    batch_size: int = setting(256, "Images per step.", at_least=1, at_most=2**20)
    knn_neighbors: int = setting(10, "Neighbours that vote in the k-NN score.", at_least=1)
    soft_neighbors_temperature: float | None = setting(
        None,
        "Also score soft nearest neighbours at this temperature (none: do not).",
        kind=float,
        at_least=1e-3,
        at_most=1e4,
    )
    split: str = setting(
        "test",
        "Images to score on: held out, or the validation set of the run.",
        choices=("test", "validation"),
    )
