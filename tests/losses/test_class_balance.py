"""Class weights and logit adjustment against loops in float64."""

import math

import keras
import numpy as np
import pytest

from supcon_tf.losses.class_balance import (
    BalancedCrossEntropy,
    class_weights,
    logit_offsets,
    loss_balance,
)

COUNTS = [700, 40, 0, 3]


def scaled(weights):
    """So that the mean over the images is 1."""
    mean = sum(w * n for w, n in zip(weights, COUNTS, strict=True)) / sum(COUNTS)
    return [w / mean for w in weights]


def test_inverse_weights_are_one_over_the_count():
    expected = scaled([1 / n if n else 0.0 for n in COUNTS])
    np.testing.assert_allclose(class_weights(COUNTS, "inverse"), expected, rtol=1e-12)


@pytest.mark.parametrize("beta", [None, 0.0, 0.9, 0.9999])
def test_effective_weights_are_those_of_the_equation(beta):
    used = 0.999 if beta is None else beta
    # The geometric series that (1 - beta^n) / (1 - beta) sums up.
    sizes = [sum(used**power for power in range(n)) for n in COUNTS]
    expected = scaled([1 / size if size else 0.0 for size in sizes])
    np.testing.assert_allclose(class_weights(COUNTS, "effective", beta), expected, rtol=1e-9)


def test_effective_weights_lie_between_none_and_inverse():
    near = class_weights(COUNTS, "effective", 1 - 1e-9)
    np.testing.assert_allclose(near, class_weights(COUNTS, "inverse"), rtol=1e-4)
    np.testing.assert_allclose(class_weights([5, 9], "effective", 0.0), [1.0, 1.0], rtol=1e-12)


def reference_loss(labels, logits, weights, offsets, smoothing):
    """One value per row, term by term."""
    losses = []
    for label, row in zip(labels, np.asarray(logits, np.float64), strict=True):
        adjusted = [z + o for z, o in zip(row, offsets, strict=True)]
        total = sum(math.exp(z) for z in adjusted)
        loss = 0.0
        for index, z in enumerate(adjusted):
            target = (1 - smoothing) * (index == label) + smoothing / len(row)
            loss -= target * math.log(math.exp(z) / total)
        losses.append(weights[label] * loss)
    return losses


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(("weighted", "adjusted"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_the_loss_equals_loops(weighted, adjusted, smoothing):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(7, 4)).astype(np.float32), np.array([3, 0, 1, 3, 0, 1, 1])
    weights = [0.3, 1.7, 5.0, 9.0] if weighted else None
    offsets = [2.0, -1.0, 0.5, -3.0] if adjusted else None
    loss = BalancedCrossEntropy(smoothing, weights, offsets, reduction="none")
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    expected = reference_loss(labels, logits, weights or [1] * 4, offsets or [0] * 4, smoothing)
    for one in (loss, copy):
        np.testing.assert_allclose(one(labels, logits), expected, rtol=1e-5)


def test_the_offsets_are_tau_log_of_the_share():
    expected = [1.5 * math.log(n / 10) for n in (6, 3, 1)]
    np.testing.assert_allclose(logit_offsets([6, 3, 1], 1.5), expected, rtol=1e-12)
    assert np.isfinite(logit_offsets([6, 0], 1.0)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("balanced",), "class_weights must be inverse or effective. Received: 'balanced'"),
        (("inverse", 0.9), "class_weights_beta needs effective class weights. Received: 0.9"),
        ((None, 0.9), "class_weights_beta needs effective class weights. Received: 0.9"),
        (("effective", 1.0), r"class_weights_beta must be in \[0, 1\). Received: 1.0"),
        ((None, None, -1.0), "logit_adjustment must be at least 0. Received: -1.0"),
    ],
)
def test_refuses_settings_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        loss_balance(lambda: [3, 4], *arguments)


def test_images_are_counted_only_where_something_depends_on_them():
    assert loss_balance(lambda: pytest.fail("counted")) == {"weights": None, "offsets": None}
