"""CoMatch's pseudo-labels and graph: the specification's step, identities, edge cases."""

import numpy as np
import pytest
import tensorflow as tf
from reference import l2, raw

from supcon_tf.losses.pseudo_labels import (
    align_distribution,
    graph_loss,
    pseudo_label_graph,
    smooth_pseudo_labels,
)
from supcon_tf.losses.supcon import supcon_loss

T = 0.2
LOGITS_WEAK = 3 * raw((4, 3), 0.8, 1.9)
LOGITS_STRONG = 0.5 * LOGITS_WEAK + raw((4, 3), 2.7, 0.6)
BASE = raw((4, 3), 0.6, 1.1)
WEAK = l2(BASE)
STRONG_0 = l2(BASE + 0.3 * raw((4, 3), 2.1, 1.6))
STRONG_1 = l2(BASE + 0.3 * raw((4, 3), 1.2, 2.6))
BANK = l2(raw((5, 3), 1.9, 0.9))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


BANK_CLASSES = softmax(2 * raw((5, 3), 1.4, 2.4))


def f32(x):
    return tf.constant(x, tf.float32)


def step_of_the_specification():
    probabilities = softmax(LOGITS_WEAK)
    average = (np.array([0.5, 0.3, 0.2]) + probabilities.mean(axis=0)) / 2
    aligned = align_distribution(f32(probabilities), f32(average))
    bank = f32(BANK), f32(BANK_CLASSES), tf.ones(5, tf.bool)
    return aligned, smooth_pseudo_labels(aligned, f32(WEAK), bank, temperature=T, alpha=0.9)


def test_aligned_and_smoothed_vectors():
    aligned, smoothed = step_of_the_specification()
    np.testing.assert_allclose(
        aligned,
        [
            [0.183312, 0.807743, 0.008945],
            [0.888752, 0.101389, 0.009859],
            [0.911185, 0.017282, 0.071533],
            [0.157785, 0.009487, 0.832728],
        ],
        atol=2e-6,
    )
    np.testing.assert_allclose(
        smoothed,
        [
            [0.207625, 0.777254, 0.015120],
            [0.826480, 0.159957, 0.013562],
            [0.854711, 0.070399, 0.074889],
            [0.202112, 0.028269, 0.769619],
        ],
        atol=2e-6,
    )


def test_the_bank_alone_votes_with_the_weights_of_the_specification():
    votes = f32(np.eye(5))
    found = smooth_pseudo_labels(
        tf.zeros((4, 5)), f32(WEAK), (f32(BANK), votes, tf.ones(5, tf.bool)), alpha=0.0
    )
    expected = [0.694646, 0.002447, 0.000055, 0.238100, 0.064752]
    np.testing.assert_allclose(found[0], expected, atol=2e-6)
    np.testing.assert_allclose(np.sum(found, axis=1), 1.0, rtol=1e-5)


def test_graph_vectors():
    _, smoothed = step_of_the_specification()
    products = smoothed.numpy() @ smoothed.numpy().T
    expected = [0.296131, 0.233310, 0.075573, 0.718679, 0.182002, 0.232374]
    np.testing.assert_allclose(products[np.triu_indices(4, 1)], expected, atol=3e-6)
    np.testing.assert_allclose(
        pseudo_label_graph(smoothed, 0.3)[1], [0, 0.581842, 0.418158, 0], atol=2e-6
    )
    np.testing.assert_allclose(pseudo_label_graph(smoothed, 0.8), np.eye(4))


@pytest.mark.parametrize(("threshold", "expected"), [(0.8, 0.626507), (0.3, 0.673310)])
def test_graph_loss_vectors(threshold, expected):
    _, smoothed = step_of_the_specification()
    graph = pseudo_label_graph(smoothed, threshold)
    found = graph_loss(graph, f32(STRONG_0), f32(STRONG_1), temperature=T)
    assert float(tf.reduce_mean(found)) == pytest.approx(expected, rel=2e-6)


def test_loops_alone_give_the_cross_entropy_of_the_own_pair():
    graph = pseudo_label_graph(f32(softmax(LOGITS_WEAK)), 1.5)
    found = graph_loss(graph, f32(STRONG_0), f32(STRONG_1), temperature=T)
    shares = softmax(STRONG_0 @ STRONG_1.T / T)
    np.testing.assert_allclose(found, -np.log(np.diag(shares) + 1e-7), rtol=1e-5)


def test_certain_pseudo_labels_give_supcon_between_the_views_with_the_own_pair():
    labels = np.array([0, 2, 0, 1])
    graph = pseudo_label_graph(f32(np.eye(3)[labels]), 0.8)
    np.testing.assert_allclose(graph[0], [0.5, 0, 0.5, 0])
    found = graph_loss(graph, f32(STRONG_0), f32(STRONG_1), temperature=T)
    # The contrasts of an anchor in a queue are the second views, its own among them.
    queue = tf.constant(labels), f32(STRONG_1), tf.ones(4, tf.bool)
    expected = [
        supcon_loss(labels[i : i + 1], f32(STRONG_0[i : i + 1]), queue=queue, temperature=T)[0]
        for i in range(4)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_alignment_with_the_batch_itself_is_uniform_and_with_a_uniform_average_the_identity():
    rows = np.tile([[0.7, 0.2, 0.1]], (3, 1))
    np.testing.assert_allclose(align_distribution(f32(rows), f32(rows[0])), 1 / 3, rtol=1e-6)
    mixed = softmax(LOGITS_WEAK)
    np.testing.assert_allclose(align_distribution(f32(mixed), f32([1 / 3] * 3)), mixed, rtol=1e-6)


def test_empty_slots_take_no_part_and_an_empty_bank_leaves_everything():
    probabilities = f32(softmax(LOGITS_WEAK))
    filled = tf.constant([True, False, True, False, False])
    bank = f32(BANK), f32(BANK_CLASSES), filled
    found = smooth_pseudo_labels(probabilities, f32(WEAK), bank, temperature=T, alpha=0.5)
    kept = [0, 2]
    shares = softmax(WEAK @ BANK[kept].T / T)
    expected = 0.5 * probabilities + 0.5 * shares @ BANK_CLASSES[kept]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    empty = (*bank[:2], tf.zeros(5, tf.bool))
    found = smooth_pseudo_labels(probabilities, f32(WEAK), empty, temperature=T, alpha=0.5)
    np.testing.assert_array_equal(found, probabilities)
    whole = (*bank[:2], tf.ones(5, tf.bool))
    found = smooth_pseudo_labels(probabilities, f32(WEAK), whole, temperature=T, alpha=1.0)
    np.testing.assert_allclose(found, probabilities, rtol=1e-6)


def test_queued_columns_join_the_graph_and_the_denominator():
    q, queued = f32(softmax(LOGITS_WEAK)), f32(np.vstack([BANK_CLASSES[:2], np.zeros((1, 3))]))
    graph = pseudo_label_graph(q, 0.0, queued).numpy()
    others = np.array(q) @ np.array(queued).T
    own = np.array(q) @ np.array(q).T
    np.fill_diagonal(own, 1.0)
    whole = np.hstack([own, others])
    np.testing.assert_allclose(graph, whole / whole.sum(axis=1, keepdims=True), rtol=1e-5)
    contrasts = np.vstack([STRONG_1, BANK[:3]])
    filled = tf.constant([True] * 6 + [False])
    found = graph_loss(f32(graph), f32(STRONG_0), f32(contrasts), temperature=T, filled=filled)
    shares = np.hstack([softmax(STRONG_0 @ contrasts[:6].T / T), np.zeros((4, 1))])
    np.testing.assert_allclose(found, -(graph * np.log(shares + 1e-7)).sum(axis=1), rtol=1e-4)


def test_no_gradient_reaches_the_graph_and_tiny_temperatures_are_finite():
    q, z0, z1 = f32(softmax(LOGITS_WEAK)), f32(STRONG_0), f32(STRONG_1)
    with tf.GradientTape() as tape:
        tape.watch([q, z0, z1])
        loss = tf.reduce_mean(graph_loss(pseudo_label_graph(q, 0.0), z0, z1, temperature=1e-3))
    gradients = tape.gradient(loss, [q, z0, z1])
    assert gradients[0] is None
    assert all(np.isfinite(one).all() for one in gradients[1:])
