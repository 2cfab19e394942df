"""Several classes per image: overlap, sigmoid cross entropy and metrics against float64 loops."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import l2, raw

from supcon_tf import SupConLoss, alignment, positives_per_anchor, supcon_loss
from supcon_tf.losses.label_overlap import are_several, jaccard_overlap
from supcon_tf.losses.sigmoid import SigmoidCrossEntropy, classification_loss

# Sets that share one, two or no class; two of them are equal, two are empty.
SETS = [{0}, {0, 1}, {1, 2, 3}, {0, 1}, {3}, set(), {0, 2, 3}, set()]
LABELS = np.array([[name in classes for name in range(4)] for classes in SETS])
EMBEDDINGS = l2(raw((8, 2, 5), 0.7, 1.9, 0.6))
OVERLAP = [
    [1.0 if i == j else len(a & b) / max(1, len(a | b)) for j, b in enumerate(SETS)]
    for i, a in enumerate(SETS)
]


def test_overlap_is_the_jaccard_index_of_the_sets():
    found = jaccard_overlap(LABELS).numpy()
    np.testing.assert_allclose(found, OVERLAP, rtol=1e-6)
    assert found[1, 2] == pytest.approx(1 / 4)
    assert (found[5, 5], found[5, 7]) == (1, 0)  # Two images of nothing have nothing in common.


def test_several_classes_are_told_from_class_ids():
    assert are_several(LABELS)
    assert are_several(tf.constant(LABELS))
    for labels in (None, LABELS[:, 0], LABELS[:, :1], LABELS.astype(int), np.arange(3)):
        assert not are_several(labels)


@pytest.mark.parametrize("location", ["out", "in"])
def test_loss_with_overlap_equals_loops(location):
    """Every row of every view; the weights of an anchor's positives sum to 1."""
    temperature, (batch, views, _) = 0.3, EMBEDDINGS.shape
    rows = [EMBEDDINGS[image, view] for view in range(views) for image in range(batch)]
    expected = []
    for i, anchor in enumerate(rows):
        others = [a for a in range(len(rows)) if a != i]
        logit = {a: float(anchor @ rows[a]) / temperature for a in others}
        denominator = math.log(sum(math.exp(logit[a]) for a in others))
        weight = {a: OVERLAP[i % batch][a % batch] for a in others}
        total = sum(weight.values())
        if location == "out":
            terms = [weight[a] / total * (logit[a] - denominator) for a in others]
            expected.append(-sum(terms))
        else:
            inside = sum(weight[a] / total * math.exp(logit[a] - denominator) for a in others)
            expected.append(-math.log(inside))
    found = supcon_loss(
        None,
        EMBEDDINGS,
        positive_weights=jaccard_overlap(LABELS),
        temperature=temperature,
        summation_location=location,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_one_class_per_image_gives_the_loss_of_class_ids():
    ids = np.array([0, 1, 0, 2, 1, 1, 2, 3])
    weights = jaccard_overlap(ids[:, None] == np.arange(4))
    loss = SupConLoss(0.2)
    found = loss(None, EMBEDDINGS, positive_weights=weights)
    np.testing.assert_allclose(found, loss(ids, EMBEDDINGS), rtol=1e-6)
    one_hot = ids[:, None] == np.arange(4)
    for metric in (positives_per_anchor, alignment):
        np.testing.assert_allclose(metric(one_hot, EMBEDDINGS), metric(ids, EMBEDDINGS), rtol=1e-5)


def test_metrics_look_at_pairs_with_a_class_in_common():
    images = [sum(bool(a & b) or i == j for j, b in enumerate(SETS)) for i, a in enumerate(SETS)]
    np.testing.assert_array_equal(
        positives_per_anchor(LABELS, EMBEDDINGS), 2 * np.array(images) - 1
    )
    pairs = [
        (OVERLAP[i][j], np.sum((EMBEDDINGS[i, v] - EMBEDDINGS[j, u]) ** 2))
        for i in range(8)
        for j in range(8)
        for v in range(2)
        for u in range(2)
        if (i, v) != (j, u)
    ]
    weights, distances = np.array(pairs).T
    expected = np.average(distances, weights=weights)
    np.testing.assert_allclose(alignment(LABELS, EMBEDDINGS), expected, rtol=1e-5)
    identical = np.ones((8, 2, 5))
    assert float(alignment(LABELS, identical)) == pytest.approx(0, abs=1e-5)
    assert float(alignment(np.zeros((3, 2), bool), np.ones((3, 4)))) == 0  # No pair.


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 4.0]])
def test_sigmoid_cross_entropy_equals_loops(smoothing, weights):
    logits = 3 * raw((8, 4), 0.9, 1.7)
    expected = []
    for row, shown in zip(logits, LABELS, strict=True):
        terms = []
        for z, is_there, weight in zip(row, shown, weights or [1.0] * 4, strict=True):
            target = (1 - smoothing) * is_there + smoothing / 2
            p = 1 / (1 + math.exp(-z))
            terms.append(-weight * target * math.log(p) - (1 - target) * math.log(1 - p))
        expected.append(sum(terms))
    loss = classification_loss(True, smoothing, weights)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    for one in (loss, copy):
        np.testing.assert_allclose(one.call(LABELS, logits), expected, rtol=1e-5)
        assert float(one(LABELS, logits)) == pytest.approx(np.mean(expected), rel=1e-5)
        weighted = float(one(LABELS, logits, sample_weight=np.arange(8.0)))
        assert weighted == pytest.approx(np.mean(np.arange(8) * expected), rel=1e-5)


def test_sigmoid_cross_entropy_is_finite_for_any_logits():
    logits = tf.constant([[1e4, -1e4, 1e4, -1e4]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = SigmoidCrossEntropy()(np.array([[True, True, False, False]]), logits)
    assert float(loss) == pytest.approx(2e4)
    assert np.all(np.isfinite(tape.gradient(loss, logits)))


def test_logit_adjustment_is_for_one_class_an_image():
    with pytest.raises(ValueError, match="logit_adjustment needs images of one class each"):
        classification_loss(True, offsets=[0.0, 1.0])
