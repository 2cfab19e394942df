"""The encoder as it is trained computes what Keras's own layers do."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from supcon_tf import UserError, build_encoder, portable_copy, training_copy
from supcon_tf.networks.copies import PRECISIONS, FusedBatchNormalization


def both(shape, **settings):
    layers = [
        kind(momentum=0.8, epsilon=1e-3, **settings)
        for kind in (FusedBatchNormalization, keras.layers.BatchNormalization)
    ]
    rng = np.random.default_rng(0)
    for layer in layers:
        layer.build(shape)
    values = [rng.uniform(0.5, 2.0, weight.shape) for weight in layers[0].weights]
    for layer in layers:
        layer.set_weights(values)
    return layers, tf.constant(rng.normal(2.0, 3.0, shape), tf.float32)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(5, 4, 3, 6), (7, 6), (5, 1, 1, 6)])
def test_fused_batch_norm_equals_keras(shape, training):
    """Outputs, gradients and moving statistics; also where the kernel does not apply."""
    layers, inputs = both(shape)
    upstream = tf.constant(np.random.default_rng(1).normal(size=shape), tf.float32)
    found = []
    for layer in layers:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=training)
        gradients = tape.gradient(outputs, [inputs, *layer.trainable_weights], upstream)
        found.append([outputs, *gradients, *layer.get_weights()])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_frozen_batch_norm_keeps_its_statistics():
    layers, inputs = both((5, 4, 3, 6))
    for layer in layers:
        layer.trainable = False
    ours, theirs = (layer(inputs, training=True) for layer in layers)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    for left, right in zip(*(layer.get_weights() for layer in layers), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_there_and_back(precision):
    keras.utils.set_random_seed(0)
    encoder = build_encoder("resnet8", 16, 0.25)
    images = np.random.default_rng(0).random((4, 16, 16, 3)).astype(np.float32)
    trained = training_copy(encoder, precision)
    assert sum(isinstance(layer, FusedBatchNormalization) for layer in trained.layers) == 9
    assert trained.get_layer("stem_conv").compute_dtype == precision.removeprefix("mixed_")
    assert trained(images).dtype == tf.float32
    tolerance = 1e-6 if precision == "float32" else 0.02
    np.testing.assert_allclose(trained(images), encoder(images), atol=tolerance)
    back = portable_copy(trained)
    np.testing.assert_array_equal(back(images), encoder(images))
    assert not any(isinstance(layer, FusedBatchNormalization) for layer in back.layers)
    assert {layer.compute_dtype for layer in back.layers} == {"float32"}
    assert [weight.path for weight in back.weights] == [weight.path for weight in encoder.weights]


def test_nested_models_are_copied_too():
    inner = build_encoder("resnet8", 16, 0.25)
    images = keras.Input((16, 16, 3))
    outer = keras.Model(images, keras.layers.Dense(3)(inner(images)))
    trained = training_copy(outer)
    layers = list(trained._flatten_layers())
    assert sum(isinstance(layer, FusedBatchNormalization) for layer in layers) == 9
    inputs = np.random.default_rng(0).random((2, 16, 16, 3)).astype(np.float32)
    np.testing.assert_allclose(trained(inputs), outer(inputs), rtol=1e-5)
    np.testing.assert_array_equal(portable_copy(trained)(inputs), outer(inputs))


def test_frozen_layers_stay_frozen_and_the_others_free():
    encoder = build_encoder("resnet8", 16, 0.25)
    encoder.get_layer("stem_conv").trainable = False
    for copy in (training_copy(encoder), portable_copy(training_copy(encoder))):
        flags = [weight.path for weight in copy.trainable_weights]
        assert flags == [weight.path for weight in encoder.trainable_weights]
    encoder.trainable = False
    assert training_copy(encoder).trainable_weights == []


@pytest.mark.parametrize("make", [training_copy, lambda model: training_copy(model, "float16")])
def test_refuses_what_cannot_be_copied(make):
    class Own(keras.Model):
        pass

    with pytest.raises(UserError, match="Received: (Own|'float16')"):
        make(Own())


def test_a_copy_of_any_size_computes_what_encoders_of_those_sizes_do():
    encoder = build_encoder("resnet8", 8, 0.25)
    free = training_copy(encoder, any_size=True)
    for size in (8, 12):
        images = np.random.default_rng(size).random((3, size, size, 3)).astype(np.float32)
        fixed = build_encoder("resnet8", size, 0.25)
        fixed.set_weights(encoder.get_weights())
        np.testing.assert_allclose(free(images), fixed(images), rtol=1e-5, atol=1e-6)
