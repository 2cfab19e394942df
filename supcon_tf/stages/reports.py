"""Reports of scored images: the scores of a classifier, their intervals, files and a warning."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.special import softmax

from supcon_tf.config import EvaluateConfig
from supcon_tf.data.splits import Split
from supcon_tf.stages import pictures
from supcon_tf.stages.class_scores import below_chance, class_scores
from supcon_tf.stages.intervals import classification_intervals, share_interval
from supcon_tf.stages.label_files import write_label_files
from supcon_tf.stages.label_intervals import label_intervals
from supcon_tf.stages.label_scores import class_probabilities, label_scores, never_found
from supcon_tf.stages.score_files import write_score_files
from supcon_tf.stages.scores import (
    classification_scores,
    expected_calibration_error,
    negative_log_likelihood,
)

_NAMED_CLASSES = 5


@dataclasses.dataclass(frozen=True)
class Scored:
    """The images that are scored.

    Attributes:
        name: key of the scores in metrics.json: "test", "validation", or a data set's name.
        split: the images, labelled with the model's classes.
        folder: name of the folder of the CSV files.
        picture: the picture of the confusion matrix.
        described: entries of the scores that describe the images, except for their number.
    """

    name: str
    split: Split
    folder: Path
    picture: Path
    described: dict


def classifier_scores(logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> dict:
    """All scores of a classifier.

    Args:
        logits: float [N, C].
        labels: int [N]; or bool [N, C], if the logits are of sigmoids.
        class_names: C names.

    Returns:
        Those of `classification_scores` and `class_scores`, `nll` (nats) and `ece`; or those of
        `label_scores`.
    """
    if labels.ndim == 2:
        return label_scores(logits, labels, class_names)
    probabilities = softmax(np.asarray(logits, np.float64), axis=1)
    return {
        **classification_scores(logits, labels, class_names),
        **class_scores(probabilities, labels, class_names),
        "nll": negative_log_likelihood(logits, labels),
        "ece": expected_calibration_error(probabilities, labels),
    }


def intervals(
    config: EvaluateConfig,
    metrics: dict,
    logits: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> dict:
    """95 % intervals of the scores of N images.

    Args:
        config: its `bootstrap` and `seed`.
        metrics: `images`, perhaps `knn_top1` and `confusion_matrix`.
        logits: of a classifier, as in `classifier_scores`.
        labels: as in `classifier_scores`.

    Returns:
        `intervals`: the lower and upper end by score, with `resamples` and `seed`; nothing if
            `bootstrap` is 0.
    """
    how = {"resamples": config.bootstrap, "seed": config.seed}
    if not config.bootstrap:
        return {}
    found = {}
    if "confusion_matrix" in metrics:
        found |= classification_intervals(np.array(metrics["confusion_matrix"]), **how)
    if labels is not None and labels.ndim == 2:
        found |= label_intervals(class_probabilities(logits, multi_label=True), labels, **how)
    if "knn_top1" in metrics:
        found["knn_top1"] = share_interval(metrics["knn_top1"], metrics["images"], **how)
    return {"intervals": {**found, **how}}


def write_report(
    scored: Scored, logits: np.ndarray, labels: np.ndarray, metrics: dict, class_names
) -> None:
    """Writes the picture of the confusion matrix and the CSV files.

    Args:
        scored: the images.
        logits: float [N, C].
        labels: as in `classifier_scores`.
        metrics: as from `classifier_scores`.
        class_names: C names.
    """
    probabilities = class_probabilities(logits, multi_label=labels.ndim == 2)
    images = scored.folder, scored.split, probabilities, labels
    if labels.ndim == 2:
        write_label_files(*images, metrics["classes"])
        return
    counts = metrics["confusion_matrix"]
    pictures.confusion(np.array(counts), class_names, scored.picture)
    write_score_files(*images, counts, class_names)


def remark(scores: dict, multi_label: bool = False) -> None:
    """Prints one line on the classes that are recognized less often than by guessing, if any.

    Args:
        scores: `classes` as from `class_scores`.
        multi_label: whether images have several classes: then on those that are never found.
    """
    if multi_label:
        _remark_never_found(scores)
        return
    worst = below_chance(scores)
    if not worst:
        return
    shown = [
        f"{name!r} {100 * score['recall']:.0f} % of {score['support']:,}"
        for name, score in list(worst.items())[:_NAMED_CLASSES]
    ]
    more = f" and {len(worst) - len(shown)} more" * (len(worst) > len(shown))
    print(
        f"warning: {len(worst)} of {len(scores)} classes recognized less often than by guessing "
        f"({100 / len(scores):.1f} %): {', '.join(shown)} images{more}",
        file=sys.stderr,
    )


def _remark_never_found(scores):
    lost = never_found(scores)
    if lost:
        shown = [f"{name!r} ({images:,})" for name, images in list(lost.items())[:_NAMED_CLASSES]]
        more = f" and {len(lost) - len(shown)} more" * (len(lost) > len(shown))
        print(
            f"warning: {len(lost)} of {len(scores)} classes found in none of their images: "
            f"{', '.join(shown)}{more}",
            file=sys.stderr,
        )
