"""Scores of a classifier by class, and their means over the classes."""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

# If images have several classes, one counts as predicted from this probability on.
THRESHOLD = 0.5


def class_scores(probabilities: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> dict:
    """Precision, recall, F1 and ranking scores of each class, as scikit-learn computes them.

    The ROC AUC and the average precision rank all images by the probability of one class, which is
    compared with the rest. Each mean is over the classes with images for which the score is
    defined.

    Args:
        probabilities: float [N, C].
        labels: int [N]; or bool [N, C] for several classes per image, of which those with a
            probability of at least 0.5 are predicted.
        class_names: C names.

    Returns:
        `balanced_accuracy` (the mean recall), `macro_f1`, `macro_roc_auc`,
        `mean_average_precision`, and `classes`: by class name `support` (the number of images),
        `precision`, `recall`, `f1`, `roc_auc` and `average_precision`. Shares in [0, 1]; None if
        a score is undefined: the precision of a class that is never predicted, the recall of a
        class without images, the ROC AUC if all images or none are of the class.
    """
    numbers = np.arange(len(class_names))
    if labels.ndim == 2:
        shown, predicted = labels, probabilities >= THRESHOLD
    else:
        shown = labels[:, None] == numbers
        predicted = probabilities.argmax(axis=1)[:, None] == numbers
    *counted, support = precision_recall_fscore_support(
        shown, predicted, average=None, zero_division=np.nan
    )
    ranked = zip(
        *(_ranking_scores(shown[:, number], probabilities[:, number]) for number in numbers),
        strict=True,
    )
    names = ("precision", "recall", "f1", "roc_auc", "average_precision")
    columns = {
        name: [None if value is None or np.isnan(value) else float(value) for value in values]
        for name, values in zip(names, (*counted, *ranked), strict=True)
    }

    def mean(name):
        pairs = zip(columns[name], support, strict=True)
        known = [value for value, images in pairs if images and value is not None]
        return float(np.mean(known)) if known else None

    return {
        "balanced_accuracy": mean("recall"),
        "macro_f1": mean("f1"),
        "macro_roc_auc": mean("roc_auc"),
        "mean_average_precision": mean("average_precision"),
        "classes": {
            class_name: {
                "support": int(support[number]),
                **{name: column[number] for name, column in columns.items()},
            }
            for number, class_name in enumerate(class_names)
        },
    }


def _ranking_scores(is_of_class, probability):
    """ROC AUC and average precision of one class; None where undefined."""
    if not is_of_class.any():
        return None, None
    area = None if is_of_class.all() else roc_auc_score(is_of_class, probability)
    return area, average_precision_score(is_of_class, probability)


def below_chance(scores: dict) -> dict[str, dict]:
    """The classes whose images are recognized less often than by guessing, the worst first.

    Args:
        scores: `classes` as from `class_scores`.

    Returns:
        Those whose recall is below 1 / C, with their scores.
    """
    found = {
        name: score
        for name, score in scores.items()
        if score["recall"] is not None and score["recall"] < 1 / len(scores)
    }
    return dict(sorted(found.items(), key=lambda item: item[1]["recall"]))
