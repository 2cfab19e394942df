import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import l2, raw

from supcon_tf import MemoryQueue, ProjectionHead
from supcon_tf.losses.pairs import unit_norm
from supcon_tf.networks.initial import initial_weights


def test_unit_norm_equals_division_by_the_norm():
    rows = 1e3 * raw((5, 4), 0.7, 1.9)
    np.testing.assert_allclose(unit_norm(rows), l2(rows), rtol=1e-6)


def test_unit_norm_of_zero_is_zero_with_zero_gradient():
    rows = tf.Variable(tf.zeros([2, 3]))
    with tf.GradientTape() as tape:
        out = unit_norm(rows)
    np.testing.assert_array_equal(out, np.zeros((2, 3)))
    np.testing.assert_array_equal(tape.gradient(out, rows), np.zeros((2, 3)))


def test_unit_norm_survives_float16_overflow():
    rows = tf.constant([[6e4, 6e4, 0.0]], tf.float16)
    np.testing.assert_allclose(unit_norm(rows), [[0.5**0.5, 0.5**0.5, 0]], rtol=1e-3)


def test_head_equals_matrix_products():
    features = raw((4, 6), 0.7, 1.9).astype(np.float32)
    with initial_weights(0):
        head = ProjectionHead(3, (5,))
        found = head(features)
    hidden, bias, projection = (weight.numpy() for weight in head.weights)
    expected = l2(np.maximum(features @ hidden + bias, 0) @ projection)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_linear_head_has_one_kernel():
    head = ProjectionHead(3, ())
    head.build((None, 6))
    assert [tuple(weight.shape) for weight in head.weights] == [(6, 3)]


def test_half_precision_embeddings_are_float32():
    keras.utils.set_random_seed(0)  # Weights may leave every ReLU at 0, and the norm with it.
    head = ProjectionHead(3, (5,), dtype="mixed_bfloat16")
    out = head(np.ones((2, 4), np.float32))
    assert out.dtype == tf.float32
    np.testing.assert_allclose(tf.norm(out, axis=1), [1, 1], rtol=1e-5)


def test_head_round_trips_in_a_saved_model(tmp_path):
    inputs = keras.Input((6,))
    model = keras.Model(inputs, ProjectionHead(3, (5, 4))(inputs))
    model.save(tmp_path / "head.keras")
    again = keras.saving.load_model(tmp_path / "head.keras")
    features = raw((4, 6), 0.7, 1.9)
    np.testing.assert_array_equal(again(features), model(features))


def test_refuses_wrong_sizes():
    with pytest.raises(ValueError, match="Received: 0"):
        ProjectionHead(0)


def test_queue_is_first_in_first_out():
    queue = MemoryQueue(5, 2)
    rows = np.arange(14, dtype=np.float32).reshape(7, 2)
    for start, stop in ((0, 3), (3, 6), (6, 7)):
        queue.push(np.arange(start, stop), tf.constant(rows[start:stop]))
        labels, embeddings, filled = (part.numpy() for part in queue.contents())
        assert filled.sum() == min(stop, 5)
        kept = labels[filled]
        assert sorted(kept) == list(range(max(0, stop - 5), stop))
        np.testing.assert_array_equal(embeddings[filled], rows[kept])


def test_queue_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="must hold a whole batch. Received: 6 rows"):
        MemoryQueue(5, 2).push(np.zeros(6, int), tf.zeros([6, 2]))
    with pytest.raises(ValueError, match="at least 1. Received: 0 and 2"):
        MemoryQueue(0, 2)


def test_queue_round_trip():
    queue = MemoryQueue(5, 2, name="memory")
    again = keras.layers.deserialize(keras.layers.serialize(queue))
    assert again.get_config() == queue.get_config()
