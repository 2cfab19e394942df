"""Parts that corruptions are made of: blurs, enlargements, resampling, fractal noise."""

import math

import numpy as np
from scipy import ndimage


def blur(images: np.ndarray, sigma: float, mode: str = "nearest", truncate: float = 4.0):
    """Images float [N, S, S, C] convolved with a Gaussian of sigma pixels; 0 for none."""
    return ndimage.gaussian_filter(images, (0, sigma, sigma, 0), mode=mode, truncate=truncate)


def motion(images: np.ndarray, radius: float, sigma: float, degrees: np.ndarray) -> np.ndarray:
    """Smears every image along a line that begins at each pixel.

    Its 2 radius + 1 taps are one pixel apart, rounded to whole pixels, and weighed by half of a
    Gaussian; the edge's pixels continue beyond it.

    Args:
        images: float [N, S, S, C].
        radius: in pixels.
        sigma: of the Gaussian, in pixels.
        degrees: float [N], the direction for each image, clockwise from the right.

    Reference:
        The operation MotionBlurImage of ImageMagick 6.
    """
    taps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-(taps**2) / (2.0 * sigma**2))
    weights /= weights.sum()
    reach, side = int(taps[-1]), images.shape[1]
    padded = np.pad(images, [(0, 0), (reach, reach), (reach, reach), (0, 0)], mode="edge")
    smeared = np.zeros(images.shape)
    for number, angle in enumerate(np.deg2rad(degrees)):
        downs = reach + np.ceil(taps * np.sin(angle) - 0.5).astype(int)
        rights = reach + np.ceil(taps * np.cos(angle) - 0.5).astype(int)
        for weight, down, right in zip(weights, downs, rights, strict=True):
            shifted = padded[number, down : down + side, right : right + side]
            smeared[number] += weight * shifted
    return smeared


def zoom_matrix(side: int, factor: float) -> np.ndarray:
    """The middle of a line of pixels enlarged linearly, as a matrix float [side, side]."""
    seen = math.ceil(side / factor)
    first = (side - seen) // 2
    zoomed = ndimage.zoom(np.eye(side)[first : first + seen], (factor, 1), order=1)
    trimmed = (len(zoomed) - side) // 2
    return zoomed[trimmed : trimmed + side]


def box_matrix(side: int, new_side: int) -> np.ndarray:
    """A line of pixels resized to another length with a box filter, float [new_side, side].

    A new pixel is the mean of the old ones whose middle it covers or, when enlarging, the nearest.
    """
    scale = side / new_side
    middles = (np.arange(new_side)[:, None] + 0.5) * scale
    distances = np.arange(side) + 0.5 - middles
    half = max(scale, 1.0) / 2.0
    covered = ((distances > -half) & (distances <= half)).astype(float)
    return covered / covered.sum(axis=1, keepdims=True)


def resample(images: np.ndarray, places: np.ndarray, mode: str) -> np.ndarray:
    """Images at other places, interpolated linearly.

    Args:
        images: float [N, S, S, C].
        places: float [N, S * S, 2], row and column of every new pixel.
        mode: as in `scipy.ndimage.map_coordinates`, for places beyond the edge.
    """
    found = np.empty(images.shape)
    for number, own in enumerate(places):
        for channel in range(images.shape[-1]):
            one = ndimage.map_coordinates(images[number, ..., channel], own.T, order=1, mode=mode)
            found[number, ..., channel] = one.reshape(images.shape[1:3])
    return found


def plasma(count: int, side: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """Fractal heights by the diamond-square algorithm, on a torus.

    Args:
        count: N.
        side: S; the fractal's side is the next power of two, and is cut.
        decay: from one level to the next the noise is divided by its square.
        rng: generator.

    Returns:
        float64 [N, S, S]; the least of the whole fractal is 0 and the greatest 1.

    Reference:
        Fournier, Fussell and Carpenter 1982, "Computer Rendering of Stochastic Models".
    """
    whole = 2 ** max(1, math.ceil(math.log2(side)))
    heights, step, noise = np.zeros((count, whole, whole)), whole, 1.0

    def around(points, shifts):
        """The mean of the four points around, and noise."""
        mean = sum(np.roll(points, shift, axis=(1, 2)) for shift in shifts) / 4.0
        return mean + noise * rng.uniform(-1.0, 1.0, points.shape)

    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        middles = around(corners, [(0, 0), (-1, 0), (0, -1), (-1, -1)])
        heights[:, half::step, half::step] = middles
        # Between two corners and two middles each: to the right of a corner, and below one.
        pairs = corners + np.roll(corners, -1, axis=2) + middles + np.roll(middles, 1, axis=1)
        draws = rng.uniform(-1.0, 1.0, (2, *corners.shape))
        heights[:, ::step, half::step] = pairs / 4.0 + noise * draws[0]
        pairs = corners + np.roll(corners, -1, axis=1) + middles + np.roll(middles, 1, axis=2)
        heights[:, half::step, ::step] = pairs / 4.0 + noise * draws[1]
        step, noise = half, noise / decay**2
    least, most = (limit(heights, axis=(1, 2), keepdims=True) for limit in (np.min, np.max))
    return ((heights - least) / np.maximum(most - least, 1e-12))[:, :side, :side]
