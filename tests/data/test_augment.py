import colorsys
import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from supcon_tf import AUGMENTATIONS, Augmentation, UserError
from supcon_tf.data.augment import random_crops, recolor
from supcon_tf.data.policies import named_augmentation

IMAGES = np.random.default_rng(0).random((6, 16, 16, 3)).astype(np.float32)
SEED = tf.constant([3, 5])
ALWAYS = {"jitter_probability": 1.0}


def views(images, augmentation, seed=SEED):
    mirrored = tf.range(2 * len(images)) % 2 == 1
    crops = random_crops(images, 2, 16, augmentation, seed)
    return recolor(crops, augmentation, seed, mirrored=mirrored)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_same_seed_same_views_eagerly_and_in_tf_data(name):
    augmentation = AUGMENTATIONS[name]
    eager = views(IMAGES, augmentation).numpy()
    dataset = tf.data.Dataset.from_tensors(IMAGES).map(lambda x: views(x, augmentation))
    np.testing.assert_allclose(next(iter(dataset)), eager, atol=1e-6)
    assert (eager.shape, eager.dtype) == ((12, 16, 16, 3), np.float32)
    assert eager.min() >= 0
    assert eager.max() <= 1


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if name != "none"])
def test_views_differ_by_image_view_and_seed(name):
    augmentation = AUGMENTATIONS[name]
    same_image = np.broadcast_to(IMAGES[:1], IMAGES.shape)
    found = views(same_image, augmentation).numpy().reshape(12, -1)
    # Of a view that is only shifted, perhaps mirrored, there are not many.
    only_shifted = name.startswith("weak") or name == "alternating_flip"
    assert len(np.unique(found, axis=0)) >= (6 if only_shifted else 12)
    assert not np.array_equal(found, views(same_image, augmentation, tf.constant([3, 6])))


def test_nothing_to_do_leaves_the_image():
    still = Augmentation(min_area=1.0, aspect=1.0)
    found = views(IMAGES, still).numpy().reshape(6, 2, 16, 16, 3)
    np.testing.assert_allclose(found[:, 0], IMAGES, atol=1e-5)
    np.testing.assert_allclose(found[:, 1], IMAGES, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 16), (16, 40), (40, 16)])
def test_crops_stay_inside_with_area_and_aspect_in_range(shape):
    # Each pixel holds its own coordinates, so a crop's corners tell where it was taken.
    rows, columns = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    image = np.stack([rows, columns, 0 * rows], axis=-1)[None].astype(np.float32)
    augmentation = Augmentation(min_area=0.25, aspect=4 / 3)
    crops = random_crops(image, 500, 9, augmentation, SEED).numpy()
    height = crops[:, -1, 0, 0] - crops[:, 0, 0, 0]
    width = crops[:, 0, -1, 1] - crops[:, 0, 0, 1]
    assert crops[..., 0].min() >= 0
    assert crops[..., 0].max() <= shape[0] - 1 + 1e-3
    assert crops[..., 1].max() <= shape[1] - 1 + 1e-3
    full_height, full_width = shape[0] - 1, shape[1] - 1
    # Shares of the image's sides, in pixels of which each side has one more than its last index.
    aspect = (width / full_width * shape[1]) / (height / full_height * shape[0])
    assert aspect.min() >= 0.75 - 1e-3
    assert aspect.max() <= 4 / 3 + 1e-3
    assert np.ptp(aspect) > 0.5
    area = height * width / (full_height * full_width)
    fits = (height < full_height - 1e-3) & (width < full_width - 1e-3)
    assert fits.any()
    assert area[fits].min() >= 0.25 - 1e-3
    assert area.max() <= 1 + 1e-5
    slack = np.array([full_height, full_width])[:, None] - [height, width]
    places = crops[:, 0, 0, :2].T[slack > 2] / slack[slack > 2]
    assert 0.4 < np.median(places) < 0.6


def test_flip_mirrors_about_half():
    found = recolor(tf.repeat(IMAGES[:1], 400, axis=0), Augmentation(flip=True), SEED).numpy()
    mirrored = np.array([np.array_equal(view, IMAGES[0, :, ::-1]) for view in found])
    unchanged = np.array([np.array_equal(view, IMAGES[0]) for view in found])
    assert np.all(mirrored ^ unchanged)
    assert 150 < mirrored.sum() < 250


def test_brightness_scales_pixels_within_its_range():
    dim = 0.3 * np.ones((300, 4, 4, 3), np.float32)
    factor = recolor(dim, Augmentation(brightness=0.4, **ALWAYS), SEED).numpy()[:, 0, 0, 0] / 0.3
    assert 0.6 - 1e-5 <= factor.min() < 0.65
    assert 1.35 < factor.max() <= 1.4 + 1e-5


def test_contrast_keeps_the_mean_and_scales_the_distance():
    image = 0.4 + 0.1 * IMAGES
    found = recolor(image, Augmentation(contrast=0.5, **ALWAYS), SEED).numpy()
    grey = np.array([0.299, 0.587, 0.114], np.float32)
    np.testing.assert_allclose((found @ grey).mean((1, 2)), (image @ grey).mean((1, 2)), rtol=1e-4)
    ratio = found.std((1, 2, 3)) / image.std((1, 2, 3))
    assert np.ptp(ratio) > 0.1
    assert ratio.min() >= 0.5 - 1e-3
    assert ratio.max() <= 1.5 + 1e-3


def test_saturation_keeps_the_grey_of_each_pixel():
    image = 0.4 + 0.1 * IMAGES
    found = recolor(image, Augmentation(saturation=0.5, **ALWAYS), SEED).numpy()
    grey = np.array([0.299, 0.587, 0.114], np.float32)
    np.testing.assert_allclose(found @ grey, image @ grey, rtol=1e-4)
    assert np.abs(found - image).max() > 1e-3


def test_hue_turns_the_colour_circle_only():
    image = np.full((50, 2, 2, 3), [0.8, 0.3, 0.2], np.float32)
    found = recolor(image, Augmentation(hue=0.1, **ALWAYS), SEED).numpy()[:, 0, 0]
    before = colorsys.rgb_to_hsv(0.8, 0.3, 0.2)
    after = np.array([colorsys.rgb_to_hsv(*pixel) for pixel in found])
    turn = (after[:, 0] - before[0] + 0.5) % 1 - 0.5
    np.testing.assert_allclose(after[:, 1:], [before[1:]] * 50, rtol=1e-4)
    assert np.abs(turn).max() <= 0.1 + 1e-4
    assert np.ptp(turn) > 0.15


def test_grey_and_jitter_probabilities():
    images = np.full((500, 2, 2, 3), [0.8, 0.3, 0.2], np.float32)
    grey = recolor(images, Augmentation(grey_probability=0.2), SEED).numpy()[:, 0, 0]
    assert 60 < np.sum(np.ptp(grey, axis=1) < 1e-6) < 140
    jittered = recolor(images, Augmentation(brightness=0.4), SEED).numpy()[:, 0, 0, 0]
    assert 360 < np.sum(np.abs(jittered - 0.8) > 1e-6) < 440


def test_blur_keeps_flat_images_and_smooths_others():
    blurred = Augmentation(blur_probability=1.0)
    flat = np.full((3, 32, 32, 3), 0.4, np.float32)
    np.testing.assert_allclose(recolor(flat, blurred, SEED), flat, rtol=1e-5)
    noise = np.random.default_rng(0).random((8, 40, 40, 3)).astype(np.float32)
    assert np.all(recolor(noise, blurred, SEED).numpy().std((1, 2, 3)) <= noise.std((1, 2, 3)))


def test_shift_is_a_crop_of_the_reflected_image_at_every_place():
    augmentation = Augmentation(aspect=1.0, shift=1 / 8)
    found = random_crops(IMAGES[:1], 600, 16, augmentation, SEED).numpy()
    padded = np.pad(IMAGES[0], [(2, 2), (2, 2), (0, 0)], mode="reflect")
    counts = np.zeros([5, 5], int)
    for view in found:
        places = [
            (row, column)
            for row in range(5)
            for column in range(5)
            if np.allclose(view, padded[row : row + 16, column : column + 16], atol=1e-5)
        ]
        assert len(places) == 1
        counts[places[0]] += 1
    # 24 are expected at each place, with a standard deviation of 4.8.
    assert counts.min() >= 8
    assert counts.max() <= 45
    assert (
        abs(np.corrcoef(np.repeat(np.indices([5, 5]).reshape(2, -1), counts.ravel(), 1))[0, 1])
        < 0.15
    )


def test_images_of_another_size_are_resized_before_the_shift():
    small = Augmentation(aspect=1.0)
    resized = random_crops(IMAGES, 3, 8, small, SEED).numpy()
    found = random_crops(IMAGES, 3, 8, dataclasses.replace(small, shift=0.125), SEED).numpy()
    assert found.shape == (18, 8, 8, 3)
    padded = np.pad(resized, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
    matches = [
        np.all(found == padded[:, row : row + 8, column : column + 8], axis=(1, 2, 3))
        for row in range(3)
        for column in range(3)
    ]
    np.testing.assert_array_equal(np.sum(matches, axis=0), 1)
    assert np.sum(np.any(matches, axis=1)) > 4  # Of the nine places.


@pytest.mark.parametrize("name", ["symbols", "cifar", "imagenet"])
def test_what_is_added_draws_none_of_the_other_numbers(name):
    """Operations that are never applied, and a shift by less than half a pixel."""
    base = AUGMENTATIONS[name]
    idle = dataclasses.replace(base, rand_augment=2, rand_augment_probability=0.0)
    np.testing.assert_array_equal(views(IMAGES, idle), views(IMAGES, base))
    cut = views(IMAGES, dataclasses.replace(base, cutout=0.25)).numpy()
    uncut = cut != 0.5
    assert 0.9 < uncut.mean() < 1
    np.testing.assert_array_equal(cut[uncut], views(IMAGES, base).numpy()[uncut])
    whole = dataclasses.replace(base, min_area=1.0)
    np.testing.assert_array_equal(
        views(IMAGES, dataclasses.replace(whole, shift=0.02)), views(IMAGES, whole)
    )


def test_cutout_has_its_centre_anywhere():
    images = np.zeros((400, 16, 16, 3), np.float32)
    found = recolor(images, Augmentation(cutout=0.5), SEED).numpy()
    assert set(np.unique(found)) == {0, 0.5}
    areas = found[..., 0].sum((1, 2)) / 0.5
    # From a quarter of the square, in a corner, to all of it; on the average 7/8 of each side.
    assert areas.min() <= 20
    assert areas.max() == 64
    assert abs(areas.mean() - 64 * (7 / 8) ** 2) < 3
    assert found[:, 0, 0].any()
    assert found[:, -1, -1].any()


def test_about_half_of_the_operations_are_applied():
    images = np.tile(IMAGES[:1], (400, 1, 1, 1))
    found = recolor(images, Augmentation(rand_augment=1), SEED).numpy()
    changed = np.abs(found - images).max((1, 2, 3)) > 1e-6
    # Identity changes nothing.
    assert abs(changed.mean() - 0.5 * 13 / 14) < 0.08
    always = Augmentation(rand_augment=1, rand_augment_probability=1.0)
    changed = np.abs(recolor(images, always, SEED).numpy() - images).max((1, 2, 3)) > 1e-6
    assert abs(changed.mean() - 13 / 14) < 0.06
    still = Augmentation(rand_augment=1, rand_augment_magnitude=0.0, rand_augment_probability=1.0)
    changed = np.abs(recolor(images, still, SEED).numpy() - images).max((1, 2, 3)) > 1 / 500
    # Autocontrast and equalize have no magnitude.
    assert abs(changed.mean() - 2 / 14) < 0.05


@pytest.mark.parametrize("name", ["weak", "strong"])
def test_presets_differ_for_symbols(name):
    photographs, symbols = AUGMENTATIONS[name], AUGMENTATIONS[f"{name}_symbols"]
    assert photographs.flip
    assert not symbols.flip
    assert symbols.rand_augment_magnitude <= photographs.rand_augment_magnitude
    for augmentation in (photographs, symbols):
        assert augmentation.shift == 0.125
        assert (augmentation.rand_augment, augmentation.cutout) == (
            (2, 0.5) if name == "strong" else (0, 0.0)
        )


def test_presets_for_symbols_never_mirror_or_recolour():
    symbols = AUGMENTATIONS["symbols"]
    assert not symbols.flip
    assert dataclasses.replace(symbols, min_area=1.0, brightness=0, contrast=0) == Augmentation()


def test_refuses_unknown_names():
    with pytest.raises(
        UserError, match="one of symbols, cifar, imagenet, weak, .*. Received: 'cifar11'"
    ):
        named_augmentation("cifar11")


@pytest.mark.parametrize(
    "arguments",
    [
        {"min_area": 0.0},
        {"aspect": 0.5},
        {"hue": 2.0},
        {"grey_probability": -0.1},
        {"shift": 0.6},
        {"shift": -0.1},
        {"shift": 0.1, "min_area": 0.5},
        {"rand_augment": -1},
        {"rand_augment": 1.5},
        {"rand_augment_magnitude": 1.1},
        {"rand_augment_probability": -0.1},
        {"cutout": 1.5},
    ],
)
def test_refuses_values_out_of_range(arguments):
    with pytest.raises(ValueError, match="Received"):
        Augmentation(**arguments)
