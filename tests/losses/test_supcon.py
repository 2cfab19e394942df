import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from reference import l2, raw

from supcon_tf import SupConLoss, supcon_loss

EMBEDDINGS = l2(raw((4, 2, 3), 0.7, 1.3, 2.1))
LABELS = np.array([0, 1, 0, 2])
PER_ANCHOR_OUT = [9.227332, 6.300051, 5.502876, 7.551639, 5.463620, 7.602774, 10.521486, 4.957564]
PER_ANCHOR_IN = [5.795402, 6.300051, 1.425257, 7.551639, 1.386951, 7.602774, 7.050158, 4.957564]


def values(labels, embeddings, **arguments):
    return keras.ops.convert_to_numpy(supcon_loss(labels, embeddings, **arguments))


@pytest.mark.parametrize(("location", "expected"), [("out", PER_ANCHOR_OUT), ("in", PER_ANCHOR_IN)])
def test_per_anchor_vector(location, expected):
    found = values(LABELS, EMBEDDINGS, temperature=0.1, summation_location=location)
    np.testing.assert_allclose(found, expected, rtol=2e-6)


@pytest.mark.parametrize(
    ("labels", "arguments", "expected"),
    [
        (LABELS, {"temperature": 0.1}, 7.140918),
        (LABELS, {"temperature": 0.1, "summation_location": "in"}, 5.258724),
        (None, {"temperature": 0.1}, 6.608351),
        (LABELS, {"temperature": 0.5}, 2.449207),
        (LABELS, {"temperature": 0.5, "summation_location": "in"}, 2.276697),
        (None, {"temperature": 0.5}, 2.342693),
        (LABELS, {"temperature": 0.1, "contrast_mode": "one"}, 7.145474),
        (LABELS, {"temperature": 0.1, "scale_by_temperature": True}, 0.07 * 10.201311),
    ],
)
def test_mean_vector(labels, arguments, expected):
    np.testing.assert_allclose(values(labels, EMBEDDINGS, **arguments).mean(), expected, rtol=1e-6)


@pytest.mark.parametrize("location", ["out", "in"])
def test_equals_loops_on_three_views_and_uneven_classes(location):
    embeddings = l2(raw((7, 3, 5), 0.9, 1.7, 2.3))
    labels = np.array([3, 1, 3, 3, 0, 1, 8])
    expected = reference.supcon(labels, embeddings, 0.2, location)
    found = values(labels, embeddings, temperature=0.2, summation_location=location)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_single_view_excludes_or_counts_anchors_without_positives():
    single = EMBEDDINGS[:, :1]
    zero = values(LABELS, single, anchors_without_positives="zero")
    np.testing.assert_allclose(zero, [5.986146, 0, 6.706224, 0], rtol=1e-6)
    np.testing.assert_allclose(zero.mean(), 3.173092, rtol=1e-6)
    excluded = values(LABELS, single, anchors_without_positives="exclude")
    np.testing.assert_allclose(excluded.mean(), 6.346185, rtol=1e-6)
    np.testing.assert_array_equal(values(LABELS, EMBEDDINGS[:, 0]), excluded)


def test_no_positive_at_all_is_zero_with_zero_gradient():
    embeddings = tf.Variable(EMBEDDINGS[:, 0], dtype=tf.float32)
    with tf.GradientTape() as tape:
        loss = SupConLoss()(np.arange(4), embeddings)
    assert float(loss) == 0
    np.testing.assert_array_equal(tape.gradient(loss, embeddings), np.zeros((4, 3)))


@pytest.mark.parametrize(
    ("location", "expected"),
    [("out", [-0.521902, 10.716410, -10.298374]), ("in", [1.714272, 4.104794, -5.858850])],
)
def test_full_gradient_vector(location, expected):
    rows = tf.Variable(EMBEDDINGS, dtype=tf.float32)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(
            supcon_loss(LABELS, rows, summation_location=location, normalize=False)
        )
    np.testing.assert_allclose(tape.gradient(total, rows)[0, 0], expected, rtol=2e-5)


@pytest.mark.parametrize(
    ("location", "normalize", "expected"),
    [
        ("out", False, [2.569406, 4.860383, -7.476896]),
        ("out", True, [-1.025618, 0.994840, 0.021136]),
        ("in", False, [-0.253891, 4.436837, -4.225949]),
        ("in", True, [-2.302828, 2.233722, 0.047456]),
    ],
)
def test_anchor_gradient_vector(location, normalize, expected):
    """The gradient of the first anchor's own loss, in which its row occurs only as the anchor."""
    rows = tf.Variable(EMBEDDINGS, dtype=tf.float32)
    with tf.GradientTape() as tape:
        losses = supcon_loss(LABELS, rows, summation_location=location, normalize=normalize)
        first = losses[0]
    np.testing.assert_allclose(tape.gradient(first, rows)[0, 0], expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("location", ["out", "in"])
def test_invariant_to_order_of_images_views_labels_and_to_rotation(location):
    arguments = {"temperature": 0.1, "summation_location": location}
    before = values(LABELS, EMBEDDINGS, **arguments).mean()
    order = [2, 0, 3, 1]
    rotation = np.linalg.qr(raw((3, 3), 0.7, 2.9))[0]
    for labels, embeddings in (
        (LABELS[order], EMBEDDINGS[order]),
        (LABELS, EMBEDDINGS[:, ::-1]),
        (np.array([7, 4, 7, 0]), EMBEDDINGS),
        (LABELS, EMBEDDINGS @ rotation),
    ):
        np.testing.assert_allclose(
            values(labels, embeddings, **arguments).mean(), before, rtol=2e-6
        )


@pytest.mark.parametrize("location", ["out", "in"])
def test_identical_embeddings_give_log_of_the_other_rows(location):
    same = np.broadcast_to(EMBEDDINGS[:1, :1], (4, 2, 3))
    found = values(LABELS, same, summation_location=location)
    np.testing.assert_allclose(found, np.log(4 * 2 - 1), rtol=1e-6)


def test_unique_labels_equal_no_labels():
    np.testing.assert_array_equal(values(np.arange(4), EMBEDDINGS), values(None, EMBEDDINGS))


def test_in_is_at_most_out_and_equal_for_one_positive():
    outside = values(LABELS, EMBEDDINGS)
    inside = values(LABELS, EMBEDDINGS, summation_location="in")
    assert np.all(inside <= outside + 1e-5)
    one_positive = np.array([1, 3, 5, 7])  # The labels that occur once have the other view only.
    np.testing.assert_allclose(inside[one_positive], outside[one_positive], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("temperature", [0.005, 0.07, 10.0])
@pytest.mark.parametrize("location", ["out", "in"])
def test_finite_at_any_temperature_and_dtype(dtype, temperature, location):
    embeddings = np.concatenate([EMBEDDINGS * 300, np.zeros((1, 2, 3))])
    rows = tf.Variable(tf.cast(embeddings, dtype))
    with tf.GradientTape() as tape:
        loss = SupConLoss(temperature, summation_location=location)(np.array([0, 1, 0, 2, 1]), rows)
    assert loss.dtype == tf.float32
    assert np.isfinite(float(loss))
    assert np.all(np.isfinite(tf.cast(tape.gradient(loss, rows), tf.float32)))


def test_low_temperature_equals_loops():
    expected = reference.supcon(LABELS, EMBEDDINGS, 0.005)
    np.testing.assert_allclose(values(LABELS, EMBEDDINGS, temperature=0.005), expected, rtol=1e-5)


def test_normalizes_unless_told_otherwise():
    np.testing.assert_allclose(
        values(LABELS, 7 * EMBEDDINGS), values(LABELS, EMBEDDINGS), rtol=1e-5
    )
    assert not np.allclose(
        values(LABELS, 7 * EMBEDDINGS, normalize=False), values(LABELS, EMBEDDINGS)
    )


def test_same_in_graph_and_xla():
    eager = values(LABELS, EMBEDDINGS)
    for jit in (False, True):
        compiled = tf.function(supcon_loss, jit_compile=jit)(LABELS, EMBEDDINGS)
        np.testing.assert_allclose(compiled, eager, rtol=1e-6)


def test_serialization_round_trip():
    arguments = {
        "temperature": 0.3,
        "summation_location": "in",
        "contrast_mode": "one",
        "denominator_mode": "one_positive",
        "margin": 0.2,
        "positives_cap": 2,
        "positives_cap_seed": 5,
        "scale_by_temperature": True,
        "normalize": False,
        "anchors_without_positives": "zero",
        "block_size": 3,
        "reduction": "sum",
        "name": "mine",
    }
    loss = SupConLoss(**arguments)
    assert loss.get_config() == arguments
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()
    assert float(again(LABELS, EMBEDDINGS)) == float(loss(LABELS, EMBEDDINGS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0 and finite. Received: 0.0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"summation_location": "middle"}, "summation_location"),
        ({"anchors_without_positives": "drop"}, "anchors_without_positives"),
    ],
)
def test_refuses_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SupConLoss(**arguments)


def test_refuses_wrong_rank():
    with pytest.raises(ValueError, match=r"must be \[B, V, D\]"):
        supcon_loss(LABELS, EMBEDDINGS[0, 0])
