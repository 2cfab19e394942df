"""Each operation against Pillow or SciPy, image by image; and which image gets which operation."""

import numpy as np
import pytest
import tensorflow as tf
from data.operation_references import SIDE, operated, pictures
from PIL import Image, ImageEnhance, ImageOps

from supcon_tf.data.rand_augment import OPERATIONS, apply_operations, cut_out, rand_augment

NAMES = list(OPERATIONS)
AMOUNTS = [-1.0, -0.4, 0.25, 0.7, 1.0]


def applied(name, images, amounts):
    """One operation on each image of levels uint8, as levels again but in float."""
    which = np.full(len(images), NAMES.index(name), np.int32)
    amounts = np.broadcast_to(np.float32(amounts), [len(images)])
    found = apply_operations((images / 255).astype(np.float32), which, amounts).numpy()
    assert found.min() >= 0
    assert found.max() <= 1
    return 255 * found


def by_pillow(images, function):
    return np.stack([np.asarray(function(Image.fromarray(image)), float) for image in images])


@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_operations_without_magnitude_equal_pillow(name):
    images, function = pictures(), getattr(ImageOps, name)
    found, expected = applied(name, images, 1.0), by_pillow(images, function)
    assert np.abs(expected - images).max() > 20
    # Pillow's autocontrast rounds down to whole levels.
    np.testing.assert_allclose(found, expected, atol=1.01 if name == "autocontrast" else 1e-3)
    np.testing.assert_array_equal(found, applied(name, images, -0.3))


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize("name", ["Brightness", "Color", "Contrast", "Sharpness"])
def test_enhancements_equal_pillow(name, amount):
    images, enhancement = pictures(), getattr(ImageEnhance, name)
    expected = by_pillow(images, lambda image: enhancement(image).enhance(1 + 0.9 * amount))
    found = applied(name.lower(), images, amount)
    assert np.abs(expected - images).max() > 10
    np.testing.assert_allclose(found, expected, atol=2)


@pytest.mark.parametrize(("amount", "bits"), [(0.1, 8), (0.25, 7), (-0.5, 6), (-1.0, 4), (1.0, 4)])
def test_posterize_equals_pillow(amount, bits):
    images = pictures()
    expected = by_pillow(images, lambda image: ImageOps.posterize(image, bits))
    np.testing.assert_allclose(applied("posterize", images, amount), expected, atol=1e-3)


@pytest.mark.parametrize(("amount", "threshold"), [(0.25, 224), (-0.5, 192), (1.0, 128)])
def test_solarize_equals_pillow(amount, threshold):
    images = pictures()
    images[0, 0, 0] = [threshold - 1, threshold, 255]
    expected = by_pillow(images, lambda image: ImageOps.solarize(image, threshold))
    np.testing.assert_allclose(applied("solarize", images, amount), expected, atol=1e-3)


# What each takes at full magnitude.
GEOMETRY = {
    "rotate": 30,
    "shear_x": 0.3,
    "shear_y": 0.3,
    "translate_x": 10 / 32 * SIDE,
    "translate_y": 10 / 32 * SIDE,
}


@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_equals_scipy_with_grey_outside(name):
    images = pictures()
    found = applied(name, images, AMOUNTS)
    for image, amount, ours in zip(images, AMOUNTS, found, strict=True):
        expected = operated(name, image, GEOMETRY[name] * amount)
        np.testing.assert_allclose(ours, expected, atol=0.05)


def test_rotate_equals_pillow_inside():
    images = pictures()[:3]
    expected = by_pillow(images, lambda image: image.rotate(21, Image.Resampling.BILINEAR))
    inside = np.hypot(*(np.indices([SIDE, SIDE]) - (SIDE - 1) / 2)) < SIDE / 2 - 2
    np.testing.assert_allclose(
        applied("rotate", images, 0.7)[:, inside], expected[:, inside], atol=1.5
    )


@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - {"autocontrast", "equalize"}))
def test_magnitude_0_leaves_the_image(name):
    images = pictures()
    np.testing.assert_allclose(applied(name, images, 0.0), images, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", [2, 8])
def test_small_and_flat_images(name, side):
    flat = np.full([2, side, side, 3], 90, np.uint8)
    flat[0] = 0
    for images in (flat, pictures(side)):
        found = applied(name, images, 1.0)
        assert np.isfinite(found).all()
        unchanged = ("autocontrast", "equalize") if images is flat else ("equalize",)
        if name in unchanged:
            np.testing.assert_allclose(found, images, atol=1e-4)


def test_each_image_gets_its_own_operation():
    """In a mixed batch an image becomes what it becomes alone, in the same place."""
    rng = np.random.default_rng(1)
    images = rng.random([60, 8, 8, 3]).astype(np.float32)
    which = rng.integers(0, len(NAMES), 60).astype(np.int32)
    amounts = rng.uniform(-1, 1, 60).astype(np.float32)
    mixed = apply_operations(images, which, amounts)
    alone = [
        apply_operations(images[i : i + 1], which[i : i + 1], amounts[i : i + 1])[0]
        for i in range(60)
    ]
    np.testing.assert_allclose(mixed, alone, atol=1e-6)
    compiled = tf.function(apply_operations)(images, which, amounts)
    np.testing.assert_allclose(compiled, mixed, atol=1e-6)
    assert compiled.shape == (60, 8, 8, 3)


def test_numbers_choose_operations_chance_and_direction():
    images = np.random.default_rng(2).random([len(NAMES), 8, 8, 3]).astype(np.float32)
    places = np.arange(len(NAMES), dtype=np.int32)
    choice = (places + 0.5) / len(NAMES)
    for direction, sign in ((0.49, -1), (0.5, 1)):
        numbers = np.stack([choice, 0 * choice + 0.29, 0 * choice + direction], 1)[:, None]
        found = rand_augment(images, numbers.astype(np.float32), 0.6, 0.3)
        expected = apply_operations(images, places, np.full(len(NAMES), sign * 0.6, np.float32))
        np.testing.assert_array_equal(found, expected)
        numbers[..., 1] = 0.31
        unchanged = rand_augment(images, numbers.astype(np.float32), 0.6, 0.3)
        np.testing.assert_array_equal(unchanged, images)


def test_operations_follow_one_another():
    images = (pictures() / 255).astype(np.float32)
    first, second = NAMES.index("rotate"), NAMES.index("shear_x")
    numbers = np.float32([[(k + 0.5) / len(NAMES), 0.0, 0.9] for k in (first, second)])
    found = rand_augment(images, np.stack([numbers] * 5), 1.0, 0.5)
    expected = images
    for place in (first, second):
        expected = apply_operations(expected, np.full(5, place, np.int32), np.ones(5, np.float32))
    np.testing.assert_array_equal(found, expected)


def test_cut_out_squares_with_loops():
    images = np.random.default_rng(3).random([4, 8, 8, 3]).astype(np.float32)
    centers = np.float32([[0, 0], [0.5, 0.5], [0.99, 0.3], [0.2, 0.7]])
    found = cut_out(images, centers, 0.5).numpy()
    for image, center, ours in zip(images, centers, found, strict=True):
        expected = image.copy()
        row, column = (int(8 * share) for share in center)
        for i in range(row - 2, row + 2):
            for j in range(column - 2, column + 2):
                if 0 <= i < 8 and 0 <= j < 8:
                    expected[i, j] = 0.5
        np.testing.assert_array_equal(ours, expected)
    np.testing.assert_array_equal(cut_out(images, centers, 0.0), images)
    assert np.sum(cut_out(images, centers, 3 / 8)[1] == 0.5) == 27
