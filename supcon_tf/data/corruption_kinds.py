"""The fifteen corruptions of ImageNet-C, each of a batch of images.

Every function takes images float64 [N, S, S, 3] in [0, 1], a generator of random numbers and the
numbers of its severity, and returns images of the same shape, which may leave [0, 1].

Reference:
    Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions and
    Perturbations", section 4.1 and appendix B.
"""

import numpy as np
import tensorflow as tf
from scipy import ndimage

from supcon_tf.data.corruption_parts import (
    blur,
    box_matrix,
    motion,
    plasma,
    resample,
    zoom_matrix,
)

_LUMA = np.array([0.299, 0.587, 0.114])
# Of ice: slightly blue.
_FROST_COLOR = np.array([0.82, 0.91, 1.0])


def gaussian_noise(images, rng, deviation):
    """Adds normal noise."""
    return images + rng.normal(0.0, deviation, images.shape)


def shot_noise(images, rng, photons):
    """Draws Poisson photon counts, with a given number of photons per unit of light."""
    return rng.poisson(images * photons) / photons


def impulse_noise(images, rng, share):
    """Sets a share of all values to 0 or to 1."""
    hit = rng.random(images.shape) < share
    return np.where(hit, rng.integers(0, 2, images.shape), images)


def defocus_blur(images, rng, radius, softness):
    """Convolves with a disk, whose edge is softened a little."""
    del rng
    reach = max(8, int(radius))
    steps = np.arange(-reach, reach + 1)
    disk = (steps[:, None] ** 2 + steps**2 <= radius**2).astype(float)
    taps = 1 if radius <= 8 else 2
    edge = np.exp(-(np.arange(-taps, taps + 1) ** 2) / (2 * softness**2))
    kernel = ndimage.convolve(disk, np.outer(edge, edge), mode="mirror")
    used = int(np.abs(steps[kernel.any(axis=0)]).max())
    kernel = kernel[reach - used : reach + used + 1, reach - used : reach + used + 1]
    margins = [(0, 0), (used, used), (used, used), (0, 0)]
    padded = np.pad(images, margins, mode="reflect").astype(np.float32)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    filters = np.tile(kernel[:, :, None, None], (1, 1, 3, 1))
    return tf.nn.depthwise_conv2d(padded, filters, [1, 1, 1, 1], "VALID").numpy()


def glass_blur(images, rng, sigma, reach, times):
    """Blurs, exchanges every pixel with one nearby, and blurs again."""
    shuffled = np.floor(blur(images, sigma) * 255.0) / 255.0
    number, side = np.arange(len(images)), images.shape[1]
    for _ in range(times):
        moves = rng.integers(-reach, reach, (side, side, 2, len(images)))
        for row in range(side - reach, reach, -1):
            for column in range(side - reach, reach, -1):
                down, right = moves[row, column]
                there = number, row + down, column + right
                kept = shuffled[:, row, column].copy()
                shuffled[:, row, column] = shuffled[there]
                shuffled[there] = kept
    return blur(shuffled, sigma)


def motion_blur(images, rng, radius, sigma):
    """Smears along a line, by at most 45 degrees from the horizontal."""
    return motion(images, radius, sigma, rng.uniform(-45.0, 45.0, len(images)))


def zoom_blur(images, rng, most, step):
    """The mean of the image and its enlargements by 1, 1 + step, ... below `most`."""
    del rng
    factors = np.arange(1.0, most, step)
    planes = np.moveaxis(images, -1, 1).astype(np.float32)  # [N, 3, S, S]
    total = planes.copy()
    for factor in factors:
        matrix = zoom_matrix(images.shape[1], factor).astype(np.float32)
        total += matrix @ planes @ matrix.T
    return np.moveaxis(total, 1, -1) / (len(factors) + 1)


def snow(images, rng, mean, deviation, zoom, threshold, radius, sigma, kept):
    """Falling flakes, and the same turned by 180 degrees, over a whitened image."""
    count, side = images.shape[:2]
    matrix = zoom_matrix(side, zoom)
    layer = matrix @ rng.normal(mean, deviation, (count, side, side)) @ matrix.T
    layer = np.clip(np.where(layer < threshold, 0.0, layer), 0.0, 1.0)[..., None]
    layer = motion(layer, radius, sigma, rng.uniform(-135.0, -45.0, count))
    grey = (images @ _LUMA)[..., None]
    whitened = kept * images + (1.0 - kept) * np.maximum(images, grey * 1.5 + 0.5)
    return whitened + layer + layer[:, ::-1, ::-1]


def frost(images, rng, kept, strength):
    """Lays ice over the image.

    Differs: the authors cut it from six photographs of ice, which are not here; this ice is
    generated, as veins along the contours of a fractal.
    """
    heights = plasma(len(images), images.shape[1], 1.4, rng)
    veins = (1.0 - np.abs(2.0 * heights - 1.0)) ** 3
    return kept * images + strength * (0.25 + 0.75 * veins)[..., None] * _FROST_COLOR


def fog(images, rng, strength, decay):
    """Adds a fractal cloud, and rescales to the brightest value of the image."""
    most = images.max(axis=(1, 2, 3), keepdims=True)
    clouds = plasma(len(images), images.shape[1], decay, rng)[..., None]
    return (images + strength * clouds) * most / (most + strength)


def brightness(images, rng, added):
    """Adds to the value in HSV; hue and saturation are kept."""
    del rng
    value = images.max(axis=-1, keepdims=True)
    scaled = images * (np.minimum(value + added, 1.0) / np.where(value > 0, value, 1.0))
    return np.where(value > 0, scaled, np.minimum(added, 1.0))


def contrast(images, rng, factor):
    """Pulls the values of every channel towards their mean over the image."""
    del rng
    means = images.mean(axis=(1, 2), keepdims=True)
    return (images - means) * factor + means


def elastic_transform(images, rng, strength, smoothness, shift):
    """Moves three points of the image at random, then every pixel by a smooth random field.

    The strength and smoothness of the field, and the shift of the points, are shares of the side.
    """
    count, side = images.shape[:2]
    middle, arm = side // 2, max(1, side // 3)
    corners = np.array([[1, 1], [1, -1], [-1, -1]]) * arm + middle
    moved = corners + side * rng.uniform(-shift, shift, (count, 3, 2))
    # The affine map from where the corners end to where they begin: [row, column, 1] @ back.
    back = np.linalg.solve(
        np.concatenate([moved, np.ones((count, 3, 1))], axis=2),
        np.broadcast_to(corners, (count, 3, 2)),
    )
    grid = np.stack(np.mgrid[:side, :side], axis=-1).reshape(-1, 2).astype(float)
    places = np.concatenate([grid, np.ones((len(grid), 1))], axis=1) @ back  # [N, S * S, 2]
    turned = resample(images, places, "mirror")
    noise = rng.uniform(-1.0, 1.0, (count, side, side, 2))
    field = side * strength * blur(noise, side * smoothness, mode="reflect", truncate=3.0)
    return resample(turned, grid + field.reshape(count, -1, 2), "reflect")


def pixelate(images, rng, share):
    """Shrinks the image to a share of its side, and enlarges it again."""
    del rng
    side = images.shape[1]
    small = max(1, int(side * share))
    for matrix in (box_matrix(side, small), box_matrix(small, side)):
        images = np.einsum("yr,nrcd,xc->nyxd", matrix, images, matrix, optimize=True)
        images = np.rint(images * 255.0) / 255.0
    return images


def jpeg_compression(images, rng, quality):
    """Saves the image as JPEG, its colours at half the resolution."""
    del rng
    pixels = np.rint(np.clip(images, 0.0, 1.0) * 255.0).astype(np.uint8)
    return _saved_as_jpeg(pixels, quality).numpy() / 255.0


@tf.function(
    input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8), tf.TensorSpec([], tf.int32)],
    autograph=False,
)
def _saved_as_jpeg(pixels, quality):
    return tf.map_fn(
        lambda image: tf.image.adjust_jpeg_quality(image, quality, "INTEGER_ACCURATE"), pixels
    )
