"""Classes as directions: prototypes, and the scale that makes their cosines probabilities."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from supcon_tf.stages.scores import unit_rows

_LOG_SCALE = (np.log(1.0), np.log(1000.0))
_SCALE_IMAGES = 200  # Of each class, at most.


def mean_directions(
    embeddings: np.ndarray, labels: np.ndarray, classes: Sequence[int]
) -> np.ndarray:
    """The prototype of each class: the mean of its embeddings, scaled to unit norm.

    Args:
        embeddings: float32 [N, F], unit norm.
        labels: int [N].
        classes: K labels, each of which occurs.

    Returns:
        float32 [K, F].

    Reference:
        Snell et al. 2017, "Prototypical Networks for Few-shot Learning", eq. 1. Differs: of unit
        norm, and compared by cosine.
    """
    means = [embeddings[labels == label].mean(axis=0) for label in classes]
    return unit_rows(np.stack(means))


def fit_scale(prototypes, gallery, gallery_labels, embeddings, labels) -> float:
    """The factor on cosines, from 1 to 1000, under which all classes are most likely.

    Every class counts alike. A new image is compared with the prototype of the others of its
    class, as it would be near its own.

    Args:
        prototypes: float [C, F], unit norm.
        gallery: float [N, F], unit norm: training images of the old classes.
        gallery_labels: int [N].
        embeddings: float [M, F], unit norm: images of the new classes.
        labels: int [M].
    """
    cosines, targets = [], []
    for label in np.unique(gallery_labels):
        rows = gallery[gallery_labels == label][:_SCALE_IMAGES]
        cosines.append(rows @ prototypes.T)
        targets += [label] * len(rows)
    for row, label in zip(embeddings, labels, strict=True):
        rest = embeddings[labels == label].sum(axis=0) - row
        if not rest.any():
            continue  # The only image of its class.
        found = prototypes @ row
        found[label] = unit_rows(rest[None])[0] @ row
        cosines.append(found[None])
        targets.append(label)
    cosines, targets = np.concatenate(cosines).astype(np.float64), np.array(targets)
    weights = 1.0 / np.bincount(targets)[targets]

    def loss(log_scale):
        likelihood = log_softmax(np.exp(log_scale) * cosines, axis=1)
        return -np.average(likelihood[np.arange(len(targets)), targets], weights=weights)

    return float(np.exp(minimize_scalar(loss, bounds=_LOG_SCALE, method="bounded").x))
