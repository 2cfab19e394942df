"""Products in full float32 from factors that TF32 holds."""

import numpy as np
import pytest
import tensorflow as tf

from supcon_tf.losses import products
from supcon_tf.losses.distances import squared_distances


def rounded_to_tf32(values):
    """Float64 of the nearest numbers with 10 bits of mantissa."""
    mantissa, exponent = np.frexp(values.astype(np.float64))
    return np.ldexp(np.round(mantissa * 2**11) / 2**11, exponent)


def unit_rows(count, seed):
    """Rows of unit norm, float32 [count, 128]."""
    rows = np.random.default_rng(seed).normal(size=(count, 128)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """A device that rounds the factors of every product to TF32."""

    def matmul(left, right, transpose_b=False):
        right = right.numpy().T if transpose_b else right.numpy()
        exact = rounded_to_tf32(left.numpy()) @ rounded_to_tf32(right)
        return tf.constant(exact, tf.float32)

    monkeypatch.setattr(products, "_rounds_to_tf32", lambda: True)
    monkeypatch.setattr(products.tf, "matmul", matmul)


def test_products_keep_what_tf32_loses(as_on_a_gpu):
    anchors, rows = unit_rows(7, 0), np.concatenate([unit_rows(7, 0), unit_rows(5, 1)])
    exact = anchors.astype(np.float64) @ rows.astype(np.float64).T
    plain = rounded_to_tf32(anchors) @ rounded_to_tf32(rows).T
    assert np.abs(plain - exact).max() > 1e-5
    found = products.row_products(tf.constant(anchors), tf.constant(rows))
    np.testing.assert_allclose(found, exact, rtol=0, atol=3e-7)


def test_gradients_of_distances_keep_what_tf32_loses(as_on_a_gpu):
    """Rows a few percent apart, where the two terms of the gradient cancel."""
    rows = np.repeat(unit_rows(3, 0), 4, axis=0) + 0.04 * unit_rows(12, 1)
    weights = np.random.default_rng(2).uniform(size=(12, 12))
    weights *= np.repeat(np.repeat(np.eye(3), 4, axis=0), 4, axis=1)  # Only within a class.
    variable = tf.constant(rows)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        distances = squared_distances(variable, variable, tf.range(12))
        total = tf.reduce_sum(tf.cast(weights, tf.float32) * distances)
    exact = rows.astype(np.float64)
    both = weights + weights.T
    expected = 2.0 * (both.sum(axis=1)[:, None] * exact - both @ exact)
    found = tape.gradient(total, variable)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("shape", [(6, 128), (2, 6, 128)], ids=["rows", "views"])
def test_gradients_are_those_of_the_plain_product(monkeypatch, shape):
    anchors = tf.constant(unit_rows(int(np.prod(shape[:-1])), 2).reshape(shape))
    rows = tf.constant(unit_rows(5, 3))
    weights = tf.random.stateless_normal([*shape[:-1], 5], seed=[0, 1])

    def gradients():
        with tf.GradientTape() as tape:
            tape.watch([anchors, rows])
            total = tf.reduce_sum(weights * products.row_products(anchors, rows))
        return tape.gradient(total, [anchors, rows])

    expected = gradients()
    monkeypatch.setattr(products, "_rounds_to_tf32", lambda: True)
    for found, one in zip(gradients(), expected, strict=True):
        np.testing.assert_allclose(found, one, atol=1e-6)


def test_float64_is_multiplied_as_it_is(monkeypatch):
    monkeypatch.setattr(products, "_rounds_to_tf32", lambda: True)
    rows = tf.constant(unit_rows(4, 4), tf.float64)
    found = products.row_products(rows, rows)
    assert found.dtype == tf.float64
    np.testing.assert_allclose(found, rows.numpy() @ rows.numpy().T, rtol=1e-14)
