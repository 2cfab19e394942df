"""Metrics of a batch against slow loops, and by values known by hand."""

import keras
import numpy as np
import pytest
from reference import flatten, l2, raw

from supcon_tf import (
    AnchorsWithoutPositives,
    EffectiveRank,
    PositivesPerAnchor,
    alignment,
    uniformity,
)
from supcon_tf.losses.metrics import pair_metrics

LABELS = np.array([0, 1, 0, 2, 1])
EMBEDDINGS = 3.0 * l2(raw((5, 3, 4), 0.7, 1.9, 0.6))


def test_alignment_equals_the_mean_over_positive_pairs():
    labels, rows = flatten(LABELS, l2(EMBEDDINGS))
    pairs = [
        (i, p)
        for i in range(len(rows))
        for p in range(len(rows))
        if i != p and labels[i] == labels[p]
    ]
    expected = np.mean([np.sum((rows[i] - rows[p]) ** 2) for i, p in pairs])
    np.testing.assert_allclose(alignment(LABELS, EMBEDDINGS), expected, rtol=1e-5)


def test_alignment_without_labels_looks_at_the_views_of_an_image():
    rows = l2(EMBEDDINGS)
    pairs = [(b, i, j) for b in range(5) for i in range(3) for j in range(3) if i != j]
    expected = np.mean([np.sum((rows[b, i] - rows[b, j]) ** 2) for b, i, j in pairs])
    np.testing.assert_allclose(alignment(None, EMBEDDINGS), expected, rtol=1e-5)
    assert float(alignment(None, EMBEDDINGS[:, 0])) == 0.0  # No positive anywhere.


def test_uniformity_equals_the_mean_potential():
    _, rows = flatten(LABELS, l2(EMBEDDINGS))
    count = len(rows)
    potential = [
        np.exp(-2 * np.sum((rows[i] - rows[j]) ** 2))
        for i in range(count)
        for j in range(count)
        if i != j
    ]
    np.testing.assert_allclose(uniformity(EMBEDDINGS), np.log(np.mean(potential)), rtol=1e-5)


@pytest.mark.parametrize("count", [257, 511, 512, 767])
def test_uniformity_of_a_large_batch_looks_at_all_of_it(count):
    rows = np.zeros((count, 2), np.float32)
    rows[:, 0] = 1.0
    assert float(uniformity(rows)) == pytest.approx(0.0, abs=1e-6)
    rows[count * 3 // 4 :] = [0.0, 1.0]  # Rows at the end count too.
    share = 2 * 0.25 * 0.75 * (1 - np.exp(-4))
    assert float(uniformity(rows)) == pytest.approx(np.log(1 - share), abs=0.02)


def test_effective_rank_of_known_spectra():
    def rank(*batches):
        metric = EffectiveRank(4)
        for batch in batches:
            metric.update_state(None, np.asarray(batch, np.float32))
        return float(metric.result())

    eye = np.eye(4)
    assert float(EffectiveRank(4).result()) == 0.0
    assert rank(eye) == pytest.approx(4.0, rel=1e-5)
    assert rank(eye[:2], eye[2:]) == pytest.approx(4.0, rel=1e-5)
    assert rank(eye[:1], -eye[:1]) == pytest.approx(1.0, rel=1e-4)
    # Singular values 2 and 1: shares 2/3 and 1/3.
    entropy = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
    assert rank(np.repeat(eye[:1], 4, 0), eye[1:2]) == pytest.approx(np.exp(entropy), rel=1e-4)


def test_metrics_count_positives():
    labels, embeddings = np.array([0, 1, 0, 0, 2]), np.zeros((5, 1, 3))
    positives, none = PositivesPerAnchor(), AnchorsWithoutPositives()
    for metric in (positives, none):
        metric.update_state(labels, embeddings)
    assert float(positives.result()) == pytest.approx(6 / 5)
    assert float(none.result()) == pytest.approx(2 / 5)
    positives.update_state(labels, np.zeros((5, 2, 3)))
    assert float(positives.result()) == pytest.approx((6 / 5 + (5 + 1 + 5 + 5 + 1) / 5) / 2)


def test_metrics_are_means_over_batches_and_serializable():
    for metric in pair_metrics(4):
        again = keras.metrics.deserialize(keras.metrics.serialize(metric))
        assert again.get_config() == metric.get_config()
        if metric.name != "effective_rank":
            metric.update_state(LABELS, EMBEDDINGS)
            first = float(metric.result())
            metric.update_state(LABELS[::-1], np.ones((5, 3, 4)))
            metric.reset_state()
            metric.update_state(LABELS, EMBEDDINGS)
            assert float(metric.result()) == pytest.approx(first)
