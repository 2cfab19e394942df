"""Earlier embeddings as further contrasts: against loops over every pair."""

import math

import numpy as np
import pytest
import tensorflow as tf
from reference import flatten, l2, raw

from supcon_tf import SimCLRLoss, SupConLoss, supcon_loss

LABELS = np.array([0, 1, 0, 2])
EMBEDDINGS = l2(raw((4, 2, 5), 0.7, 1.9, 0.6))
QUEUE_LABELS = np.array([2, 0, 1, 0, 7, 1])
QUEUE = l2(raw((6, 5), 1.3, 0.8))
FILLED = np.array([True, True, False, True, True, False])


def reference(labels, queue_labels, temperature, location, mode, embeddings=EMBEDDINGS):
    """One value per anchor, view-major: the batch's rows and the filled rows of the queue."""
    labels, rows = flatten(labels, embeddings)
    anchors = len(rows) if mode == "all" else len(LABELS)
    every = [*zip(labels, rows, strict=True)]
    every += [
        pair for pair, on in zip(zip(queue_labels, QUEUE, strict=True), FILLED, strict=True) if on
    ]
    losses = []
    for i in range(anchors):
        others = [
            (label, row @ rows[i] / temperature) for a, (label, row) in enumerate(every) if a != i
        ]
        denominator = math.log(sum(math.exp(logit) for _, logit in others))
        positives = [logit - denominator for label, logit in others if label == labels[i]]
        if location == "out":
            losses.append(-np.mean(positives))
        else:
            losses.append(-math.log(np.mean(np.exp(positives))))
    return losses


@pytest.mark.parametrize("block_size", [None, 3])
@pytest.mark.parametrize("mode", ["all", "one"])
@pytest.mark.parametrize("location", ["out", "in"])
def test_equals_loops_over_pairs(location, mode, block_size):
    found = supcon_loss(
        LABELS,
        EMBEDDINGS,
        queue=(QUEUE_LABELS, QUEUE, FILLED),
        temperature=0.3,
        summation_location=location,
        contrast_mode=mode,
        block_size=block_size,
    )
    expected = reference(LABELS, QUEUE_LABELS, 0.3, location, mode)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("location", ["out", "in"])
def test_gradient_equals_differences_of_the_loops(location):
    rows = tf.constant(EMBEDDINGS, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(rows)
        losses = supcon_loss(
            LABELS,
            rows,
            queue=(QUEUE_LABELS, QUEUE, FILLED),
            temperature=0.3,
            summation_location=location,
            normalize=False,
        )
        total = tf.reduce_sum(losses * tf.range(1.0, 9.0))
    found, expected = tape.gradient(total, rows).numpy(), np.zeros(EMBEDDINGS.shape)
    for place in np.ndindex(EMBEDDINGS.shape):
        sides = []
        for step in (1e-6, -1e-6):
            moved = EMBEDDINGS.copy()
            moved[place] += step
            values = reference(LABELS, QUEUE_LABELS, 0.3, location, "all", moved)
            sides.append(np.sum(values * np.arange(1, 9)))
        expected[place] = (sides[0] - sides[1]) / 2e-6
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_simclr_takes_the_queue_as_negatives():
    found = SimCLRLoss(0.3, reduction="none")(
        LABELS, EMBEDDINGS, queue=(QUEUE_LABELS, QUEUE, FILLED)
    )
    expected = reference(np.arange(4), np.full(6, -1), 0.3, "out", "all")
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_an_empty_queue_changes_nothing_and_no_gradient_reaches_it():
    embeddings, queue = tf.constant(EMBEDDINGS, tf.float32), tf.constant(QUEUE, tf.float32)
    loss = SupConLoss(0.3)
    empty = loss(LABELS, embeddings, queue=(QUEUE_LABELS, queue, np.zeros(6, bool)))
    np.testing.assert_allclose(empty, loss(LABELS, embeddings), rtol=1e-6)
    with tf.GradientTape() as tape:
        tape.watch([embeddings, queue])
        value = loss(LABELS, embeddings, queue=(QUEUE_LABELS, queue, FILLED))
    of_batch, of_queue = tape.gradient(value, [embeddings, queue])
    assert np.abs(of_batch).max() > 1e-3
    assert of_queue is None or np.abs(of_queue).max() == 0


@pytest.mark.parametrize(
    "settings",
    [{"positives_cap": 2}, {"positive_weights": np.ones((4, 4))}],
    ids=["cap", "weights"],
)
def test_refuses_what_does_not_go_with_a_queue(settings):
    labels = None if "positive_weights" in settings else LABELS
    with pytest.raises(ValueError, match=f"{next(iter(settings))} cannot be combined with a queue"):
        supcon_loss(labels, EMBEDDINGS, queue=(QUEUE_LABELS, QUEUE, FILLED), **settings)
