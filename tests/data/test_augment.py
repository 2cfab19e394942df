import colorsys
import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from supcon_tf import AUGMENTATIONS, Augmentation, UserError
from supcon_tf.data.augment import check_augmentation, random_crops, recolor

IMAGES = np.random.default_rng(0).random((6, 16, 16, 3)).astype(np.float32)
SEED = tf.constant([3, 5])
ALWAYS = {"jitter_probability": 1.0}


def views(images, augmentation, seed=SEED):
    return recolor(random_crops(images, 2, 16, augmentation, seed), augmentation, seed)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_same_seed_same_views_eagerly_and_in_tf_data(name):
    augmentation = AUGMENTATIONS[name]
    eager = views(IMAGES, augmentation).numpy()
    dataset = tf.data.Dataset.from_tensors(IMAGES).map(lambda x: views(x, augmentation))
    np.testing.assert_allclose(next(iter(dataset)), eager, atol=1e-6)
    assert eager.shape == (12, 16, 16, 3)
    assert eager.min() >= 0
    assert eager.max() <= 1


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_views_differ_by_image_view_and_seed(name):
    augmentation = AUGMENTATIONS[name]
    same_image = np.broadcast_to(IMAGES[:1], IMAGES.shape)
    found = views(same_image, augmentation).numpy().reshape(12, -1)
    assert len(np.unique(found, axis=0)) == 12
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


def test_presets_for_symbols_never_mirror_or_recolour():
    symbols = AUGMENTATIONS["symbols"]
    assert not symbols.flip
    assert dataclasses.replace(symbols, min_area=1.0, brightness=0, contrast=0) == Augmentation()


def test_refuses_unknown_names():
    with pytest.raises(UserError, match="one of symbols, cifar, imagenet. Received: 'cifar11'"):
        check_augmentation("cifar11")


@pytest.mark.parametrize(
    "arguments", [{"min_area": 0.0}, {"aspect": 0.5}, {"hue": 2.0}, {"grey_probability": -0.1}]
)
def test_refuses_values_out_of_range(arguments):
    with pytest.raises(ValueError, match="Received"):
        Augmentation(**arguments)
