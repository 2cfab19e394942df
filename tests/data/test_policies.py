"""Augmentations by name: their settings, and what the newer ones do to images."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from supcon_tf import AUGMENTATIONS, Augmentation, UserError
from supcon_tf.data.augment import WHOLE, _blur, random_crops, recolor
from supcon_tf.data.images import central_square
from supcon_tf.data.policies import named_augmentation, small_parts

IMAGES = np.random.default_rng(0).random((6, 16, 16, 3)).astype(np.float32)
SEED = tf.constant([3, 5])


def test_cifar_is_simaugment_at_half_strength_without_blur():
    half = named_augmentation("imagenet", {"strength": 0.5, "blur_probability": 0, "min_area": 0.2})
    assert half.jitter() == AUGMENTATIONS["cifar"].jitter() == (0.4, 0.4, 0.4, 0.1)
    np.testing.assert_array_equal(
        recolor(IMAGES, half, SEED), recolor(IMAGES, AUGMENTATIONS["cifar"], SEED)
    )


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("crop_flip", {}),
        ("auto_augment", {"auto_augment": "imagenet"}),
        ("trivial_augment", {"trivial_augment": True}),
        (
            "rand_augment",
            {
                "rand_augment": 2,
                "rand_augment_magnitude": 0.9,
                "rand_augment_probability": 1.0,
            },
        ),
    ],
)
def test_policies_for_photographs_crop_flip_and_operate(name, settings):
    assert AUGMENTATIONS[name] == Augmentation(0.08, flip=True, **settings)


def test_stacked_is_simaugment_with_operations_between_colours_and_grey():
    stacked, alone = AUGMENTATIONS["stacked_rand_augment"], AUGMENTATIONS["imagenet"]
    operations = {
        name: getattr(stacked, name)
        for name in ("rand_augment", "rand_augment_magnitude", "rand_augment_probability")
    }
    assert dataclasses.replace(alone, **operations) == stacked
    assert operations == {
        "rand_augment": 2,
        "rand_augment_magnitude": 1.0,
        "rand_augment_probability": 1.0,
    }
    grey = Augmentation(grey_probability=1.0)
    operated = recolor(IMAGES, Augmentation(**operations), SEED)
    both = recolor(IMAGES, dataclasses.replace(grey, **operations), SEED)
    np.testing.assert_allclose(both, recolor(operated, grey, SEED), atol=1e-6)
    other = recolor(recolor(IMAGES, grey, SEED), Augmentation(**operations), SEED)
    assert np.abs(both - other).max() > 0.1


@pytest.mark.parametrize("shape", [(16, 16), (16, 40), (42, 16)])
def test_none_is_the_middle_of_the_image(shape):
    rng = np.random.default_rng(1)
    waves = rng.random((3, *shape, 3))
    images = ndimage.gaussian_filter(waves, 2, axes=(1, 2)).astype(np.float32)
    found = random_crops(images, 2, 16, AUGMENTATIONS["none"], SEED)
    found = recolor(found, AUGMENTATIONS["none"], SEED).numpy().reshape(3, 2, 16, 16, 3)
    np.testing.assert_array_equal(found[:, 0], found[:, 1])
    expected = central_square(images, 16).numpy()
    off = np.abs(found[:, 0] - expected).mean()
    if shape == (16, 16):
        assert off < 1e-5
    # A crop's outermost pixels are half a pixel off those of the image at most.
    assert off < 0.3 * np.abs(expected - np.roll(expected, 1, axis=1)).mean()


def test_the_largest_area_bounds_crops_from_above():
    # Each pixel holds its own coordinates, so a crop's corners tell where it was taken.
    places = np.stack([*np.indices([65, 65]), np.zeros([65, 65])], axis=-1)[None] / 64
    how = Augmentation(0.05, max_area=0.14)
    crops = random_crops(places.astype(np.float32), 500, 9, how, SEED).numpy()
    height = crops[:, -1, 0, 0] - crops[:, 0, 0, 0]
    width = crops[:, 0, -1, 1] - crops[:, 0, 0, 1]
    area = height * width
    assert 0.05 - 1e-4 <= area.min() < 0.06
    assert 0.13 < area.max() <= 0.14 + 1e-4


def test_small_parts_are_otherwise_the_same():
    found = small_parts(AUGMENTATIONS["weak"])
    assert (found.min_area, found.max_area, found.shift) == (0.05, 0.14, 0.0)
    assert found.flip
    cifar = AUGMENTATIONS["cifar"]
    assert dataclasses.replace(small_parts(cifar), min_area=0.2, max_area=1.0) == cifar


def test_blur_equals_scipy():
    images = np.random.default_rng(2).random((5, 40, 40, 3)).astype(np.float32)
    sigmas = tf.random.stateless_uniform([5, 1], SEED, 0.1, 2.0).numpy()[:, 0]
    for image, sigma, ours in zip(images, sigmas, _blur(images, SEED, WHOLE), strict=True):
        expected = ndimage.gaussian_filter(
            image.astype(float), sigma, mode="mirror", radius=2, axes=(0, 1)
        )
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_an_alternating_flip_needs_to_know_the_images():
    with pytest.raises(ValueError, match="which images to mirror"):
        recolor(IMAGES, AUGMENTATIONS["alternating_flip"], SEED)
    mirrored = np.array([True, False, True, False, False, True])
    found = recolor(IMAGES, Augmentation(alternating_flip=True), SEED, mirrored=mirrored)
    expected = np.where(mirrored[:, None, None, None], IMAGES[:, :, ::-1], IMAGES)
    np.testing.assert_array_equal(found, expected)


def test_cutout_and_the_cifar_policy_are_weak_views_with_a_square():
    weak = AUGMENTATIONS["weak"]
    assert AUGMENTATIONS["cutout"] == dataclasses.replace(weak, cutout=0.5)
    assert AUGMENTATIONS["auto_augment_cifar"] == dataclasses.replace(
        weak, cutout=0.5, auto_augment="cifar10"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"brightnes": 0.5}, "Received: 'brightnes'. Did you mean 'brightness'"),
        ({"strength": 3.0}, "strength must be at least 0, and its products with brightness"),
        ({"strength": "much"}, "strength must be a number. Received: 'much'"),
        ({"aspect": float("inf")}, "aspect from 1 to 10. Received: .*inf"),
        ({"rand_augment": 17}, "rand_augment must be from 0 to 16. Received: 17"),
        ({"flip": 1}, "flip must be true or false. Received: 1"),
        ({"rand_augment": True}, "rand_augment must be a whole number. Received: True"),
        ({"auto_augment": "svhn"}, "auto_augment must be one of imagenet, cifar10.*'svhn'"),
        ({"max_area": 0.1}, "max_area at least that"),
        ({"alternating_flip": True}, "flip and alternating_flip are mutually exclusive"),
        ({"rand_augment": 1, "trivial_augment": True}, "are mutually exclusive. Received: 1"),
    ],
)
def test_refuses_wrong_arguments_of_an_augmentation(changes, message):
    with pytest.raises(UserError, match=message):
        named_augmentation("cifar", changes)
