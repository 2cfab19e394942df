"""Bootstrap intervals against SciPy's over images, and against known distributions."""

import time

import numpy as np
import pytest
from scipy.stats import binom, bootstrap
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score

from supcon_tf.stages import intervals
from supcon_tf.stages.intervals import classification_intervals, share_interval


def _rising(classes):
    shares = np.arange(1, classes + 1)
    return shares / shares.sum()


def drawn(images, classes, right=0.6, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.choice(classes, images, p=_rising(classes)))
    guesses = rng.integers(classes, size=images)
    return labels, np.where(rng.random(images) < right, labels, guesses)


def test_intervals_equal_scipys_bootstrap_over_images():
    labels, predicted = drawn(120, 3)
    labels[0] = 0
    found = classification_intervals(confusion_matrix(labels, predicted), 4000, seed=0)
    statistics = {
        "top1": lambda places: np.mean(labels[places] == predicted[places]),
        "balanced_accuracy": lambda at: balanced_accuracy_score(labels[at], predicted[at]),
        "macro_f1": lambda at: f1_score(labels[at], predicted[at], average="macro"),
    }
    for name, statistic in statistics.items():
        expected = bootstrap(
            (np.arange(120),),
            statistic,
            n_resamples=500,
            vectorized=False,
            method="percentile",
            rng=np.random.default_rng(1),
        ).confidence_interval
        np.testing.assert_allclose(found[name], expected, atol=0.025)
        assert found[name][0] < statistic(np.arange(120)) < found[name][1]


def test_the_interval_of_a_share_is_the_binomials():
    found = share_interval(0.8, 250, 20_000, seed=0)
    np.testing.assert_allclose(found, binom.ppf([0.025, 0.975], 250, 0.8) / 250, atol=0.005)


def test_a_class_that_a_resample_lacks_is_left_out_of_it():
    """An image of class 0 that is right, and one of class 1 that is wrong.

    A quarter of the resamples has the first one twice, and hence balanced accuracy 1; a quarter has
    the second one twice, and hence 0.
    """
    found = classification_intervals(np.array([[1, 0], [1, 0]]), 2000, seed=0)
    assert found["balanced_accuracy"] == [0.0, 1.0]


def test_the_seed_decides_and_blocks_change_nothing(monkeypatch):
    counts = confusion_matrix(*drawn(400, 5))
    first, again, other = (classification_intervals(counts, 300, seed) for seed in (1, 1, 2))
    assert first == again != other
    monkeypatch.setattr(intervals, "_BLOCK_ELEMENTS", 50)  # Blocks of 2 resamples.
    assert classification_intervals(counts, 300, 1) == first


@pytest.mark.parametrize("counts", [[[1, 0], [0, 0]], [[0, 1], [0, 0]]])
def test_one_image(counts):
    found = classification_intervals(np.array(counts), 100, seed=0)
    assert all(ends == [counts[0][0]] * 2 for ends in found.values())


def test_many_images_and_classes_take_a_second():
    counts = confusion_matrix(*drawn(10_000, 100, right=0.3))
    start = time.process_time()
    classification_intervals(counts, 1000, seed=0)
    assert time.process_time() - start < 5
