"""Bootstrap intervals of the scores of images that have several classes each."""

import numpy as np

from supcon_tf.stages.class_scores import THRESHOLD
from supcon_tf.stages.intervals import PERCENTILES

# Weights of images held at a time: 32 MiB in float64.
_BLOCK_ELEMENTS = 2**22


def label_intervals(
    probabilities: np.ndarray, labels: np.ndarray, resamples: int, seed: int
) -> dict:
    """95 % percentile intervals of scores of several classes per image.

    A resample draws as many images as there are, with replacement: each image gets the number of
    times that it is drawn as its weight. A class without images in a resample is left out of its
    means.

    Args:
        probabilities: float [N, C].
        labels: bool [N, C].
        resamples: number of resamples, at least 1.
        seed: seed of the resamples.

    Returns:
        Lower and upper end, shares in [0, 1], of `micro_f1`, `macro_f1` and
        `mean_average_precision`.
    """
    rng, images = np.random.default_rng(seed), len(labels)
    block, found = max(1, _BLOCK_ELEMENTS // images), []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.multinomial(images, np.full(images, 1 / images), size).astype(float)
        found.append(_scores(drawn, probabilities, labels))
    names = ("micro_f1", "macro_f1", "mean_average_precision")
    return {
        name: np.percentile(values, PERCENTILES).tolist()
        for name, values in zip(names, np.concatenate(found, axis=1), strict=True)
    }


def _scores(weights, probabilities, labels):
    """Micro F1, macro F1 and mean average precision, float [3, R], of weights [R, N] of images."""
    predicted = probabilities >= THRESHOLD
    hits = weights @ (predicted & labels)  # [R, C], like the next two.
    true, claimed = weights @ labels, weights @ predicted
    seen = true > 0
    classes = np.maximum(seen.sum(axis=1), 1)
    f1 = 2 * hits / np.maximum(true + claimed, 1)
    micro = 2 * hits.sum(axis=1) / np.maximum((true + claimed).sum(axis=1), 1)
    precision = np.stack(
        [
            _average_precisions(weights, probabilities[:, number], labels[:, number])
            for number in range(labels.shape[1])
        ],
        axis=1,
    )
    return np.stack(
        [micro, (f1 * seen).sum(axis=1) / classes, (precision * seen).sum(axis=1) / classes]
    )


def _average_precisions(weights, scores, is_there):
    """The average precision of one class, float [R], of weights [R, N] of the images.

    The sum, over the distinct scores in falling order, of the precision of all images with at least
    that score, times the recall that the images with that score add; 0 without an image.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # Last of equal scores.
    ranked = weights[:, order]
    hits = np.cumsum(ranked * is_there[order], axis=1)[:, ends]
    taken = np.cumsum(ranked, axis=1)[:, ends]
    added = np.diff(hits, axis=1, prepend=0.0)
    return (added * hits / np.maximum(taken, 1)).sum(axis=1) / np.maximum(hits[:, -1], 1)
