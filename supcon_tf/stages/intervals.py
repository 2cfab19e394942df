"""Bootstrap intervals of scores: how far they would vary with other images of the same kind."""

import numpy as np
from scipy.sparse import csr_array

PERCENTILES = 2.5, 97.5
# Counts held at a time: 32 MiB.
_BLOCK_ELEMENTS = 2**22


def classification_intervals(counts: np.ndarray, resamples: int, seed: int) -> dict:
    """95 % percentile intervals of the scores of a confusion matrix.

    A resample draws as many images as there are, with replacement. Only their cells in the
    confusion matrix matter, so the counts of the cells are drawn instead, from the multinomial
    distribution. A class without images in a resample is left out of its means.

    Args:
        counts: int [C, C], true class by predicted class; not all 0.
        resamples: number of resamples, at least 1.
        seed: seed of the resamples.

    Returns:
        Lower and upper end, shares in [0, 1], of `top1`, `balanced_accuracy` and `macro_f1`.

    Reference:
        Efron 1979, "Bootstrap Methods: Another Look at the Jackknife".
    """
    rng, (rows, columns) = np.random.default_rng(seed), np.nonzero(counts)
    cells = counts[rows, columns]
    of_row, of_column = (_sums_by_class(places, len(counts)) for places in (rows, columns))
    block = max(1, _BLOCK_ELEMENTS // max(len(cells), len(counts)))
    found = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.multinomial(cells.sum(), cells / cells.sum(), size)  # [size, cells]
        hits = (drawn * (rows == columns)) @ of_row  # [size, C], like the next two.
        found.append(_scores(hits, true=drawn @ of_row, predicted=drawn @ of_column))
    names = ("top1", "balanced_accuracy", "macro_f1")
    return {
        name: np.percentile(values, PERCENTILES).tolist()
        for name, values in zip(names, np.concatenate(found, axis=1), strict=True)
    }


def _sums_by_class(classes, num_classes):
    """The matrix [cells, C] that sums counts of cells to counts of classes."""
    cells = np.arange(len(classes))
    ones = np.ones(len(classes), np.int64)
    return csr_array((ones, (cells, classes)), shape=(len(classes), num_classes))


def _scores(hits, true, predicted):
    """Top-1, balanced accuracy and macro F1, float [3, R], from counts by class, int [R, C]."""
    seen = true > 0
    recall = hits / np.maximum(true, 1)  # 0 where the class has no images.
    f1 = 2 * hits / np.maximum(true + predicted, 1)
    classes = seen.sum(axis=1)
    return np.stack(
        [
            hits.sum(axis=1) / true.sum(axis=1),
            recall.sum(axis=1) / classes,
            f1.sum(axis=1) / classes,
        ]
    )


def share_interval(share: float, images: int, resamples: int, seed: int) -> list[float]:
    """The interval of a share of images, as in `classification_intervals`.

    Args:
        share: in [0, 1].
        images: number of images.
        resamples: number of resamples, at least 1.
        seed: seed of the resamples.

    Returns:
        Lower and upper end.
    """
    drawn = np.random.default_rng(seed).binomial(images, share, resamples) / images
    return np.percentile(drawn, PERCENTILES).tolist()
