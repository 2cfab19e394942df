"""Scores of images that have several classes each: rankings, and classes over a threshold.

Those of each class are in `class_scores`; here are their means, and scores over all classes of all
images.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import expit, softmax
from sklearn.metrics import average_precision_score, f1_score

from supcon_tf.stages.class_scores import THRESHOLD, class_scores
from supcon_tf.stages.scores import (
    expected_calibration_error,
    negative_log_likelihood,
    neighbor_weights,
)


def headline(multi_label: bool) -> str:
    """The ending of the name of the score that sums a model up: "map" or "top1".

    Args:
        multi_label: whether images have several classes.
    """
    return "map" if multi_label else "top1"


def headline_score(scores: np.ndarray, labels: np.ndarray) -> float:
    """The mean average precision for several classes per image; the top-1 for one.

    Args:
        scores: float [N, C], logits or probabilities.
        labels: bool [N, C], or int [N].
    """
    if labels.ndim == 2:
        return mean_average_precision(scores, labels)
    return float(np.mean(scores.argmax(axis=1) == labels))


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """The mean, over the classes with images, of the average precision of ranking all images.

    Args:
        scores: float [N, C].
        labels: bool [N, C].

    Returns:
        A share in [0, 1]; 0 if no image has a class.
    """
    seen = labels.any(axis=0)
    if not seen.any():
        return 0.0
    return float(average_precision_score(labels[:, seen], scores[:, seen], average="macro"))


def neighbor_label_scores(
    gallery: np.ndarray, known: np.ndarray, queries: np.ndarray, neighbors: int
) -> np.ndarray:
    """The share of the vote of the nearest images that each class gets, float32 [M, C].

    As `knn_predict`, but each neighbour votes for all of its classes.

    Args:
        gallery: float [N, F].
        known: bool [N, C].
        queries: float [M, F].
        neighbors: voters, from 1 to N.
    """
    found = []
    for weights, nearest in neighbor_weights(gallery, queries, neighbors):
        votes = np.einsum("mk,mkc->mc", weights, known[nearest].astype(np.float32))
        found.append(votes / weights.sum(axis=1, keepdims=True))
    return np.concatenate(found)


def joined(class_names: Sequence[str], shown: Sequence[bool]) -> str:
    """The names of the classes that are shown, with | between, as a table has them."""
    return "|".join(name for name, is_there in zip(class_names, shown, strict=True) if is_there)


def class_texts(
    probabilities: np.ndarray, class_names: Sequence[str], multi_label: bool
) -> list[str]:
    """The answer for each image in words: the most probable class; of several, those predicted.

    Args:
        probabilities: float [N, C].
        class_names: C names.
        multi_label: whether images have several classes: those with a probability of 0.5 or more
            are joined with |; if there are none, the most probable one stands alone.
    """
    best = probabilities.argmax(axis=1)
    if not multi_label:
        return [class_names[index] for index in best]
    shown = probabilities >= THRESHOLD
    shown[np.arange(len(shown)), best] = True
    return [joined(class_names, row) for row in shown]


def class_probabilities(logits: np.ndarray, multi_label: bool) -> np.ndarray:
    """Probabilities float64 [N, C]: sigmoids for several classes per image, otherwise softmax."""
    logits = np.asarray(logits, np.float64)
    return expit(logits) if multi_label else softmax(logits, axis=1)


def for_calibration(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits [N, C] and labels int [N] as they are; for several classes, `as_binary`."""
    return as_binary(logits, labels) if labels.ndim == 2 else (logits, labels)


def as_binary(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each class of each image by itself, absent (0) or present (1), as one of two classes.

    Args:
        logits: float [N, C], of sigmoids.
        labels: bool [N, C].

    Returns:
        Logits float [N * C, 2] of a softmax with the same probabilities, and labels int [N * C].
    """
    present = np.ravel(logits)
    return np.stack([np.zeros_like(present), present], axis=1), np.ravel(labels).astype(int)


def label_scores(logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> dict:
    """All scores of a classifier of several classes per image.

    A class counts as predicted from a probability of 0.5 on.

    Args:
        logits: float [N, C], of sigmoids.
        labels: bool [N, C].
        class_names: C names.

    Returns:
        `micro_f1` (over all classes of all images), `exact_match` (share of images whose predicted
        classes are the true ones), `labels_per_image`, the means and `classes` of `class_scores`
        (`macro_recall` is its `balanced_accuracy`), `nll` (nats per class) and `ece`, both over all
        classes of all images. Shares in [0, 1]; None where undefined.
    """
    probabilities = expit(np.asarray(logits, np.float64))
    predicted = probabilities >= THRESHOLD
    by_class = class_scores(probabilities, labels, class_names)
    two_logits, present = as_binary(np.asarray(logits, np.float64), labels)
    return {
        "mean_average_precision": by_class.pop("mean_average_precision"),
        "micro_f1": float(f1_score(labels, predicted, average="micro", zero_division=0)),
        "macro_recall": by_class.pop("balanced_accuracy"),
        "exact_match": float(np.mean((predicted == labels).all(axis=1))),
        "labels_per_image": float(labels.sum(axis=1).mean()),
        **by_class,
        "nll": negative_log_likelihood(two_logits, present),
        "ece": expected_calibration_error(softmax(two_logits, axis=1), present),
    }


def never_found(classes: dict[str, dict]) -> dict[str, int]:
    """The number of images of each class that is predicted for none of them.

    Args:
        classes: as from `class_scores`.
    """
    return {
        name: score["support"]
        for name, score in classes.items()
        if score["support"] and not score["recall"]
    }
