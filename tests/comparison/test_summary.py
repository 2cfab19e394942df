"""Means over seeds: against SciPy's tests, and by hand."""

import pytest
from scipy import stats

from supcon_tf.comparison.summary import mean_interval, paired_difference

VALUES, OTHERS = [0.91, 0.95, 0.88, 0.94, 0.90], [0.90, 0.91, 0.89, 0.90, 0.89]


def test_the_interval_is_students():
    found = mean_interval(VALUES)
    low, high = stats.ttest_1samp(VALUES, 0).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    # By hand: the quantile of one degree of freedom is 12.706.
    two = mean_interval([1.0, 3.0])
    assert two == pytest.approx({"mean": 2.0, "low": 2 - 12.7062, "high": 2 + 12.7062}, abs=1e-4)


def test_the_difference_is_paired_by_seed():
    found = paired_difference(VALUES, OTHERS)
    low, high = stats.ttest_rel(VALUES, OTHERS).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    shuffled = paired_difference(VALUES, sorted(OTHERS))
    assert shuffled["mean"] == pytest.approx(found["mean"])
    assert shuffled["low"] != pytest.approx(found["low"])
    with pytest.raises(ValueError, match="zip"):
        paired_difference(VALUES, OTHERS[:4])


def test_one_seed_has_no_interval():
    assert mean_interval([0.5]) == {"mean": 0.5, "low": None, "high": None}
