"""Scores of a version with added classes, and the minimum for publishing it."""

import sys
from collections.abc import Mapping, Sequence

import numpy as np

from supcon_tf.core.errors import UserError
from supcon_tf.exporting.calibration import calibration_scores
from supcon_tf.stages.scores import classification_scores
from supcon_tf.stages.tables import percent

# New classes above the first, and old classes that lose less than the second, get no warning.
_GOOD_TOP1, _OLD_LOSS = 0.8, 0.02


def top1_scores(
    before: np.ndarray, probabilities: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> dict:
    """Top-1 on held-out images of the old classes, before and after, and of the new ones.

    Args:
        before: float32 [M, C], probabilities of the previous version for images of the old classes.
        probabilities: float32 [N, C + A], of the new version for those M images and then for images
            of the new classes.
        labels: int [N].
        class_names: C + A names.

    Returns:
        `old_images` and `new_images`, their numbers; `old_top1_before`, `old_top1` and `new_top1`;
        `per_class`, top-1 by new class, and `held_out`, the number of images by new class.
    """
    count, new_names = len(before), class_names[before.shape[1] :]
    by_class = classification_scores(probabilities, labels, class_names)["per_class"]
    return {
        "old_images": count,
        "new_images": len(labels) - count,
        "old_top1_before": _top1(before, labels[:count]),
        "old_top1": _top1(probabilities[:count], labels[:count]),
        "new_top1": _top1(probabilities[count:], labels[count:]),
        "per_class": {name: by_class[name] for name in new_names},
        "held_out": {name: int(np.sum(labels == class_names.index(name))) for name in new_names},
    }


def _top1(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(probabilities.argmax(axis=1) == labels))


def check_top1(scores: Mapping, min_top1: float) -> None:
    """Refuses new classes that are not recognized; warns of those that are recognized poorly.

    Checking each class is enough: together, the new classes score at least as much as the worst.

    Args:
        scores: as `top1_scores` gives them.
        min_top1: least top-1 of each new class, a share.

    Raises:
        UserError: if a class scores less.
    """
    described = {
        name: f"{name!r} {percent(top1)} of {scores['held_out'][name]} held-out images"
        for name, top1 in scores["per_class"].items()
    }
    low = [name for name, top1 in scores["per_class"].items() if top1 < min_top1]
    if low:
        raise UserError(
            f"new classes are recognized too rarely: {'; '.join(described[name] for name in low)} "
            f"(all new classes {percent(scores['new_top1'])}), below min_top1={min_top1:g}. "
            "Nothing was written. Give more images that vary more, train again with these "
            "classes, or lower --min_top1."
        )
    fair = [name for name, top1 in scores["per_class"].items() if top1 < _GOOD_TOP1]
    if fair:
        print(
            f"warning: new classes are recognized poorly: "
            f"{'; '.join(described[name] for name in fair)}; train again with them when there are "
            "enough images",
            file=sys.stderr,
        )
    if scores["old_top1"] < scores["old_top1_before"] - _OLD_LOSS:
        print(
            f"warning: top-1 of the old classes falls from {percent(scores['old_top1_before'])} to "
            f"{percent(scores['old_top1'])} of {scores['old_images']:,} held-out images; the new "
            "classes resemble them",
            file=sys.stderr,
        )


def calibration(before: Mapping, probabilities: np.ndarray, labels: np.ndarray) -> dict:
    """Calibration on all held-out images, with the temperature of the previous version.

    Args:
        before: metrics of that version.
        probabilities: float32 [N, C + A].
        labels: int [N].
    """
    found = calibration_scores(np.log(np.maximum(probabilities, 1e-30)), labels, 1.0)
    earlier = before.get("added", before["export"])["calibration"]
    kept = {name: earlier[name] for name in ("temperature", "fitted_on")}
    return {"nll": found["nll"], "ece": found["ece"], **kept}
