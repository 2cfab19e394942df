"""Images with the smooth areas and the edges that corruptions act on."""

import numpy as np
from scipy import ndimage


def smooth_images(count, side, seed=0):
    """Smooth coloured images with a sharp-edged bar in each, uint8 [N, S, S, 3]."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(
        rng.random((count, side, side, 3)), (0, side / 10, side / 10, 0)
    )
    low, high = (limit(smooth, axis=(1, 2), keepdims=True) for limit in (np.min, np.max))
    images = 0.1 + 0.7 * (smooth - low) / (high - low)
    for image, top in zip(images, rng.integers(0, side // 2, count), strict=True):
        image[top : top + side // 3, top // 2 + 1 : -1 - top // 3] = rng.random(3)
    return np.rint(images * 255).astype(np.uint8)
