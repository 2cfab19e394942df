"""SINCERE and epsilon-SupInfoNCE: one positive in each denominator, against loops."""

import math

import numpy as np
import pytest
import tensorflow as tf
from losses.test_blocks import assert_same, evaluate
from reference import flatten, l2, raw

from supcon_tf import SupConLoss, supcon_loss
from supcon_tf.methods import METHODS

LABELS = np.array([3, 1, 3, 3, 0, 1, 8])
EMBEDDINGS = l2(raw((7, 2, 5), 0.9, 1.7, 2.3))
QUEUE_LABELS, QUEUE = np.array([8, 3, 1, 3, 0, 5]), l2(raw((6, 5), 1.3, 0.8))
FILLED = np.array([True, True, False, True, True, False])
MARGINS = [0.0, 0.25, 3.0]


def loops(labels, embeddings, temperature, margin, queue=(), anchors=None):
    """One value per anchor, view-major; every anchor has a positive."""
    labels, rows = flatten(labels, embeddings)
    every = [*zip(labels, rows, strict=True), *queue]
    losses = []
    for i in range(anchors or len(rows)):
        logits = [(label, float(row @ rows[i]) / temperature) for label, row in every]
        others = logits[:i] + logits[i + 1 :]
        negatives = sum(math.exp(s) for label, s in others if label != labels[i])
        terms = [
            -math.log(math.exp(s) / (math.exp(s - margin) + negatives))
            for label, s in others
            if label == labels[i]
        ]
        losses.append(sum(terms) / len(terms))
    return losses


@pytest.mark.parametrize("contrast_mode", ["all", "one"])
@pytest.mark.parametrize("margin", MARGINS)
def test_equals_loops(margin, contrast_mode):
    anchors = 7 if contrast_mode == "one" else None
    found = supcon_loss(
        LABELS,
        EMBEDDINGS,
        temperature=0.2,
        denominator_mode="one_positive",
        margin=margin,
        contrast_mode=contrast_mode,
    )
    expected = loops(LABELS, EMBEDDINGS, 0.2, margin, anchors=anchors)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("margin", MARGINS)
def test_methods_have_these_losses(margin):
    """SINCERE is the default of the loss; the other method's margin is its setting."""
    sincere = METHODS["sincere"].settings[0](0.2, reduction="none")
    expected = loops(LABELS, EMBEDDINGS, 0.2, 0.0)
    np.testing.assert_allclose(sincere(LABELS, EMBEDDINGS), expected, rtol=1e-5)
    other = METHODS["epsilon_supinfonce"].settings[0](0.2, margin=margin, reduction="none")
    expected = loops(LABELS, EMBEDDINGS, 0.2, margin)
    np.testing.assert_allclose(other(LABELS, EMBEDDINGS), expected, rtol=1e-5, atol=1e-6)


def test_without_margin_it_is_sincere_exactly():
    options = {"temperature": 0.1, "denominator_mode": "one_positive"}
    for one, other in zip(
        evaluate(LABELS, EMBEDDINGS, margin=0.0, **options),
        evaluate(LABELS, EMBEDDINGS, **options),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("location", ["out", "in"])
@pytest.mark.parametrize("margin", [0.25, 3.0])
def test_blocks_equal_the_whole(margin, location):
    options = {"denominator_mode": "one_positive", "margin": margin, "summation_location": location}
    whole = evaluate(LABELS, EMBEDDINGS, **options)
    without = evaluate(LABELS, EMBEDDINGS, **{**options, "margin": 0.0})
    assert np.abs(whole[1] - without[1]).max() > 1e-3
    for how, size in (("eager", 5), ("graph", 3), ("xla", 4)):
        assert_same(evaluate(LABELS, EMBEDDINGS, how, block_size=size, **options), whole)


@pytest.mark.parametrize("block_size", [None, 3])
@pytest.mark.parametrize("margin", MARGINS)
def test_queued_rows_take_part(margin, block_size):
    queue = [
        pair for pair, on in zip(zip(QUEUE_LABELS, QUEUE, strict=True), FILLED, strict=True) if on
    ]
    found = supcon_loss(
        LABELS,
        EMBEDDINGS,
        queue=(QUEUE_LABELS, QUEUE, FILLED),
        temperature=0.3,
        denominator_mode="one_positive",
        margin=margin,
        block_size=block_size,
    )
    expected = loops(LABELS, EMBEDDINGS, 0.3, margin, queue)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_margin_acts_on_logits_and_as_a_similarity_times_the_temperature():
    """One pair, one negative: a hinge at the margin as the temperature falls."""
    rows = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, -0.8]])
    for temperature in (0.1, 1e-3):
        margin = 0.5 / temperature
        found = supcon_loss(
            np.array([0, 0, 1]),
            rows,
            temperature=temperature,
            denominator_mode="one_positive",
            margin=margin,
            anchors_without_positives="zero",
        ).numpy()
        expected = np.logaddexp(0.8 / temperature - margin, 0.6 / temperature) - 0.8 / temperature
        assert found[0] == pytest.approx(expected, rel=1e-4)
    assert temperature * (found[0] + margin) == pytest.approx(0.5 - (0.8 - 0.6), rel=1e-3)


def test_other_positives_do_not_repel():
    """SupCon pushes a positive that is closer than the others away; SINCERE never does."""
    rows = tf.constant([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    labels = np.array([0, 0, 0, 1])
    slopes = {}
    for mode in ("all", "one_positive"):
        with tf.GradientTape() as tape:
            tape.watch(rows)
            anchor = supcon_loss(
                labels, rows, temperature=0.5, denominator_mode=mode, normalize=False
            )[0]
        slopes[mode] = tape.gradient(anchor, rows).numpy()[1] @ rows[0].numpy()
    assert slopes["all"] > 1e-3
    assert slopes["one_positive"] < -1e-3


@pytest.mark.parametrize("margin", [0.0, 0.25])
@pytest.mark.parametrize(
    "labels", [LABELS, np.zeros(7, int), np.arange(7)], ids=["mixed", "one class", "all classes"]
)
def test_is_finite_where_positives_or_negatives_are_missing(labels, margin):
    options = {"temperature": 1e-3, "denominator_mode": "one_positive", "margin": margin}
    for embeddings in (EMBEDDINGS, EMBEDDINGS[:, 0], np.ones((7, 2, 3))):
        losses, gradient = evaluate(labels, embeddings, **options)
        assert np.isfinite(losses).all()
        assert np.isfinite(gradient).all()
    alone = evaluate(np.zeros(7, int), EMBEDDINGS, **options)[0]
    np.testing.assert_allclose(alone, -margin, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": -0.1, "denominator_mode": "one_positive"}, "at least 0 .*Received: -0.1"),
        ({"margin": float("nan"), "denominator_mode": "one_positive"}, "finite. Received: nan"),
        ({"margin": 0.1}, "margin needs denominator_mode \"one_positive\". Received: 'all'"),
        ({"margin": 0.1, "denominator_mode": "only_negatives"}, "Received: 'only_negatives'"),
    ],
)
def test_refuses_margins(options, message):
    with pytest.raises(ValueError, match=message):
        SupConLoss(**options)
    with pytest.raises(ValueError, match=message):
        supcon_loss(LABELS, EMBEDDINGS, **options)
