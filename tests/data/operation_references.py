"""The operations of augmentations with Pillow and SciPy, one image at a time, in physical units."""

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

SIDE = 24


def pictures(side=SIDE):
    """uint8 [5, side, side, 3]: noise, dim noise, a ramp, few levels, one channel flat."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, [5, side, side, 3])
    noise[1] = 60 + noise[1] // 4
    noise[2] = np.linspace(3, 240, side).astype(int)[:, None, None] + [0, 5, 10]
    noise[3] //= 85
    noise[4, ..., 1] = 77
    return noise.astype(np.uint8)


def operated(name, image, value):
    """An operation on levels uint8 [side, side, 3], as float64 levels.

    Args:
        name: as in `ALL_OPERATIONS`.
        image: the levels.
        value: degrees of rotate; what shear adds to a place for each pixel from the edge; pixels of
            translate; factor of the four enhancements; bits that posterize keeps; the lowest level
            that solarize inverts. Not used by the others.
    """
    if name == "identity":
        return image.astype(float)
    if name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y"):
        return _warped(name, image, value)
    picture = Image.fromarray(image)
    if name in ("brightness", "color", "contrast", "sharpness"):
        found = getattr(ImageEnhance, name.capitalize())(picture).enhance(value)
    elif name in ("posterize", "solarize"):
        found = getattr(ImageOps, name)(picture, value)
    else:
        found = getattr(ImageOps, name)(picture)
    return np.asarray(found, float)


def _warped(name, image, value):
    side = len(image)
    matrix, offset = np.eye(2), np.zeros(2)  # Of rows and columns.
    if name == "rotate":
        angle, center = np.deg2rad(value), np.full(2, (side - 1) / 2)
        matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        offset = center - matrix @ center
    elif name == "shear_x":
        matrix[1, 0] = value
    elif name == "shear_y":
        matrix[0, 1] = value
    else:
        offset["yx".index(name[-1])] = value
    channels = [
        ndimage.affine_transform(
            image[..., channel].astype(float),
            matrix,
            offset,
            order=1,
            mode="grid-constant",
            cval=127.5,
        )
        for channel in range(3)
    ]
    return np.stack(channels, axis=-1)
