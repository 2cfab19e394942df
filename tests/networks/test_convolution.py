"""Strided 1x1 convolutions: the values, gradients and weights of Keras's own layer."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from supcon_tf import portable_copy, training_copy
from supcon_tf.networks.convolution import SubsampledConv2D

# The gradient of the kernel against one in float64, on a CPU that is held to AVX2.
ON_AVX2 = """
import sys
sys.path.insert(0, sys.argv[1])
from networks.test_convolution import assert_right_gradient
assert_right_gradient(in_channels=4, out_channels=8)
"""


def assert_right_gradient(in_channels, out_channels, strides=(2, 2), size=(8, 8)):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(64, *size, in_channels))
    layer = SubsampledConv2D(out_channels, 1, strides=strides)
    own = keras.layers.Conv2D(out_channels, 1, strides=strides)
    outputs = layer(images)
    upstream = rng.normal(size=outputs.shape)
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(images) * upstream)
        found = tape.gradient(loss, layer.kernel)[0, 0]
        taken = images[:, :: strides[0], :: strides[1]]
        expected = np.einsum("bhwc,bhwd->cd", taken, upstream)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    own.build(images.shape)
    own.set_weights(layer.get_weights())
    np.testing.assert_allclose(outputs, own(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "strides", "size"),
    [((8, 16), (2, 2), (8, 8)), ((3, 5), (3, 2), (7, 5)), ((4, 8), (1, 2), (5, 4))],
)
def test_equals_keras_and_its_gradient_is_right(channels, strides, size):
    assert_right_gradient(*channels, strides, size)


@pytest.mark.slow
def test_the_gradient_is_right_on_a_cpu_with_avx2_alone():
    here = os.path.dirname(os.path.dirname(__file__))
    held = {"ONEDNN_MAX_CPU_ISA": "AVX2", "TF_ENABLE_ONEDNN_OPTS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ON_AVX2, here],
        env={**os.environ, **held},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def shortcut(**settings):
    images = keras.Input((8, 8, 4))
    return keras.Model(images, keras.layers.Conv2D(6, **settings)(images))


def test_is_what_a_network_trains_with_and_not_what_is_kept():
    model = shortcut(kernel_size=1, strides=2, padding="same")
    trained = training_copy(model)
    assert type(trained.layers[1]) is SubsampledConv2D
    kept = portable_copy(trained)
    assert type(kept.layers[1]) is keras.layers.Conv2D
    assert kept.layers[1].get_config() == model.layers[1].get_config()
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 4))
    for copy in (trained, kept):
        np.testing.assert_allclose(copy(images), model(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 1},
        {"kernel_size": 3, "strides": 2},
        {"kernel_size": 1, "strides": 2, "groups": 2},
    ],
)
def test_other_convolutions_remain(settings):
    assert type(training_copy(shortcut(**settings)).layers[1]) is keras.layers.Conv2D


@pytest.mark.parametrize("given", [None, "0"])
def test_onednn_is_used_unless_it_is_switched_off(given):
    """TensorFlow itself leaves it off on x86 without AVX-512."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"}
    environment |= {} if given is None else {"TF_ENABLE_ONEDNN_OPTS": given}
    code = "import os, supcon_tf; print(os.environ['TF_ENABLE_ONEDNN_OPTS'])"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == (given or "1")
