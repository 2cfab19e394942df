"""CACR: vectors and identities of the specification, gradients, edge cases, wrong arguments."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import l2, raw

from supcon_tf import CACRLoss, cacr_loss
from supcon_tf.losses import blocks
from supcon_tf.losses.cacr import conditional_weights

# [V, B, D], as in the specification; [B, V, D] for the loss.
BY_VIEW = l2(0.6 * raw((3, 3, 3), 1.7, 0.6, 2.2) + raw((1, 3, 3), 1.0, 1.3, 2.9))
Z = BY_VIEW.transpose(1, 0, 2)

# Other sizes on every axis, for the loops.
EMBEDDINGS = l2(raw((4, 3, 5), 0.7, 1.9, 0.6))
KEYS = l2(raw((4, 3, 5), 0.8, 1.6, 0.9))
LABELS = np.array([0, 1, 0, 2])
QUEUE_LABELS = np.array([2, 0, 1, 0, 7, 1])
FILLED = np.array([True, True, False, True, True, False])
QUEUE = (QUEUE_LABELS, l2(raw((6, 5), 1.3, 0.8)), FILLED)


def terms(embeddings, labels=None, **options):
    """Attraction and repulsion of the whole batch."""
    return [
        float(CACRLoss(alpha, beta, **options)(labels, embeddings))
        for alpha, beta in ((1.0, 0.0), (0.0, 1.0))
    ]


@pytest.mark.parametrize(
    ("options", "attraction", "repulsion", "total"),
    [
        ({}, 1.474088, -0.942636, 0.531452),
        ({"t_negative": 2.0}, 1.474088, -0.797546, 0.676542),
        ({"t_positive": 0.0, "t_negative": 0.0}, 1.148453, -1.347704, -0.199252),
        ({"cost": "rbf", "rbf_t": 2.0}, 1.474088, -0.929036, None),
        ({"cost": "rbf", "t_negative": 0.0}, 1.474088, -1.098419, None),
        ({"positive_prior": 0.1}, 1.474088, -1.174979, None),
        ({"t_positive": 200.0, "t_negative": 500.0}, 1.646167, -0.746448, None),
    ],
)
def test_vectors(options, attraction, repulsion, total):
    assert terms(Z, **options) == pytest.approx([attraction, repulsion], abs=1.5e-6)
    if total is not None:
        assert float(CACRLoss(**options)(None, Z)) == pytest.approx(total, abs=1.5e-6)
    weighed = float(CACRLoss(0.3, 1.7, **options)(None, Z))
    assert weighed == pytest.approx(0.3 * attraction + 1.7 * repulsion, abs=3e-6)


def test_vectors_of_the_weights():
    def distances(one, other):
        return np.sum((one[:, None] - other) ** 2, axis=-1).astype(np.float32)

    last = np.stack([np.diag(distances(BY_VIEW[2], BY_VIEW[view])) for view in (0, 1)], axis=1)
    found = conditional_weights(last, np.full((3, 2), True))
    expected = [[0.875511, 0.124489], [0.610557, 0.389443], [0.846599, 0.153401]]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    others = ~np.eye(3, dtype=bool)
    found = conditional_weights(-0.9 * distances(BY_VIEW[1], BY_VIEW[2]), others).numpy()
    expected = [[0.908736, 0.091264], [0.872345, 0.127655], [0.518084, 0.481916]]
    np.testing.assert_allclose(found[others].reshape(3, 2), expected, atol=2e-6)
    assert np.all(found[~others] == 0)


def test_one_positive_is_the_alignment_whatever_t_positive():
    alignment = np.mean(np.sum((Z[:, 0] - Z[:, 1]) ** 2, axis=-1))
    assert alignment == pytest.approx(0.645384, abs=1e-6)
    for t in (0.0, 1.0, 30.0):
        assert terms(Z[:, :2], t_positive=t)[0] == pytest.approx(alignment, rel=1e-5)


def test_the_limits_are_the_farthest_positive_and_the_nearest_negative():
    squared = np.sum((BY_VIEW[:, None, :, None] - BY_VIEW[None, :, None]) ** 2, axis=-1)
    views, images = range(3), range(3)
    farthest = [max(squared[x, y, i, i] for y in views) for x in views for i in images]
    nearest = [
        min(squared[x, y, i, j] for j in images if j != i)
        for x in views
        for y in range(x + 1, 3)
        for i in images
    ]
    found = terms(Z, t_positive=1e4, t_negative=1e4)
    assert found == pytest.approx([np.mean(farthest), -np.mean(nearest)], rel=1e-5)


def test_both_terms_grow_with_their_t_and_keep_their_bounds():
    for embeddings in (Z, EMBEDDINGS, -Z[::-1]):
        found = np.array([terms(embeddings, t_positive=t, t_negative=t) for t in (0, 0.5, 2, 9)])
        assert np.all(np.diff(found, axis=0) > 1e-4)
        assert np.all((found[:, 0] >= 0) & (found[:, 0] <= 4))
        assert np.all((found[:, 1] <= 0) & (found[:, 1] >= -4))


def test_the_extreme_bounds_are_reached():
    """Opposite views; then opposite images."""
    point = np.array([0.6, 0.8])
    assert terms([[point, -point], [point, -point]]) == pytest.approx([4.0, -4.0], rel=1e-6)
    assert terms([[point, point], [-point, -point]]) == pytest.approx([0.0, -4.0], abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"cost": "rbf"}, {"positive_prior": 0.3}])
def test_equal_points_cost_nothing(options):
    assert terms(np.ones((4, 3, 5)), **options) == pytest.approx([0.0, 0.0], abs=1e-5)


def test_no_matrix_of_all_pairs_in_the_graph(monkeypatch):
    monkeypatch.setattr(blocks, "ON_GPU", blocks.ON_CPU)
    embeddings = tf.zeros([2048, 2, 4])

    @tf.function(jit_compile=True)
    def step(embeddings):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            loss = CACRLoss()(None, embeddings)
        return tape.gradient(loss, embeddings)

    text = step.experimental_get_compiler_ir(embeddings)(stage="optimized_hlo")
    assert "[4096,4096]" not in text
    assert "[1024,4096]" in text


def test_a_batch_of_unknown_size():
    signature = [tf.TensorSpec([None, 3, 5], tf.float32)]
    dynamic = tf.function(lambda z: cacr_loss(None, z, cost="rbf"), input_signature=signature)
    expected = cacr_loss(None, EMBEDDINGS, cost="rbf")
    np.testing.assert_allclose(dynamic(EMBEDDINGS.astype(np.float32)), expected, rtol=1e-5)


def gradient_of(function):
    rows = tf.Variable(EMBEDDINGS, dtype=tf.float32)
    with tf.GradientTape() as tape:
        value = function(rows)
    return tape.gradient(value, rows).numpy()


def test_detached_weights_have_the_gradient_of_a_log_sum_exp():
    t, views, batch = 0.8, 3, 4

    def distances(rows):  # [V, V, B, B]
        rows = tf.transpose(tf.math.l2_normalize(rows, axis=-1), [1, 0, 2])
        return tf.reduce_sum((rows[:, None, :, None] - rows[None, :, None]) ** 2, axis=-1)

    def attraction(rows):
        own = tf.linalg.diag_part(distances(rows))  # [V, V, B]
        other = ~np.eye(views, dtype=bool)[:, :, None]
        powers = tf.where(other, tf.exp(t * own), 0.0)
        return tf.reduce_mean(tf.math.log(tf.reduce_sum(powers, axis=1))) / t

    def repulsion(rows):
        other = ~np.eye(batch, dtype=bool)
        powers = tf.where(other, tf.exp(-t * distances(rows)), 0.0)
        logs = tf.math.log(tf.reduce_sum(powers, axis=3))
        return tf.reduce_mean([logs[x, y] for x in range(views) for y in range(x + 1, views)]) / t

    settings = {"t_positive": t, "t_negative": t, "detach_weights": True}
    for weights, smooth in (((1.3, 0.0), attraction), ((0.0, 1.3), repulsion)):
        loss = CACRLoss(*weights, **settings)
        found = gradient_of(lambda rows, loss=loss: loss(None, rows))
        expected = gradient_of(lambda rows, smooth=smooth: 1.3 * smooth(rows))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
        live = CACRLoss(*weights, **{**settings, "detach_weights": False})
        assert not np.allclose(gradient_of(lambda rows, live=live: live(None, rows)), found)


def test_labels_count_only_if_supervised():
    plain = cacr_loss(None, EMBEDDINGS)
    np.testing.assert_array_equal(cacr_loss(LABELS, EMBEDDINGS), plain)
    assert not np.allclose(cacr_loss(LABELS, EMBEDDINGS, supervised=True), plain)
    assert not CACRLoss().uses_labels
    assert CACRLoss(supervised=True).uses_labels


def test_supervised_queries_without_positives_or_negatives_drop_the_term():
    one_view, labels = EMBEDDINGS[:, :1], np.array([0, 1, 0, 1])
    lonely = cacr_loss(np.arange(4), one_view, beta=0.0, supervised=True)
    np.testing.assert_array_equal(lonely, np.zeros(4))
    alike = cacr_loss(np.zeros(4, int), one_view, alpha=0.0, supervised=True)
    np.testing.assert_array_equal(alike, np.zeros(4))
    assert np.all(cacr_loss(labels, one_view, beta=0.0, supervised=True) > 0.01)


@pytest.mark.parametrize("options", [{}, {"cost": "rbf"}, {"positive_prior": 0.3}])
def test_a_single_image_has_no_repulsion(options):
    attraction, repulsion = terms(EMBEDDINGS[:1], **options)
    assert attraction > 0.1
    assert repulsion == 0.0
    empty = (QUEUE[0], QUEUE[1], np.zeros(6, bool))
    if "positive_prior" not in options:
        loss = CACRLoss(0.0, **options)(None, EMBEDDINGS[:1], queue=empty)
        assert float(loss) == 0.0


@pytest.mark.parametrize("scale", [0.0, 1e-7, 1.0, 2e4])
@pytest.mark.parametrize(
    "options",
    [
        {"t_positive": 1e4, "t_negative": 1e4},
        {"cost": "rbf", "rbf_t": 1e3},
        {"positive_prior": 0.1},
        {"supervised": True},
    ],
)
@pytest.mark.parametrize("kind", ["different", "equal", "one image"])
def test_losses_and_gradients_are_finite(options, scale, kind):
    rows = {"different": EMBEDDINGS, "equal": np.ones((4, 3, 5)), "one image": EMBEDDINGS[:1]}[kind]
    variable = tf.Variable(scale * rows, dtype=tf.float32)
    with tf.GradientTape() as tape:
        loss = CACRLoss(**options)(LABELS[: len(rows)], variable)
    assert np.isfinite(float(loss))
    assert np.all(np.isfinite(tape.gradient(loss, variable)))


def test_images_may_be_permuted_and_the_space_rotated():
    order, rotation = [2, 0, 3, 1], np.linalg.qr(raw((5, 5), 1.1, 0.7))[0]
    for options in ({}, {"cost": "rbf"}, {"supervised": True}):
        loss = CACRLoss(**options)
        expected = float(loss(LABELS, EMBEDDINGS))
        changed = float(loss(LABELS[order] + 5, EMBEDDINGS[order] @ rotation))
        assert changed == pytest.approx(expected, rel=1e-5)


def test_the_loss_is_rebuilt_from_its_settings():
    loss = CACRLoss(0.5, 2.0, cost="rbf", rbf_t=3.0, supervised=True, reduction="sum")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert again.get_config() == loss.get_config()
    assert float(again(LABELS, EMBEDDINGS)) == float(loss(LABELS, EMBEDDINGS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1.0}, "alpha must be at least 0 and finite. Received: -1.0"),
        ({"beta": math.inf}, "beta must be at least 0 and finite. Received: inf"),
        ({"t_positive": -0.1}, "t_positive must be at least 0 and finite. Received: -0.1"),
        ({"t_negative": math.nan}, "t_negative must be at least 0 and finite. Received: nan"),
        ({"cost": "cosine"}, "cost must be one of euclidean, rbf. Received: 'cosine'"),
        ({"cost": "rbf", "rbf_t": 0.0}, "rbf_t must be above 0 and finite. Received: 0.0"),
        ({"rbf_t": 2.0}, "rbf_t needs cost='rbf'. Received: rbf_t=2.0"),
        ({"positive_prior": 1.0}, r"positive_prior must be None or in \[0, 1\). Received: 1.0"),
        ({"cost": "rbf", "positive_prior": 0.1}, "positive_prior needs cost='euclidean'"),
        ({"block_size": 0}, "block_size must be None or an int >= 1. Received: 0"),
    ],
)
def test_refuses_wrong_arguments(options, message):
    for make in (lambda: CACRLoss(**options), lambda: cacr_loss(None, EMBEDDINGS, **options)):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({"positive_prior": 0.1}, {"queue": QUEUE}, "cannot be combined with a queue. Received"),
        ({"positive_prior": 0.1, "supervised": True}, {}, "cannot be combined with supervised"),
        ({}, {"keys": KEYS}, "keys need a queue"),
        ({}, {"keys": KEYS[:, :2], "queue": QUEUE}, r"keys must have .*Received: \(4, 2, 5\)"),
        ({}, {"embeddings": EMBEDDINGS[:, :1]}, "needs two or more views of an image. Received: 1"),
        ({}, {"embeddings": EMBEDDINGS[:, 0]}, "needs two or more views of an image. Received: 1"),
    ],
)
def test_refuses_what_does_not_go_together(options, given, message):
    with pytest.raises(ValueError, match=message):
        cacr_loss(LABELS, given.pop("embeddings", EMBEDDINGS), **options, **given)


@pytest.mark.parametrize("name", ["supervised", "detach_weights"])
def test_switches_are_true_or_false(name):
    with pytest.raises(ValueError, match=f"{name} must be true or false. Received: 'false'"):
        CACRLoss(**{name: "false"})
