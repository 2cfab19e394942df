"""Calibration: how far probabilities can be trusted, and the factors that calibrate them."""

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from supcon_tf.stages.scores import (
    expected_calibration_error,
    negative_log_likelihood,
    unit_rows,
)

_TEMPERATURES, _SCALES = (0.05, 20.0), (1.0, 1000.0)
_SCALE_IMAGES = 200  # Of each old class, at most.


def calibration_scores(logits: np.ndarray, labels: np.ndarray, temperature: float) -> dict:
    """Calibration before and after dividing the logits by a temperature.

    Args:
        logits: float [N, C].
        labels: int [N].
        temperature: above 0.

    Returns:
        `temperature`, and `nll` (nats) and `ece` with it and, as `nll_uncalibrated` and
        `ece_uncalibrated`, without it.
    """
    scores = {"temperature": temperature}
    for ending, values in (("", logits / temperature), ("_uncalibrated", logits)):
        scores[f"nll{ending}"] = negative_log_likelihood(values, labels)
        scores[f"ece{ending}"] = expected_calibration_error(softmax(values, axis=1), labels)
    return scores


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature between 0.05 and 20 that minimizes the negative log likelihood.

    One extra image that belongs to every class in equal parts is added: otherwise a few images that
    are all classified correctly would make every probability 0 or 1.

    Args:
        logits: float [N, C] of images that were not trained on.
        labels: int [N].

    Reference:
        Guo et al. 2017, section 4.2. The extra image acts as a prior, like the smoothed targets of
        Platt 1999.
    """

    def loss(temperature):
        likelihoods = log_softmax(logits / temperature, axis=1)
        of_labels = likelihoods[np.arange(len(labels)), labels]
        return -np.sum(of_labels) - np.mean(likelihoods)

    return _minimize(loss, _TEMPERATURES)


def fit_scale(
    prototypes: np.ndarray,
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    embeddings: np.ndarray,
    labels: np.ndarray,
) -> float:
    """The factor on cosines to prototypes, from 1 to 1000, that makes the labels likeliest.

    Every class has the same weight. A new image is compared with the prototype of its class's other
    images, as it would be too near a prototype that includes it. One extra image is added, as in
    `fit_temperature`.

    Args:
        prototypes: float [C, F], unit norm.
        gallery: float [N, F], unit norm: training images of the old classes.
        gallery_labels: int [N].
        embeddings: float [M, F], unit norm: images of the new classes.
        labels: int [M].
    """
    old_classes = np.unique(gallery_labels)
    rows = [np.flatnonzero(gallery_labels == label)[:_SCALE_IMAGES] for label in old_classes]
    rows = np.concatenate(rows)
    sums = np.zeros(prototypes.shape, embeddings.dtype)
    np.add.at(sums, labels, embeddings)
    others = unit_rows(sums[labels] - embeddings)
    new = embeddings @ prototypes.T  # [M, C]
    new[np.arange(len(new)), labels] = np.sum(others * embeddings, axis=1)
    kept = others.any(axis=1)  # Not the only image of its class.
    cosines = np.concatenate([gallery[rows] @ prototypes.T, new[kept]]).astype(np.float64)
    targets = np.concatenate([gallery_labels[rows], labels[kept]])
    weights = 1.0 / np.bincount(targets)[targets]

    def loss(scale):
        likelihoods = log_softmax(scale * cosines, axis=1)
        of_targets = likelihoods[np.arange(len(targets)), targets]
        return -np.average(of_targets, weights=weights) - np.mean(likelihoods) / len(targets)

    return _minimize(loss, _SCALES)


def _minimize(loss: Callable[[float], float], bounds: tuple[float, float]) -> float:
    """The positive number within bounds at which a loss is least, searched for on a log scale."""
    found = minimize_scalar(lambda log: loss(np.exp(log)), bounds=np.log(bounds), method="bounded")
    return float(np.exp(found.x))
