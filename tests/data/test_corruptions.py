"""Corruptions: what all of them share, and each against a reference of its own."""

import io
import itertools

import numpy as np
import pytest
from data.smooth_images import smooth_images
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy import ndimage
from tensorflow_datasets.image_classification import corruptions as published

from supcon_tf.data import corruption_kinds as kinds
from supcon_tf.data import corruption_parts as parts
from supcon_tf.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt, parameters

# A side that takes the numbers of 32 pixels, one that takes those of 224, and images of each.
SIZES = {24: 48, 96: 12}
RANDOM = set(CORRUPTIONS) - {
    "defocus_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
}


@pytest.fixture(scope="module")
def images():
    return {side: smooth_images(count, side) for side, count in SIZES.items()}


@pytest.fixture(scope="module")
def corrupted(images):
    return {
        (name, side, level): corrupt(images[side], name, level, seed=3)
        for name in CORRUPTIONS
        for side in SIZES
        for level in SEVERITIES
    }


def distance(one, other):
    return np.abs(one.astype(float) - other).mean()


@pytest.mark.parametrize("side", SIZES)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_shape_dtype_determinism_and_seed(name, side, images, corrupted):
    first = corrupted[name, side, 4]
    assert first.dtype == np.uint8
    assert first.shape == images[side].shape
    assert (first != images[side]).any(axis=(1, 2, 3)).all()
    few = images[side][:4]
    same, again, other = (corrupt(few, name, 4, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(same, again)
    assert (same != other).any() == (name in RANDOM)


def unlikeness(one, other):
    """1 minus the correlation of every pair of images, on average."""
    rows = [image.reshape(len(image), -1) for image in (one, other)]
    return 1 - np.mean([np.corrcoef(*pair)[0, 1] for pair in zip(*rows, strict=True)])


# Where the mean grey level comes nearer to the original while the picture does not: `unlikeness`
# tells, over several draws, as clouds and veins differ much.
VEILED = {"frost", "fog"}
# By definition not monotone: see the two tests below.
NOT_MONOTONE = {"glass_blur", "elastic_transform"}


@pytest.mark.parametrize("side", SIZES)
@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name not in NOT_MONOTONE])
def test_the_distance_grows_with_the_severity(name, side, images, corrupted):
    def found_at(level):
        if name not in VEILED:
            return distance(corrupted[name, side, level], images[side])
        draws = [corrupt(images[side], name, level, seed=seed) for seed in range(6)]
        return np.mean([unlikeness(one, images[side]) for one in draws])

    found = [found_at(level) for level in SEVERITIES]
    # Two neighbours may be alike: motion blur of a radius beyond its Gaussian, for one.
    assert all(after > 0.97 * before for before, after in itertools.pairwise(found))
    assert found[-1] > 1.3 * found[0] > 0


def test_glass_blur_is_worse_the_farther_and_the_oftener(images):
    """CIFAR-10-C's severities 3 and 5 blur more than 2 and 4, and so hide the grain."""

    def found(*numbers):
        few = images[24][:16] / 255.0
        return distance(kinds.glass_blur(few, np.random.default_rng(0), *numbers), few)

    assert found(0.25, 1, 1) < found(0.25, 1, 2) < found(0.25, 2, 2) < found(0.25, 4, 2)


@pytest.mark.parametrize(("side", "levels"), [(24, (1, 2, 3, 4, 5)), (96, (3, 4, 5))])
def test_the_elastic_field_grows_where_the_shift_of_the_points_falls(side, levels, images):
    """Of ImageNet-C, severities 1 and 2 are of another kind: a strong smooth field."""
    few = images[side] / 255.0
    numbers = [parameters("elastic_transform", level, side) for level in levels]
    assert all(a[2] >= b[2] for a, b in itertools.pairwise(numbers))
    rng = np.random.default_rng
    found = [distance(kinds.elastic_transform(few, rng(0), *n[:2], 0.0), few) for n in numbers]
    assert all(after > before for before, after in itertools.pairwise(found))


def test_an_image_is_corrupted_alike_among_others(images):
    many = np.concatenate([images[24]] * 6)  # 288: more than a chunk.
    whole = corrupt(many, "gaussian_noise", 2, seed=1)
    np.testing.assert_array_equal(
        whole[256:], corrupt(many[256:], "gaussian_noise", 2, seed=1, first=256)
    )
    assert (whole[:32] != whole[48:80]).any(axis=(1, 2, 3)).all()  # The same images, other noise.


def test_wrong_arguments_are_refused(images):
    for name, level in (("rain", 1), ("snow", 0), ("snow", 6)):
        with pytest.raises(ValueError, match="severity from 1 to 5. Received: "):
            corrupt(images[24], name, level, seed=0)
    for wrong in (images[24] / 255.0, images[24][:, :12], images[24][..., :1]):
        with pytest.raises(ValueError, match=r"uint8 \[N, S, S, 3\]. Received: "):
            corrupt(wrong, "snow", 1, seed=0)


def test_the_numbers_are_those_of_the_nearer_size():
    found = {side: parameters("contrast", 1, side) for side in (8, 32, 84, 85, 224, 500)}
    assert found == {8: (0.75,), 32: (0.75,), 84: (0.75,), 85: (0.4,), 224: (0.4,), 500: (0.4,)}


def test_noises_have_their_moments():
    grey = np.full((64, 32, 32, 3), 0.5)
    grey[:, :, 16:] = 0.2
    rng = np.random.default_rng(0)
    noise = kinds.gaussian_noise(grey, rng, 0.08) - grey
    assert noise.mean() == pytest.approx(0, abs=1e-3)
    assert noise.std() == pytest.approx(0.08, rel=0.01)
    counts = kinds.shot_noise(grey, rng, 60)
    for half, light in ((counts[:, :, :16], 0.5), (counts[:, :, 16:], 0.2)):
        assert half.mean() == pytest.approx(light, rel=0.01)
        assert half.var() == pytest.approx(light / 60, rel=0.02)
    hit = kinds.impulse_noise(grey, rng, 0.06)
    assert np.mean(hit == 1) == pytest.approx(0.03, rel=0.03)
    assert np.mean(hit == 0) == pytest.approx(0.03, rel=0.03)
    assert ((hit == grey) | (hit == 0) | (hit == 1)).all()


@pytest.mark.parametrize(("radius", "softness"), [(0.5, 0.6), (1.5, 0.1), (3, 0.1), (10, 0.5)])
def test_defocus_is_a_soft_disk(radius, softness, images):
    found = kinds.defocus_blur(images[96] / 255.0, None, radius, softness)
    point = np.zeros((1, 41, 41, 3))
    point[0, 20, 20] = 1.0
    spread = kinds.defocus_blur(point, None, radius, softness)[0, ..., 0]
    rows, columns = np.nonzero(spread > 1e-6)
    assert np.hypot(rows - 20, columns - 20).max() <= radius + 1.5 * (1 + (radius > 8))
    assert spread.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(spread, spread.T, atol=1e-7)
    expected = ndimage.convolve(images[96][0, ..., 1] / 255.0, spread, mode="mirror")
    np.testing.assert_allclose(found[0, ..., 1], expected, atol=1e-4)


def test_glass_blur_moves_pixels_nearby_and_loses_none():
    places = np.arange(400.0).reshape(1, 20, 20, 1) / 512.0  # 0 to 0.78, told apart in 8 bits ...
    places = np.floor(places * 255) / 255  # ... as far as 8 bits go.
    image = np.repeat(places, 3, axis=-1)
    found = kinds.glass_blur(image, np.random.default_rng(0), 1e-3, 2, 1)
    np.testing.assert_allclose(
        np.sort(found[..., 0], None), np.sort(image[..., 0], None), atol=4e-3
    )
    np.testing.assert_array_equal(found[..., 0], found[..., 2])
    moved = np.abs(found - image)[0, ..., 0] > 4e-3
    assert 0.5 < moved.mean() < 1
    assert not moved[-1].all()


def loops_of_motion(image, radius, sigma, degrees):
    """The definition, pixel by pixel."""
    side, taps = len(image), range(2 * radius + 1)
    weights = [np.exp(-(tap**2) / (2 * sigma**2)) for tap in taps]
    angle, found = np.deg2rad(degrees), np.zeros_like(image)
    for row in range(side):
        for column in range(side):
            for tap, weight in zip(taps, weights, strict=True):
                down = int(np.ceil(tap * np.sin(angle) - 0.5))
                right = int(np.ceil(tap * np.cos(angle) - 0.5))
                at = [min(max(place, 0), side - 1) for place in (row + down, column + right)]
                found[row, column] += weight / sum(weights) * image[tuple(at)]
    return found


def test_motion_blur_equals_loops():
    image, angles = smooth_images(2, 12) / 255.0, np.array([-40.0, 100.0])
    found = parts.motion(image, 4, 2.0, angles)
    for number, angle in enumerate(angles):
        expected = loops_of_motion(image[number], 4, 2.0, angle)
        np.testing.assert_allclose(found[number], expected, atol=1e-12)


@pytest.mark.parametrize("level", SEVERITIES)
@pytest.mark.parametrize("name", ["zoom_blur", "contrast"])
def test_tensorflow_datasets_agrees(name, level, images):
    """Its code for the others needs OpenCV, scikit-image or ImageMagick, or draws at random."""
    expected = getattr(published, name)(images[96][0], level)
    assert np.abs(corrupt(images[96][:1], name, level, 0)[0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("level", SEVERITIES)
def test_noise_is_that_of_tensorflow_datasets_on_average(level, images):
    state = np.random.get_state()
    np.random.seed(0)
    for name in ("gaussian_noise", "shot_noise"):
        expected = distance(getattr(published, name)(images[96], level), images[96])
        found = distance(corrupt(images[96], name, level, 0), images[96])
        assert found == pytest.approx(expected, rel=0.02)
    np.random.set_state(state)


def test_fog_keeps_the_brightest_value_and_equals_the_published_one_on_average(images):
    state = np.random.get_state()
    np.random.seed(0)
    expected = [published.fog(image, 3) for image in np.concatenate([images[96]] * 2)]
    np.random.set_state(state)
    found = corrupt(np.concatenate([images[96]] * 2), "fog", 3, seed=0)
    assert found.mean() == pytest.approx(np.mean(expected), rel=0.12)
    assert found.std() == pytest.approx(np.std(expected), rel=0.25)
    most = np.concatenate([images[96]] * 2).max(axis=(1, 2, 3))
    assert (found.max(axis=(1, 2, 3)) <= most).all()


def test_the_fractal_is_rougher_with_less_decay():
    rough, smooth = (parts.plasma(8, 64, decay, np.random.default_rng(0)) for decay in (1.2, 3.0))
    for heights in (rough, smooth):
        assert heights.shape == (8, 64, 64)
        assert (heights.min(), heights.max()) == (0.0, 1.0)
    grain = [np.abs(np.diff(heights, axis=1)).mean() for heights in (rough, smooth)]
    assert grain[0] > 3 * grain[1]
    assert parts.plasma(1, 24, 2.0, np.random.default_rng(0)).shape == (1, 24, 24)


@pytest.mark.parametrize("added", [0.05, 0.5])
def test_brightness_is_added_to_the_value_in_hsv(added, images):
    image = images[24] / 255.0
    image[0, 0, 0] = 0.0
    hsv = rgb_to_hsv(image)
    hsv[..., 2] = np.minimum(hsv[..., 2] + added, 1.0)
    np.testing.assert_allclose(kinds.brightness(image, None, added), hsv_to_rgb(hsv), atol=1e-12)


def test_snow_and_frost_are_made_of_what_they_say(images):
    image, rng = images[24] / 255.0, np.random.default_rng(0)
    iced = kinds.frost(image, rng, 0.9, 0.4) - 0.9 * image
    assert iced.min() >= 0
    assert iced.max() <= 0.4
    assert (iced[..., 2] >= iced[..., 0]).all()  # Bluish.
    # Without flakes, the picture is whitened towards half the grey value more, and one half.
    bare = kinds.snow(image, rng, -9.0, 0.1, 1, 0.5, 8, 3, 0.9)
    grey = image @ [0.299, 0.587, 0.114]
    expected = 0.9 * image + 0.1 * np.maximum(image, 1.5 * grey[..., None] + 0.5)
    np.testing.assert_allclose(bare, expected, atol=1e-12)
    flakes = kinds.snow(image, rng, 0.1, 0.2, 1, 0.5, 8, 3, 0.9) - expected
    np.testing.assert_allclose(flakes, flakes[:, ::-1, ::-1], atol=1e-12)
    assert flakes.min() > -1e-12
    assert 0.01 < flakes.mean() < 0.5


def test_the_affine_part_of_the_elastic_transform_moves_three_points():
    side, seed = 32, 5
    ramp = np.stack(np.mgrid[:side, :side, :1][:2], axis=-1)[:, :, 0] / side  # [S, S, 2]
    image = np.concatenate([ramp, ramp[..., :1]], axis=-1)[None]
    found = kinds.elastic_transform(image, np.random.default_rng(seed), 0.0, 0.0, 0.08)[0]
    corners = np.array([[26, 26], [26, 6], [6, 6]])
    drawn = np.random.default_rng(seed).uniform(-0.08, 0.08, (1, 3, 2))[0]
    moved = corners + side * drawn
    for channel in range(2):  # What was at a corner is where the corner was moved to.
        seen = ndimage.map_coordinates(found[..., channel], moved.T, order=1)
        np.testing.assert_allclose(seen * side, corners[:, channel], atol=0.02)


@pytest.mark.parametrize("share", [0.95, 0.65, 0.25])
def test_pixelate_equals_pillow(share, images):
    for image in images[24][:4]:
        small = Image.fromarray(image).resize([int(24 * share)] * 2, Image.Resampling.BOX)
        expected = np.asarray(small.resize((24, 24), Image.Resampling.BOX)).astype(int)
        found = kinds.pixelate(image[None] / 255.0, None, share)[0] * 255
        assert np.abs(found - expected).max() < 1.01


@pytest.mark.parametrize("quality", [80, 25, 7])
def test_jpeg_compression_equals_pillow(quality, images):
    for image in images[24][:4]:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        expected = np.asarray(Image.open(file)).astype(int)
        found = kinds.jpeg_compression(image[None] / 255.0, None, quality)[0] * 255
        assert np.abs(found - expected).max() <= 1.01
