"""CACR against loops over pairs, in every variant: values, gradients, blocks."""

import numpy as np
import pytest
import tensorflow as tf
from reference import l2, raw

from supcon_tf import CACRLoss, cacr_loss

EMBEDDINGS = l2(raw((4, 3, 5), 0.7, 1.9, 0.6))
KEYS = l2(raw((4, 3, 5), 0.8, 1.6, 0.9))
LABELS = np.array([0, 1, 0, 2])
QUEUE_LABELS = np.array([2, 0, 1, 0, 7, 1])
FILLED = np.array([True, True, False, True, True, False])
QUEUE = (QUEUE_LABELS, l2(raw((6, 5), 1.3, 0.8)), FILLED)
DEFAULTS = {"t_positive": 1.0, "t_negative": 0.9, "cost": "euclidean", "rbf_t": 2.0}


def squared(one, other):
    return float(np.sum((one - other) ** 2))


class Loops:
    """Both terms of every query (view, image), in float64.

    Where no gradient flows through a weight, it is computed from the `frozen` embeddings.
    """

    def __init__(self, embeddings, options, labels=None, queue=None, keys=None, frozen=None):
        self.rows, self.frozen = l2(embeddings), l2(embeddings if frozen is None else frozen)
        self.options, self.labels, self.keys = DEFAULTS | options, labels, keys
        self.still = options.get("detach_weights", False)
        self.has_queue = queue is not None
        self.queued = (
            [] if queue is None else [(c, row) for c, row, on in zip(*queue, strict=True) if on]
        )
        batch, self.views, _ = embeddings.shape
        self.cells = [(x, i) for x in range(self.views) for i in range(batch)]

    def same(self, i, j):
        return i == j if self.labels is None else self.labels[i] == self.labels[j]

    def weights(self, query, others, t, still):
        """The softmax over rows, each given as it is and as it is where it is frozen."""
        x, i = query
        logits = []
        for row, fixed, is_queued in others:
            frozen = still or is_queued
            here = self.frozen[i, x] if frozen else self.rows[i, x]
            logits.append(t * squared(here, fixed if frozen else row))
        powers = np.exp(np.array(logits) - max(logits))
        return powers / powers.sum()

    def attraction(self, x, i):
        cells = [(y, j) for y, j in self.cells if (y, j) != (x, i) and self.same(i, j)]
        if self.keys is None:
            others = [(self.rows[j, y], self.frozen[j, y], False) for y, j in cells]
        else:
            others = [(self.keys[j, y], self.keys[j, y], False) for y, j in cells]
        if self.labels is not None:
            others += [(row, row, True) for c, row in self.queued if c == self.labels[i]]
        if not others:
            return 0.0
        still = self.still or self.has_queue
        weights = self.weights((x, i), others, self.options["t_positive"], still)
        return weights @ [squared(self.rows[i, x], row) for row, _, _ in others]

    def repulsion(self, x, i):
        """By the other view of the pair; all in one where the views are not told apart."""
        if self.labels is not None:
            groups = {0: [(y, j) for y, j in self.cells if not self.same(i, j)]}
        else:
            views = [x] if self.has_queue else range(x + 1, self.views)
            groups = {y: [(y, j) for v, j in self.cells if v == y and j != i] for y in views}
        found = {}
        for group, cells in groups.items():
            others = [(self.rows[j, y], self.frozen[j, y], False) for y, j in cells]
            own_class = None if self.labels is None else self.labels[i]
            others += [(row, row, True) for c, row in self.queued if c != own_class]
            if others:
                weights = self.weights((x, i), others, -self.options["t_negative"], self.still)
                found[group] = self._cost(weights, others, x, i, group)
        return found

    def _cost(self, weights, others, x, i, group):
        costs = np.array([squared(self.rows[i, x], row) for row, _, _ in others])
        if self.options["cost"] == "rbf":
            return weights @ np.exp(-self.options["rbf_t"] * costs)
        prior = self.options.get("positive_prior", 0.0)
        own = squared(self.rows[i, x], self.rows[i, group]) if prior else 0.0
        return (-weights @ costs - prior * own) / (1 - prior)

    def total(self, alpha, beta):
        attraction = np.mean([self.attraction(*cell) for cell in self.cells])
        by_pair = {}  # The values of the images, by the pair of views.
        for x, i in self.cells:
            for group, value in self.repulsion(x, i).items():
                by_pair.setdefault((x, group), []).append(value)
        means = [np.mean(values) for values in by_pair.values()]
        if self.options["cost"] == "rbf":
            means = np.log(means)
        return alpha * attraction + beta * np.mean(means)


def total(embeddings, options, **given):
    return Loops(embeddings, options, **given).total(0.7, 1.3)


CASES = {
    "batch": ({}, {}),
    "detached": ({"detach_weights": True, "t_positive": 2.0}, {}),
    "rbf": ({"cost": "rbf", "rbf_t": 1.5}, {}),
    "prior": ({"positive_prior": 0.2}, {}),
    "supervised": ({"supervised": True, "t_negative": 2.0}, {"labels": LABELS}),
    "supervised rbf": ({"supervised": True, "cost": "rbf"}, {"labels": LABELS}),
    "queue": ({}, {"queue": QUEUE}),
    "queue rbf": ({"cost": "rbf"}, {"queue": QUEUE}),
    "keys": ({"t_positive": 3.0}, {"queue": QUEUE, "keys": KEYS}),
    "keys detached": ({"detach_weights": True}, {"queue": QUEUE, "keys": KEYS}),
    "keys supervised": ({"supervised": True}, {"labels": LABELS, "queue": QUEUE, "keys": KEYS}),
}


def evaluate(options, labels=None, queue=None, keys=None, how="eager", weigh=False, **blocks):
    """Losses and the gradient of their mean, or of a sum that weighs each anchor differently."""

    def run(embeddings):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            losses = cacr_loss(
                labels, embeddings, queue=queue, keys=keys, alpha=0.7, beta=1.3, **options, **blocks
            )
            weights = tf.cos(tf.range(len(losses), dtype=tf.float32)) if weigh else 1.0
            mean = tf.reduce_mean(losses * weights)
        return losses, tape.gradient(mean, embeddings)

    if how != "eager":
        run = tf.function(run, jit_compile=how == "xla")
    # The rows are no unit vectors: the loss scales them.
    return [one.numpy() for one in run(tf.constant(1.5 * EMBEDDINGS, tf.float32))]


@pytest.mark.parametrize(("options", "given"), CASES.values(), ids=CASES)
def test_values_and_gradients_equal_loops_over_pairs(options, given):
    losses, gradient = evaluate(options, **given)
    assert losses.shape == (12,)
    at = 1.5 * EMBEDDINGS
    np.testing.assert_allclose(losses.mean(), total(at, options, **given), rtol=1e-5)
    for place in [(0, 0, 1), (2, 1, 0), (3, 2, 4), (1, 2, 2)]:
        step = np.zeros_like(at)
        step[place] = 1e-5
        high, low = (total(at + s, options, frozen=at, **given) for s in (step, -step))
        np.testing.assert_allclose(gradient[place], (high - low) / 2e-5, rtol=2e-3, atol=2e-6)


def test_values_per_anchor_are_view_major():
    loops = Loops(EMBEDDINGS, {})
    attraction = [loops.attraction(*cell) for cell in loops.cells]
    np.testing.assert_allclose(cacr_loss(None, EMBEDDINGS, beta=0.0), attraction, rtol=1e-5)
    # Three views have three pairs: the scale 2 / (V - 1) is 1.
    repulsion = [sum(loops.repulsion(*cell).values()) for cell in loops.cells]
    np.testing.assert_allclose(cacr_loss(None, EMBEDDINGS, alpha=0.0), repulsion, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_blocks_equal_the_whole(name):
    options, given = CASES[name]
    whole = evaluate(options, weigh=True, **given)
    assert np.abs(whole[1]).max() > 1e-2
    hows = [("eager", 5)] + [("xla", 7)] * (name in ("rbf", "keys supervised"))
    for how, size in hows:
        found = evaluate(options, how=how, weigh=True, block_size=size, **given)
        for one, other in zip(found, whole, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_no_gradient_reaches_the_keys_and_the_queue():
    labels, queue, filled = QUEUE
    queue, keys = tf.constant(queue, tf.float32), tf.constant(KEYS, tf.float32)
    embeddings = tf.constant(EMBEDDINGS, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch([embeddings, queue, keys])
        loss = CACRLoss()(None, embeddings, queue=(labels, queue, filled), keys=keys)
    of_batch, *others = tape.gradient(loss, [embeddings, queue, keys])
    assert np.abs(of_batch).max() > 1e-3
    assert others == [None, None]
