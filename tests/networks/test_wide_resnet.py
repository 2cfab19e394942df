"""Wide residual networks: parameters, the form of a block, copies and files."""

import zipfile

import keras
import numpy as np
import pytest
from networks.helpers import random_images

from supcon_tf import UserError, build_encoder, portable_copy, training_copy
from supcon_tf.networks.encoders import check_encoder
from supcon_tf.networks.wide_resnet import WIDE_ENCODERS

NARROW = 0.125


def arithmetic(depth, factor):
    """Trainable weights: convolutions, and two per channel for each batch norm."""
    blocks, before = (depth - 4) // 6, 16
    total = 9 * 3 * 16
    for width in (16 * factor, 32 * factor, 64 * factor):
        for _ in range(blocks):
            total += 2 * before + 9 * before * width + 2 * width + 9 * width**2
            total += before * width if before != width else 0
            before = width
    return total + 2 * before


def trainable(model):
    return sum(int(np.prod(w.shape)) for w in model.trainable_weights)


def narrow(name="wide_resnet28_2", size=8, seed=0):
    """A network of few channels whose batch norms are as if trained."""
    encoder = build_encoder(name, size, NARROW)
    rng = np.random.default_rng(seed)
    for weight in encoder.weights:
        if len(weight.shape) == 1:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return encoder


@pytest.mark.parametrize(
    ("name", "parameters", "rounded"),
    [("wide_resnet28_2", 1_467_610, 1.47), ("wide_resnet28_8", 23_354_842, 23.35)],
)
def test_parameters_and_features(name, parameters, rounded):
    encoder, factor = build_encoder(name, 32), WIDE_ENCODERS[name]
    assert encoder.output_shape == (None, 64 * factor)
    classifier = 64 * factor * 10 + 10
    assert trainable(encoder) + classifier == arithmetic(28, factor) + classifier == parameters
    assert round(parameters / 1e6, 2) == rounded
    # The stem, two in each of twelve blocks, and three shortcuts.
    convolutions = [layer for layer in encoder.layers if isinstance(layer, keras.layers.Conv2D)]
    kernels = [layer.kernel_size[0] for layer in convolutions]
    assert sorted(kernels) == [1] * 3 + [3] * 25


@pytest.mark.parametrize("size", [4, 9, 32])
def test_sides_and_names_of_the_stages(size):
    encoder = build_encoder("wide_resnet28_2", size, NARROW)
    sides = [encoder.get_layer(f"stage{n}_block4_add").output.shape[1:] for n in (1, 2, 3)]
    half, quarter = -(-size // 2), -(-size // 4)
    assert sides == [(size, size, 4), (half, half, 8), (quarter, quarter, 16)]
    prefixes = {layer.name.split("_")[0] for layer in encoder.layers}
    stages = {"stage1", "stage2", "stage3"}
    assert prefixes == {"images", "standardize", "stem", *stages, "last", "features"}


def numpy_features(encoder, images):
    """The network in float64 NumPy, convolution by convolution."""
    weights = {layer.name: [np.float64(w) for w in layer.get_weights()] for layer in encoder.layers}

    def activate(x, name):
        gamma, beta, mean, variance = weights[f"{name}_norm"]
        x = (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta
        return np.where(x > 0, x, 0.1 * x)

    def conv(x, name, stride=1):
        (kernel,) = weights[f"{name}_conv"]
        side, padding = kernel.shape[0], kernel.shape[0] // 2
        padded = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
        rows, columns = (range(0, length, stride) for length in x.shape[1:3])
        patches = [[padded[:, i : i + side, j : j + side] for j in columns] for i in rows]
        return np.einsum("ijbhwc,hwcd->bijd", np.array(patches), kernel)

    x = conv((np.float64(images) - 0.45) / 0.25, "stem")
    for stage in (1, 2, 3):
        for block in (1, 2, 3, 4):
            name, stride = f"stage{stage}_block{block}", 2 if stage > 1 and block == 1 else 1
            first = activate(x, f"{name}_1")
            shortcut = first if (stage, block) == (1, 1) else x
            if block == 1:
                shortcut = conv(shortcut, f"{name}_shortcut", stride)
            x = shortcut + conv(
                activate(conv(first, f"{name}_1", stride), f"{name}_2"), f"{name}_2"
            )
    return activate(x, "last").mean(axis=(1, 2))


@pytest.mark.parametrize("size", [8, 9])
def test_features_equal_loops_in_numpy(size):
    encoder, images = narrow(size=size), random_images(size)
    found, expected = encoder(images).numpy(), numpy_features(encoder, images)
    assert np.ptp(expected, axis=0).max() > 1e-3  # The two images are told apart.
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_batch_norms_keep_0999_of_the_old_statistics():
    encoder = training_copy(build_encoder("wide_resnet28_2", 8, NARROW))
    images = random_images(8)
    encoder(images, training=True)
    stem = keras.Model(encoder.input, encoder.get_layer("stem_conv").output)(images).numpy()
    norm = encoder.get_layer("stage1_block1_1_norm")
    np.testing.assert_allclose(norm.moving_mean, 0.001 * stem.mean((0, 1, 2)), rtol=1e-4, atol=1e-7)
    assert {layer.epsilon for layer in encoder.layers if "norm" in layer.name} == {1e-3}
    assert {layer.momentum for layer in encoder.layers if "norm" in layer.name} == {0.999}


def test_kernels_start_with_the_variance_of_the_fan_out():
    keras.utils.set_random_seed(0)
    encoder = build_encoder("wide_resnet28_2", 8)
    for name, fan_out in (("stage1_block1_1", 9 * 32), ("stage3_block1_shortcut", 128)):
        kernel = encoder.get_layer(f"{name}_conv").kernel.numpy()
        np.testing.assert_allclose(kernel.std(), np.sqrt(2 / fan_out), rtol=0.05)


def test_saved_network_loads_from_keras_alone(tmp_path):
    encoder, images = narrow(), random_images(8)
    encoder.save(tmp_path / "encoder.keras")
    again = keras.saving.load_model(tmp_path / "encoder.keras", custom_objects={})
    np.testing.assert_array_equal(again(images), encoder(images))
    with zipfile.ZipFile(tmp_path / "encoder.keras") as archive:
        assert b"supcon_tf" not in archive.read("config.json")


def test_weights_to_begin_with(tmp_path):
    trained, images = narrow(), random_images(8)
    path = str(tmp_path / "a.weights.h5")
    trained.save_weights(path)
    again = build_encoder("wide_resnet28_2", 8, NARROW, path)
    np.testing.assert_array_equal(again(images), trained(images))
    with pytest.raises(UserError, match="weights must be wide_resnet28_8's own"):
        build_encoder("wide_resnet28_8", 8, NARROW, path)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_training_copy_and_back(precision):
    encoder, images = narrow(), random_images(8)
    trained = training_copy(encoder, precision)
    found, expected = trained(images).numpy(), encoder(images).numpy()
    tolerance = 1e-5 if precision == "float32" else 0.05
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())
    np.testing.assert_array_equal(portable_copy(trained)(images), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("wide_resnet28_2", 3), "wide_resnet28_2 needs images of 4 pixels or more.*_px=3"),
        (("wide_resnet28_8", 8, 0.0), "width_multiplier must be positive. Received: 0.0"),
        (("wide_resnet28_4", 8), "one of .*wide_resnet28_2, .*Received: 'wide_resnet28_4'"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(UserError, match=message):
        build_encoder(*arguments)


def test_check_accepts_its_width():
    for name in WIDE_ENCODERS:
        check_encoder(name, width_multiplier=0.5)
