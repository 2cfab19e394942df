"""Distances of rows that are near each other, against differences in float64."""

import numpy as np
import pytest
import tensorflow as tf
from reference import l2, raw, triplet

from supcon_tf import CACRLoss, MaxMarginLoss, TripletLoss, alignment, uniformity
from supcon_tf.losses.cacr_keys import cacr_key_loss
from supcon_tf.losses.distances import squared_distances

LABELS = np.arange(24) % 4
RBF = {"cost": "rbf", "t_positive": 0.0, "t_negative": 0.0}


def batch(spread, collapsed):
    """Rows [24, 2, 16] about one point, or about one for each class."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(1 if collapsed == "batch" else 4, 16))
    noise = rng.normal(size=(24, 2, 16))
    rows = centres[LABELS % len(centres)][:, None] + spread * noise
    return rows.astype(np.float32)


def exact(rows, normalize=True):
    """Differences, not products, of view-major rows in float64: [N, N] squared distances."""
    rows = tf.reshape(tf.transpose(rows, [1, 0, 2]), [-1, rows.shape[-1]])
    if normalize:
        rows /= tf.norm(rows, axis=1, keepdims=True)
    return tf.reduce_sum(tf.square(rows[:, None] - rows[None, :]), axis=2)


def roots(squared):
    positive = squared > 0
    return tf.where(positive, tf.sqrt(tf.where(positive, squared, 1)), 0)


def masks(count=48):
    labels = np.tile(LABELS, 2)
    same = labels[:, None] == labels[None, :]
    return same & ~np.eye(count, dtype=bool), ~same


def mean_of(values, mask):
    return tf.reduce_mean(tf.boolean_mask(values, mask))


def exact_max_margin(squared, margin):
    positives, negatives = masks()
    apart = tf.square(tf.maximum(margin - roots(squared), 0))
    return 0.5 * (mean_of(squared, positives) + mean_of(apart, negatives))


def exact_triplet(distances, margin, mining):
    positives, negatives = masks()
    if mining == "hard":
        farthest = tf.reduce_max(tf.where(positives, distances, -9), axis=1)
        nearest = tf.reduce_min(tf.where(negatives, distances, 9), axis=1)
        return tf.reduce_mean(tf.maximum(farthest - nearest + margin, 0))
    hinge = tf.maximum(distances[:, :, None] - distances[:, None, :] + margin, 0)
    return mean_of(hinge, positives[:, :, None] & negatives[:, None, :])


def exact_kernel(squared):
    """The repulsion of CACR with uniform weights and the RBF cost: rows of later images' views."""
    kernel = tf.boolean_mask(tf.math.expm1(-2 * squared[:24, 24:]), ~np.eye(24, dtype=bool))
    return tf.math.log1p(tf.reduce_mean(kernel))


CASES = {
    "max margin": (
        MaxMarginLoss(average="balanced"),
        lambda rows: exact_max_margin(exact(rows), 1.0),
    ),
    "all triplets": (
        TripletLoss(3.0, distance="euclidean", mining="all"),
        lambda rows: exact_triplet(roots(exact(rows)), 3.0, "all"),
    ),
    "hard triplets": (
        TripletLoss(1e-5, distance="euclidean", mining="hard"),
        lambda rows: exact_triplet(roots(exact(rows)), 1e-5, "hard"),
    ),
    "not normalized": (
        TripletLoss(1e-9, mining="all", normalize=False),
        lambda rows: exact_triplet(exact(rows, normalize=False), 1e-9, "all"),
    ),
    "attraction": (
        CACRLoss(beta=0.0, supervised=True, t_positive=0.0),
        lambda rows: mean_of(exact(rows), masks()[0]),
    ),
    "repulsion": (CACRLoss(alpha=0.0, **RBF), lambda rows: exact_kernel(exact(rows))),
}


def value_and_gradient(function, rows):
    rows = tf.convert_to_tensor(rows)
    with tf.GradientTape() as tape:
        tape.watch(rows)
        value = function(rows)
    return value.numpy(), tape.gradient(value, rows).numpy()


def assert_near(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=0.01)
    error = np.linalg.norm(found[1] - expected[1])
    assert error <= 0.01 * np.linalg.norm(expected[1])


@pytest.mark.parametrize("spread", [1e-3, 1e-5])
@pytest.mark.parametrize("collapsed", ["batch", "classes"])
@pytest.mark.parametrize("case", CASES)
def test_losses_of_near_rows(case, collapsed, spread):
    loss, definition = CASES[case]
    rows = batch(spread, collapsed)
    expected = value_and_gradient(definition, rows.astype(np.float64))
    assert_near(value_and_gradient(lambda rows: loss(LABELS, rows), rows), expected)


@pytest.mark.parametrize("block_size", [None, 7])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("collapsed", ["batch", "classes"])
def test_near_rows_in_a_graph(collapsed, compiled, block_size):
    loss = MaxMarginLoss(average="balanced", block_size=block_size)
    _, definition = CASES["max margin"]
    rows = batch(1e-5, collapsed)
    call = tf.function(lambda rows: loss(LABELS, rows), jit_compile=compiled)
    expected = value_and_gradient(definition, rows.astype(np.float64))
    assert_near(value_and_gradient(call, rows), expected)


@pytest.mark.parametrize("spread", [1e-2, 1e-5])
@pytest.mark.parametrize("collapsed", ["batch", "classes"])
def test_metrics_of_near_rows(collapsed, spread):
    rows = batch(spread, collapsed)
    squared = exact(rows.astype(np.float64)).numpy()
    found = float(alignment(LABELS, rows))
    assert found == pytest.approx(squared[masks()[0]].mean(), rel=0.01)
    others = ~np.eye(48, dtype=bool)
    expected = np.log1p(np.mean(np.expm1(-2 * squared[others])))
    assert float(uniformity(rows)) == pytest.approx(expected, rel=0.01)


def test_costs_of_near_keys():
    queries, keys = batch(1e-4, "batch"), batch(3e-4, "batch")[:, 0]
    q, k = l2(queries.astype(np.float64)), l2(keys.astype(np.float64))
    costs = 0.5 * np.sum((q[:, :, None] - k) ** 2, axis=3)  # [B, V, B]
    own = costs[np.arange(24), :, np.arange(24)]
    # At a temperature this high every weight is uniform.
    expected = np.mean(own - (np.sum(costs, axis=2) - own) / 23, axis=1)
    found = cacr_key_loss(queries, keys, temperature=1e3, cost="euclidean")
    error = np.linalg.norm(found - expected)
    assert error <= 0.01 * np.linalg.norm(expected)


@pytest.mark.parametrize("dim", [1, 3, 512])
def test_duplicates_are_at_distance_0(dim):
    rows = l2(raw((6, dim), 0.9, 1.7)).astype(np.float32) + np.float32(5)
    rows[4] = rows[1]
    found = squared_distances(rows, rows, tf.range(6)).numpy()
    assert np.all(np.diag(found) == 0)
    assert found[1, 4] == found[4, 1] == 0


def test_duplicates_in_hard_triplets():
    rows = l2(np.random.default_rng(0).normal(size=(12, 1, 512))).astype(np.float32)
    rows[6:] = rows[:6]
    labels = np.arange(12) % 6
    expected = triplet(labels, rows.astype(np.float64), 1.5, "euclidean", "hard")
    found = TripletLoss(1.5, distance="euclidean", mining="hard")(labels, rows)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
