"""The plain network of few convolutions: its form, its fixed first layer, copies and files."""

import math
import zipfile

import keras
import numpy as np
import pytest
from networks.helpers import random_images

from supcon_tf import UserError, build_encoder, portable_copy, training_copy
from supcon_tf.networks.airbench import whitening_kernel

NARROW = 0.0625


def narrow(size=16):
    """A network of few channels whose batch norms are as if trained."""
    encoder = build_encoder("airbench94", size, NARROW)
    rng = np.random.default_rng(0)
    for weight in encoder.weights:
        if len(weight.shape) == 1:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return encoder


def test_parameters_and_features():
    encoder = build_encoder("airbench94", 32)
    assert encoder.output_shape == (None, 256)
    widths = [(24, 64), (64, 64), (64, 256), (256, 256), (256, 256), (256, 256)]
    expected = sum(9 * before * after + 2 * after for before, after in widths)
    assert sum(int(np.prod(weight.shape)) for weight in encoder.trainable_weights) == expected
    maps = [encoder.get_layer(f"stage{n}_2_gelu").output.shape[1:] for n in (1, 2, 3)]
    assert maps == [(15, 15, 64), (7, 7, 256), (3, 3, 256)]


def numpy_features(encoder, images):
    """The network in float64 NumPy, convolution by convolution."""
    weights = {layer.name: [np.float64(w) for w in layer.get_weights()] for layer in encoder.layers}
    gelu = np.vectorize(lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2)

    def activate(x, name):
        gamma, beta, mean, variance = weights[f"{name}_norm"]
        return gelu((x - mean) / np.sqrt(variance + 1e-5) * gamma + beta)

    def conv(x, name, padding=1):
        (kernel,) = weights[f"{name}_conv"]
        side = kernel.shape[0]
        padded = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
        places = [range(length - side + 1) for length in padded.shape[1:3]]
        patches = [[padded[:, i : i + side, j : j + side] for j in places[1]] for i in places[0]]
        return np.einsum("ijbhwc,hwcd->bijd", np.array(patches), kernel)

    def pool(x):
        half = [length // 2 for length in x.shape[1:3]]
        x = x[:, : 2 * half[0], : 2 * half[1]]
        return x.reshape(len(x), half[0], 2, half[1], 2, -1).max(axis=(2, 4))

    x = gelu(conv((np.float64(images) - 0.45) / 0.25, "stem", padding=0))
    for stage in (1, 2, 3):
        x = activate(pool(conv(x, f"stage{stage}_1")), f"stage{stage}_1")
        x = activate(conv(x, f"stage{stage}_2"), f"stage{stage}_2")
    return x.mean(axis=(1, 2))


@pytest.mark.parametrize("size", [9, 16])
def test_features_equal_loops_in_numpy(size):
    encoder, images = narrow(size), random_images(size)
    found, expected = encoder(images).numpy(), numpy_features(encoder, images)
    assert np.ptp(expected, axis=0).max() > 1e-3  # The two images are told apart.
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_the_first_kernel_whitens_patches():
    kernel = whitening_kernel()
    np.testing.assert_array_equal(kernel[..., :12], -kernel[..., 12:])
    rows = kernel[..., :12].reshape(12, 12).T.astype(np.float64)
    products = rows @ rows.T
    np.testing.assert_allclose(products, np.diag(np.diag(products)), atol=1e-3)
    # Patches of one colour: grey is the first component alone, of which there is most.
    grey = np.ones(12) @ rows.T
    assert np.count_nonzero(np.abs(grey) > 1e-5) == 1
    assert np.argmax(np.abs(grey)) == np.argmin(np.diag(products)) == 0
    # Green against red and blue, from column to column.
    edge = np.array([[1, -2, 1], [-1, 2, -1]] * 2).reshape(12)
    assert np.flatnonzero(np.abs(edge @ rows.T) > 1e-4).tolist() == [5]


def test_convolutions_begin_as_copies_of_their_input():
    encoder = build_encoder("airbench94", 16, 0.25)
    for name, before, after in (("stage2_1", 16, 64), ("stage2_2", 64, 64), ("stage1_1", 24, 16)):
        kernel = encoder.get_layer(f"{name}_conv").kernel.numpy()
        kept = min(before, after)
        expected = np.zeros((3, 3, before, kept))
        expected[1, 1, range(kept), range(kept)] = 1
        np.testing.assert_array_equal(kernel[..., :kept], expected)
        assert np.all(kernel[..., kept:].std(axis=(0, 1, 2)) > 0)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_training_leaves_the_first_kernel_and_copies_agree(precision):
    encoder, images = narrow(), random_images(16)
    trained = training_copy(encoder, precision)
    found, expected = trained(images).numpy(), encoder(images).numpy()
    tolerance = 1e-5 if precision == "float32" else 0.05
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())
    np.testing.assert_array_equal(portable_copy(trained)(images), expected)
    trained.compile(keras.optimizers.SGD(0.1, weight_decay=0.1), "mse", jit_compile=False)
    trained.fit(images, np.zeros_like(expected), verbose=0)
    stem, *others = (layer for layer in trained.layers if "conv" in layer.name)
    np.testing.assert_array_equal(stem.kernel, whitening_kernel())
    for layer in others:
        assert np.any(layer.kernel.numpy() != encoder.get_layer(layer.name).kernel.numpy())


def test_saved_network_loads_from_keras_alone(tmp_path):
    encoder, images = narrow(), random_images(16)
    encoder.save(tmp_path / "encoder.keras")
    again = keras.saving.load_model(tmp_path / "encoder.keras", custom_objects={})
    np.testing.assert_array_equal(again(images), encoder(images))
    assert not again.get_layer("stem_conv").trainable
    with zipfile.ZipFile(tmp_path / "encoder.keras") as archive:
        assert b"supcon_tf" not in archive.read("config.json")


def test_refuses_images_that_nothing_is_left_of():
    with pytest.raises(UserError, match="airbench94 needs images of 9 pixels or more.*_px=8"):
        build_encoder("airbench94", 8)
