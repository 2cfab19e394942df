"""The evaluation of a run on corrupted images: scores, a table, a picture, a baseline."""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras

from supcon_tf.config import EvaluateConfig
from supcon_tf.core.errors import UserError
from supcon_tf.core.files import writing
from supcon_tf.data.corruptions import SEVERITIES
from supcon_tf.stages import pictures
from supcon_tf.stages.features import inference_function
from supcon_tf.stages.robustness import conditions, corruption_scores, relative_scores
from supcon_tf.stages.run_directory import RunDirectory


def corrupted_evaluation(
    config: EvaluateConfig, run: RunDirectory, scored
) -> Callable[[keras.Model], dict]:
    """Checks what can be checked in advance, and returns the function that scores.

    Args:
        config: the settings.
        run: the run.
        scored: the images, as `evaluate_run` has them.

    Returns:
        A function from the run's classifier to the scores: those of `corruption_scores` and, with a
        baseline, of `relative_scores`. It also writes corruptions.csv and the picture.

    Raises:
        UserError: if the run has no classifier, or the baseline has no such scores.
    """
    if not (run.path / "classifier.keras").exists():
        raise UserError(
            f"corruptions are scored with a classifier, and {run.path} has none. Run supcon-tf "
            "classify first."
        )
    baseline = _baseline(config, scored.name)

    def score(model):
        classify, size = inference_function(model), model.input_shape[1]
        how = {"limit": config.corruption_images, "seed": config.seed}
        if baseline:
            _check_comparable(conditions(scored.split, size, **how), baseline, config.baseline)
        found = corruption_scores(
            scored.split, lambda images: classify(images)["logits"].numpy(), size, **how
        )
        if baseline:
            found |= {"baseline": config.baseline, **relative_scores(found, baseline)}
        _write_table(scored.folder / "corruptions.csv", found)
        name = scored.picture.name.replace("confusion_matrix", "corruptions")
        pictures.robustness(found["by_corruption"], found["clean"], scored.picture.with_name(name))
        return found

    return score


def _baseline(config: EvaluateConfig, name: str) -> dict:
    """The scores of the baseline on the corrupted images; {} without one."""
    if not config.baseline:
        return {}
    found = RunDirectory(config.baseline).metrics().get(name, {}).get("corruptions")
    if found is None:
        raise UserError(
            f"baseline has no scores on corrupted images of {name}. Received: {config.baseline!r}. "
            "Run supcon-tf evaluate --corruptions on it first."
        )
    return found


def _check_comparable(wanted, baseline, path):
    for name, value in wanted.items():
        if baseline[name] != value:
            raise UserError(
                f"baseline was scored on different corrupted images: {name} was "
                f"{baseline[name]!r}, is {value!r} now. Received: baseline={path!r}. Score both "
                "alike."
            )


def _write_table(path: Path, found: Mapping[str, Any]) -> None:
    """The scores as CSV, one row per corruption and severity; clean images are severity 0."""
    rows = [["clean", 0, found["clean"]["error"], found["clean"]["ece"]]]
    for name, scores in found["by_corruption"].items():
        levels = zip(SEVERITIES, scores["error"], scores["ece"], strict=True)
        rows += [[name, *level] for level in levels]
    with writing(path) as temporary, open(temporary, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["corruption", "severity", "error", "calibration_error"])
        table.writerows(rows)
