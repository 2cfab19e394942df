"""Every row of docs/reference/compatibility.md from the other's equations, in float64."""

import numpy as np
import pytest
import tensorflow as tf
from reference import l2, raw

from supcon_tf import SimCLRLoss, SupConLoss, TripletLoss, positives_per_anchor, supcon_loss

EMBEDDINGS = l2(raw((7, 3, 5), 0.9, 1.7, 2.3))
LABELS = np.array([3, 1, 3, 3, 0, 1, 8])

# What a batch may hold.
ROWS = {
    "two views": (LABELS, EMBEDDINGS[:, :2]),
    "one view": (LABELS, EMBEDDINGS[:, :1]),
    "no positives": (np.arange(7), EMBEDDINGS[:, :1]),
    "one class": (np.zeros(7, int), EMBEDDINGS[:, :2]),
    "round to 0": (
        np.array([0, 0, 1, 1]),
        np.array([[[1.0, 0]], [[1.0, 1e-3]], [[-1, 0]], [[-1, 2e-3]]]),
    ),
    "three points": (np.array([0, 0, 1]), np.array([[[1.0, 0]], [[0.6, 0.8]], [[0, 1.0]]])),
}


def pairs_of(labels, embeddings, temperature=0.5):
    """Logits, positives and negatives [N, N], and the number of positives, view-major."""
    rows = l2(np.float64(embeddings)).transpose(1, 0, 2).reshape(-1, embeddings.shape[-1])
    labels = np.tile(labels, embeddings.shape[1])
    same = labels[:, None] == labels
    positives = same & ~np.eye(len(rows), dtype=bool)
    return rows @ rows.T / temperature, positives, ~same, positives.sum(axis=1)


def log_probabilities(logits):
    """Of each row among the other rows."""
    others = np.exp(logits) * ~np.eye(len(logits), dtype=bool)
    return logits - np.log(others.sum(axis=1, keepdims=True))


def mean_of_nonzero(values):
    return np.mean(values[values > 0]) if np.any(values > 0) else 0.0


def supcontrast(labels, embeddings):
    logits, positives, _, count = pairs_of(labels, embeddings)
    return np.mean(-(positives * log_probabilities(logits)).sum(axis=1) / np.maximum(count, 1))


def pml_supcon(labels, embeddings):
    logits, positives, negatives, count = pairs_of(labels, embeddings)
    if not (positives.any() and negatives.any()):
        return 0.0
    losses = -(positives * log_probabilities(logits)).sum(axis=1) / np.maximum(count, 1)
    return mean_of_nonzero(losses)


def pml_ntxent(labels, embeddings):
    logits, positives, negatives, _ = pairs_of(labels, embeddings)
    if not (positives.any() and negatives.any()):
        return 0.0
    total = (np.exp(logits) * negatives).sum(axis=1, keepdims=True)
    return np.mean(np.log1p(total / np.exp(logits))[positives])


def pml_nca(labels, embeddings, scale=1.0):
    logits, positives, _, count = pairs_of(labels, embeddings, 1.0)
    log_p = log_probabilities(-scale * (2 - 2 * logits))
    shares = (np.exp(log_p) * positives).sum(axis=1)
    return np.where(count > 0, -np.log(np.where(count > 0, shares, 1.0)), 0.0)


def pml_triplet(labels, embeddings, margin=0.3, cosine=False):
    cosines, positives, negatives, _ = pairs_of(labels, embeddings, 1.0)
    d = -cosines if cosine else np.sqrt(np.maximum(0, 2 - 2 * cosines))
    hinge = np.maximum(0, d[:, :, None] - d[:, None, :] + margin)
    return mean_of_nonzero(hinge[positives[:, :, None] & negatives[:, None, :]])


def authors_one_view(labels, embeddings):
    """Per anchor with positives, which their code divides by their number twice."""
    logits, positives, _, count = pairs_of(labels, embeddings[:, :1])
    losses = -(positives * log_probabilities(logits)).sum(axis=1)[count > 0]
    return losses / count[count > 0] ** 2


def one_view_recipe(labels, embeddings):
    single = embeddings[:, :1]
    losses = supcon_loss(labels, single, temperature=0.5, anchors_without_positives="zero")
    count = positives_per_anchor(labels, single).numpy()
    return losses[count > 0] / count[count > 0]


def ntxent_recipe(labels, embeddings):
    loss = SupConLoss(
        0.5, denominator_mode="one_positive", anchors_without_positives="zero", reduction="none"
    )
    pairs = np.tile(positives_per_anchor(labels, embeddings), embeddings.shape[1])
    return np.sum(loss(labels, embeddings).numpy() * pairs) / max(1, np.sum(pairs))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(
    ("definition", "recipe"),
    [
        (supcontrast, SupConLoss(0.5, anchors_without_positives="zero")),
        (authors_one_view, one_view_recipe),
        (pml_supcon, SupConLoss(0.5)),
        (pml_ntxent, ntxent_recipe),
        (
            pml_triplet,
            TripletLoss(0.3, distance="euclidean", mining="all", average="active"),
        ),
        (
            lambda *batch: pml_triplet(*batch, cosine=True),
            lambda *batch: 0.5 * TripletLoss(0.6, mining="all", average="active")(*batch),
        ),
    ],
    ids=[
        "SupContrast",
        "one view",
        "SupConLoss",
        "NTXentLoss",
        "TripletMarginLoss",
        "cosine margin",
    ],
)
def test_definitions(definition, recipe, rows):
    if definition is pml_supcon and rows == "one class":
        assert definition(*ROWS[rows]) == 0  # A caveat of the table.
        assert float(recipe(*ROWS[rows])) > 1
    else:
        np.testing.assert_allclose(recipe(*ROWS[rows]), definition(*ROWS[rows]), atol=1e-6)


def test_pytorch_metric_learning_averages_what_is_not_0():
    """An anchor whose loss rounds to 0 in float32 counts here, and does not there."""
    labels = np.array([0, 0, 1, 1])
    rows = np.array([[[1.0, 0]], [[1.0, 0]], [[0.6, 0.8]], [[-1.0, 0]]])
    losses = SupConLoss(0.01, reduction="none")(labels, rows).numpy()
    np.testing.assert_array_equal(losses == 0, [True, True, False, True])
    assert float(SupConLoss(0.01)(labels, rows)) == pytest.approx(mean_of_nonzero(losses) / 4)


@pytest.mark.parametrize("rows", ROWS)
def test_ntxent_without_repeated_labels(rows):
    _, embeddings = ROWS[rows]
    if embeddings.shape[1] == 2:
        expected = pml_ntxent(np.arange(len(embeddings)), embeddings)
        np.testing.assert_allclose(SimCLRLoss(0.5)(None, embeddings), expected, rtol=1e-6)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_nca_is_the_inside_form_less_the_log_of_the_positives(rows, scale):
    labels, embeddings = ROWS[rows]
    options = {"summation_location": "in", "anchors_without_positives": "zero"}
    losses = supcon_loss(labels, embeddings, temperature=1 / (2 * scale), **options)
    count = pairs_of(labels, embeddings)[3]
    found = losses - np.log(np.maximum(count, 1))
    np.testing.assert_allclose(found, pml_nca(labels, embeddings, scale), atol=2e-6)


@pytest.mark.parametrize("rows", ["two views", "one view", "one class"])
def test_solo_learn_of_anchors_with_positives(rows):
    """Without positives it is the logarithm of 0."""
    labels, embeddings = ROWS[rows]
    logits, positives, _, count = pairs_of(labels, embeddings)
    inside = (np.exp(log_probabilities(logits)) * positives).sum(axis=1)
    losses = supcon_loss(
        labels,
        embeddings,
        temperature=0.5,
        summation_location="in",
        anchors_without_positives="zero",
    )
    found = (losses - np.log(np.maximum(count, 1)))[count > 0]
    np.testing.assert_allclose(found, -np.log(inside[count > 0]), atol=1e-6)
    assert np.all((inside == 0) == (count == 0))


def test_a_mask_of_supcontrast_is_positive_weights():
    """Of pairs of images, not symmetric; the other views are positives where the diagonal is 1."""
    mask = raw((7, 7), 1.1, 2.7) > 0.3
    logits, _, _, _ = pairs_of(LABELS, EMBEDDINGS)
    positives = np.tile(mask, (3, 3)) & ~np.eye(21, dtype=bool)
    log_p, count = log_probabilities(logits), positives.sum(axis=1)
    expected = -(positives * log_p).sum(axis=1) / np.maximum(count, 1)
    loss = SupConLoss(0.5, anchors_without_positives="zero", reduction="none")
    found = loss(None, EMBEDDINGS, positive_weights=mask)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_cross_batch_memory_is_a_queue_in_value_but_not_in_gradient():
    """It holds the batch itself too, detached; a queue is what it holds beside the batch."""
    earlier, earlier_labels = l2(raw((9, 5), 1.3, 0.8)), np.arange(9) % 4
    batch = tf.constant(EMBEDDINGS[:, 0])  # float64

    def memory(batch):
        rows = batch / tf.norm(batch, axis=1, keepdims=True)
        contrasts = tf.concat([tf.stop_gradient(rows), earlier], axis=0)
        logits = tf.matmul(rows, contrasts, transpose_b=True) / 0.5
        others = ~np.eye(7, 16, dtype=bool)
        labels = np.concatenate([LABELS, earlier_labels])
        positives = (LABELS[:, None] == labels) & others
        log_p = logits - tf.math.log(tf.reduce_sum(tf.exp(logits) * others, axis=1, keepdims=True))
        count = positives.sum(axis=1)
        losses = -tf.reduce_sum(log_p * positives, axis=1) / np.maximum(count, 1)
        return tf.reduce_sum(losses) / np.sum(count > 0)

    def queue(batch):
        contents = earlier_labels, earlier, np.ones(9, bool)
        return SupConLoss(0.5)(LABELS, batch, queue=contents)

    found = []
    for function in (memory, queue):
        with tf.GradientTape() as tape:
            tape.watch(batch)
            value = function(batch)
        found.append((float(value), tape.gradient(value, batch).numpy()))
    (expected, theirs), (value, ours) = found
    assert value == pytest.approx(expected, rel=1e-6)
    assert np.abs(ours - theirs).max() > 0.1 * np.abs(theirs).max()
