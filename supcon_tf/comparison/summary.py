"""Means over seeds with their intervals, and paired differences from a reference."""

import math
import statistics
from collections.abc import Sequence

from scipy import stats

_CONFIDENCE = 0.95


def mean_interval(values: Sequence[float]) -> dict:
    """The mean of a score over seeds, and where the mean of all seeds would lie.

        mean +- t_{0.975, n - 1} s / sqrt(n)

    Args:
        values: one per seed; s is their standard deviation, with n - 1.

    Returns:
        `mean`, and `low` and `high`, which are None for one seed.

    Reference:
        Student 1908, "The Probable Error of a Mean".
    """
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return {"mean": mean, "low": None, "high": None}
    quantile = stats.t.ppf((1 + _CONFIDENCE) / 2, count - 1)
    half = float(quantile) * statistics.stdev(values) / math.sqrt(count)
    return {"mean": mean, "low": mean - half, "high": mean + half}


def paired_difference(values: Sequence[float], reference: Sequence[float]) -> dict:
    """As `mean_interval`, for the differences seed by seed.

    Args:
        values: one per seed.
        reference: of the same seeds.
    """
    return mean_interval([one - other for one, other in zip(values, reference, strict=True)])
