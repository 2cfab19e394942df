"""Trainings whose classes have other ids: the same weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from supcon_tf import PairwiseModel, ProjectionHead, SupConLoss, make_strategy
from supcon_tf.data.views import sharding_off
from supcon_tf.methods.joint import JointModel
from supcon_tf.networks.initial import initial_weights
from supcon_tf.networks.queue import MemoryQueue

NUMBERS = [0, 1, 2]
NAMES = {
    "uint8": [255, 0, 128],
    "uint16": [65535, 0, 32768],
    "int64": [-1, 2**32 - 1, -(2**63)],
    "uint64": [2**64 - 1, 2**63, 1],
}


def trained(make, names, dtype, strategy="one_device"):
    """The trained weights after some steps."""
    with make_strategy(strategy).scope(), initial_weights(0):
        images = keras.Input((8, 8, 3))
        x = keras.layers.Conv2D(4, 3, activation="relu")(images)
        encoder = keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))
        model = make(encoder, ProjectionHead(6, ()))
        model.compile(optimizer=keras.optimizers.SGD(0.5))
    views = np.random.default_rng(0).random((3, 6, 2, 8, 8, 3)).astype(np.float32)
    labels = np.array(names, dtype)[np.arange(18).reshape(3, 6) % 3]
    stream = sharding_off(tf.data.Dataset.from_tensor_slices((views, labels)))
    model.fit(stream, epochs=2, shuffle=False, verbose=0)
    return [weight.numpy() for weight in model.trainable_weights]


def with_queue(encoder, head):
    return PairwiseModel(encoder, head, SupConLoss(0.5), queue_size=24, ema_momentum=0.5)


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", NAMES)
def test_a_training_with_a_memory_queue(dtype):
    expected = trained(with_queue, NUMBERS, "int32")
    assert_equal(trained(with_queue, NAMES[dtype], dtype), expected)


@pytest.mark.multi_device
@pytest.mark.parametrize("dtype", ["uint16", "uint64"])
@pytest.mark.slow
def test_two_replicas(dtype):
    expected = trained(with_queue, NUMBERS, "int32", "mirrored")
    assert_equal(trained(with_queue, NAMES[dtype], dtype, "mirrored"), expected)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "uint32", "uint64"])
def test_classes_of_a_classifier_may_have_any_dtype(dtype):
    def make(encoder, head):
        return JointModel(encoder, head, 3, temperature=0.5)

    assert_equal(trained(make, NUMBERS, dtype), trained(make, NUMBERS, "int32"))


def test_the_queue_keeps_the_classes_apart():
    queue = MemoryQueue(4, 2)
    queue.push(np.array([2**64 - 1, 2**32, 0, 2**63], np.uint64), np.zeros((4, 2)))
    labels, _, filled = queue.contents()
    assert len(set(labels.numpy().tolist())) == 4
    assert np.all(filled)
    with pytest.raises(ValueError, match="labels must be one class id per image"):
        queue.push(np.zeros((2, 2), np.int64), np.zeros((4, 2)))
