"""Gradient caching: the gradient of the whole batch, a micro-batch at a time."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from engine.models import BATCH, batches, build

from supcon_tf import PairwiseModel, ProjectionHead, SupConLoss, make_strategy
from supcon_tf.engine.micro_batches import micro_batch_count, micro_batch_gradients
from supcon_tf.engine.optimizer_factory import make_optimizer
from supcon_tf.networks.copies import training_copy

SIZE = 4


def reference(model, views, labels):
    """One tape over all micro-batches, each encoded on its own; loss and gradients."""
    with tf.GradientTape() as tape:
        slices = [slice(start, start + SIZE) for start in range(0, BATCH, SIZE)]
        parts = [model.forward((views[part], labels[part])) for part in slices]
        outputs = tf.nest.map_structure(lambda *rows: tf.concat(rows, axis=0), *parts)
        total = sum(model.compute_losses(outputs).values()) + sum(model.losses)
    return outputs, total, tape.gradient(total, model.trainable_variables)


def state(model):
    return [np.asarray(v) for v in (*model.encoder.non_trainable_variables, *model.weights)]


def check_equal(model, twin, compiled=False):
    """A micro-batched step of `model` against the reference on `twin`, a model of equal weights."""
    views, labels = next(iter(batches()))

    @tf.function(jit_compile=compiled)
    def whole(views, labels):
        return reference(twin, views, labels)

    @tf.function(jit_compile=compiled)
    def step(views, labels):
        return micro_batch_gradients(model, (views, labels))

    outputs, loss, wanted = whole(views, labels)
    terms, gradients, found = step(views, labels)
    for left, right in zip(tf.nest.flatten(found), tf.nest.flatten(outputs), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(float(sum(terms.values())), float(loss), rtol=1e-6)
    for gradient, expected in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(
            gradient, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max()
        )
    for left, right in zip(state(model), state(twin), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "compiled"),
    [
        ("supcon_out", False),
        ("cross_entropy", False),
        ("triplet", False),
        pytest.param("supcon_out", True, marks=pytest.mark.slow),
        pytest.param("cross_entropy", True, marks=[pytest.mark.slow, pytest.mark.exhaustive]),
        pytest.param("triplet", True, marks=[pytest.mark.slow, pytest.mark.exhaustive]),
    ],
)
def test_equals_one_pass_over_the_batch(method, compiled):
    settings = {"regularizer": keras.regularizers.L2(0.05)}
    model = build("one_device", method, micro_batch_size=SIZE, **settings)
    check_equal(model, build("one_device", method, **settings), compiled)


def test_a_queue_is_pushed_once():
    settings = {"queue_size": 64, "ema_momentum": 0.9}
    model = build("one_device", micro_batch_size=SIZE, **settings)
    check_equal(model, build("one_device", **settings))
    model.train_step(next(iter(batches())))
    assert int(model.queue.pushed.numpy()) == 2 * BATCH


def test_parts_of_different_sizes_are_split_into_as_many():
    specs = {"a": tf.TensorSpec([12, 3]), "b": tf.TensorSpec([6])}
    assert micro_batch_count(specs, 4) == 3
    with pytest.raises(ValueError, match="must divide every part of the batch. Received: a part"):
        micro_batch_count({**specs, "c": tf.TensorSpec([4])}, 4)


def _with_dropout():
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, kernel_initializer=keras.initializers.GlorotUniform(1))(images)
    x = keras.layers.Dropout(0.5, seed=3)(x)
    features = keras.layers.GlobalAveragePooling2D()(x)
    with make_strategy("one_device").scope():
        encoder = training_copy(keras.Model(images, features))
        head = ProjectionHead(4, ())
        head.build((None, 8))
        head.set_weights([np.random.default_rng(0).normal(size=(8, 4))])
    model = PairwiseModel(encoder, head, SupConLoss(0.1), micro_batch_size=SIZE)
    model.compile(optimizer=make_optimizer("sgd", 0.1))
    return model


def test_dropout_is_the_same_in_both_passes():
    check_equal(_with_dropout(), _with_dropout())


def test_refuses_a_batch_that_is_not_a_multiple():
    model = build("one_device", micro_batch_size=3)
    with pytest.raises(ValueError, match="micro_batch_size must divide .* 16. Received: 3"):
        model.train_step(next(iter(batches())))


class Drawing(keras.layers.Layer):
    """A custom layer that adds random numbers in training, from a source of any kind."""

    def __init__(self, source, **kwargs):
        super().__init__(**kwargs)
        self.source = source
        self.seed = keras.random.SeedGenerator(0)
        self.generator = tf.random.Generator.from_seed(0)

    def call(self, features, training=None):
        draw = {
            "tf.random": lambda: tf.random.normal(tf.shape(features)),
            "dropout": lambda: tf.nn.dropout(tf.ones(tf.shape(features)), 0.5),
            "generator": lambda: self.generator.normal(tf.shape(features)),
            "inside a function": lambda: tf.function(tf.random.uniform)(tf.shape(features)),
            "keras.random": lambda: keras.random.normal(tf.shape(features), seed=self.seed),
        }[self.source]
        return features + draw() if training else features


def drawing(source, in_head=False):
    images = keras.Input((8, 8, 3))
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(images))
    layer = Drawing(source)
    encoder = keras.Model(images, features if in_head else layer(features))
    head = ProjectionHead(4, ())
    if in_head:
        head = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(4)])
    return PairwiseModel(encoder, head, SupConLoss(), micro_batch_size=SIZE)


@pytest.mark.parametrize(
    ("source", "operation"),
    [
        ("tf.random", "RandomStandardNormal"),
        ("dropout", "RandomUniform"),
        ("generator", "RngReadAndSkip"),
        ("inside a function", "RandomUniform"),
    ],
)
def test_random_numbers_that_cannot_be_repeated_are_refused(source, operation):
    with pytest.raises(ValueError, match=f"Received: {operation}. Draw with keras.random"):
        drawing(source)


def test_a_head_that_draws_is_refused_in_the_first_step():
    model = drawing("tf.random", in_head=True)
    model.compile("sgd", jit_compile=False)
    views, labels = next(iter(batches()))
    with pytest.raises(ValueError, match="Received: RandomStandardNormal. Draw with keras.random"):
        model.fit(views, labels, batch_size=BATCH, verbose=0)


def test_random_numbers_of_keras_are_repeated():
    model, twin = drawing("keras.random"), drawing("keras.random")
    twin.set_weights(model.get_weights())
    model.compile("sgd", jit_compile=False)
    check_equal(model, twin)
