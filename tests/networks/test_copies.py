"""The encoder as it is trained computes what Keras's own layers do."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from supcon_tf import (
    PairwiseModel,
    ProjectionHead,
    SupConLoss,
    UserError,
    build_encoder,
    portable_copy,
    training_copy,
)
from supcon_tf.networks.copies import PRECISIONS, FusedBatchNormalization, frozen_copy


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


IMAGES = np.random.default_rng(1).random((4, 8, 8, 3)).astype(np.float32)


def standardizing():
    """A layer whose statistics are constants, made of its weights."""
    layer = keras.layers.Normalization(axis=-1)
    layer.adapt(np.random.default_rng(0).normal(3.0, 2.0, (50, 8, 8, 3)))
    return layer


@keras.saving.register_keras_serializable("tests")
class Composite(keras.layers.Layer):
    """A custom layer with batch norm inside, and a setting."""

    def __init__(self, power=2.0, **kwargs):
        super().__init__(**kwargs)
        self.power, self.norm = power, keras.layers.BatchNormalization()

    def build(self, shape):
        self.norm.build(shape)

    def call(self, inputs, training=None):
        return self.norm(inputs, training=training) * self.power

    def get_config(self):
        return {**super().get_config(), "power": self.power}


class Table(keras.layers.Layer):
    """A custom layer with a table that its configuration does not say."""

    def __init__(self, table=None, **kwargs):
        super().__init__(**kwargs)
        self.table = np.ones(3, np.float32) if table is None else table

    def call(self, inputs):
        return inputs * self.table

    def get_config(self):
        return super().get_config()


class Nameless(keras.layers.Layer):
    """A custom layer that gives no configuration."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


def convolution(**settings):
    return keras.layers.Conv2D(3, 3, padding="same", **settings)


def twice(*layers):
    def applied(x):
        for layer in (*layers, *layers):
            x = layer(x)
        return x

    return applied


def inner(*layers):
    return keras.Sequential([keras.Input((8, 8, 3)), *layers])


KINDS = {
    "standardized": lambda: twice(standardizing()),
    "layers called twice": lambda: twice(convolution(), keras.layers.BatchNormalization()),
    "a shared model": lambda: twice(inner(standardizing(), convolution())),
    "a frozen model inside": lambda: inner(
        convolution(trainable=False), keras.layers.BatchNormalization(trainable=False)
    ),
    "a custom layer": lambda: Composite(3.0),
    "a wrapped layer": lambda: keras.layers.TimeDistributed(keras.layers.Dense(3)),
    "a normalized kernel": lambda: keras.layers.SpectralNormalization(convolution()),
    "other dtypes": lambda: twice(convolution(dtype="float64")),
    "dropout": lambda: keras.layers.Dropout(0.5),
    "random flips": lambda: keras.layers.RandomFlip(),
}
COPIES = {
    "training": training_copy,
    "bfloat16": lambda model: training_copy(model, "mixed_bfloat16"),
    "any size": lambda model: training_copy(model, any_size=True),
    "there and back": lambda model: portable_copy(training_copy(model)),
    "moving average": frozen_copy,
}


def encoder_with(kind):
    images = keras.Input((8, 8, 3))
    model = keras.Model(images, keras.layers.GlobalAveragePooling2D()(kind(images)))
    rng = np.random.default_rng(2)
    for layer in model._flatten_layers():
        is_adapted = isinstance(layer, keras.layers.Normalization)
        for weight in () if is_adapted or layer._layers else layer.weights:
            weight.assign(rng.uniform(0.1, 0.9, weight.shape))
    return model


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_copy_computes_what_the_encoder_does(kind, copied):
    encoder = encoder_with(KINDS[kind]())
    before = [np.copy(variable) for variable in encoder.variables]
    copy = COPIES[copied](encoder)
    for one in (encoder, copy):  # The next random numbers are the same too.
        for old, new in zip(before, one.variables, strict=True):
            np.testing.assert_allclose(old, new, rtol=1e-6)
    tolerance = 0.05 if copied == "bfloat16" else 1e-5
    expected = encoder(IMAGES).numpy()
    np.testing.assert_allclose(copy(IMAGES), expected, atol=tolerance * np.abs(expected).max())
    trainable = [copied != "moving average" and weight.trainable for weight in encoder.weights]
    assert [weight.trainable for weight in copy.weights] == trainable


@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_that_would_compute_something_else_is_refused(copied):
    encoder = encoder_with(Table(np.array([1.0, 5.0, 9.0], np.float32)))
    with pytest.raises(UserError, match=r"computes different outputs: they are off by \d+\.\d%"):
        COPIES[copied](encoder)


def test_a_layer_without_a_configuration_is_refused():
    with pytest.raises(UserError, match="encoder 'functional.*' cannot be copied"):
        training_copy(encoder_with(Nameless(lambda x: 2 * x)))


def test_batch_norm_inside_other_layers_is_synchronized_too():
    norms = [
        layer
        for layer in training_copy(encoder_with(Composite()))._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert [norm.synchronized for norm in norms] == [True]


def test_the_kept_average_of_an_encoder_computes_what_the_average_does(tmp_path):
    """Also where the weights hold integers, such as the number of images adapted to."""
    images = keras.Input((8, 8, 3))
    x = convolution()(standardizing()(images))
    encoder = training_copy(keras.Model(images, keras.layers.GlobalAveragePooling2D()(x)))
    model = PairwiseModel(encoder, ProjectionHead(4, ()), SupConLoss(), ema_momentum=0.9)
    model.compile(keras.optimizers.SGD(0.5), jit_compile=False)
    model.fit(np.stack([IMAGES, IMAGES], axis=1), np.array([0, 0, 1, 1]), verbose=0)
    kept = model.kept()["encoder"]
    kept.save(tmp_path / "encoder.keras")
    loaded = keras.saving.load_model(tmp_path / "encoder.keras")
    expected = model.ema_encoder(IMAGES)
    assert np.abs(expected - model.encoder(IMAGES)).max() > 1e-4
    for one in (kept, loaded):
        np.testing.assert_allclose(one(IMAGES), expected, rtol=1e-5, atol=1e-6)
