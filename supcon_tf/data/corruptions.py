"""Corrupted images: fifteen corruptions at five severities, of 32-pixel and of 224-pixel images.

The numbers are those of CIFAR-10-C and ImageNet-C; images of other sizes use the nearer one's.
"""

import math
from collections.abc import Callable

import numpy as np

from supcon_tf.data import corruption_kinds as kinds

SEVERITIES = (1, 2, 3, 4, 5)
# Values of images that are corrupted at once: 32 MiB in float64.
_CHUNK_VALUES = 2**22
_CHUNK_IMAGES = 256

# ImageNet-C takes shares of 244 pixels where the images have 224.
_244 = 244 / 224

# By corruption: the function, and its numbers at each severity for 32 and for 224 pixels.
_OF_SIZE: dict[str, tuple[Callable, dict[int, tuple]]] = {
    "gaussian_noise": (
        kinds.gaussian_noise,
        {32: (0.04, 0.06, 0.08, 0.09, 0.10), 224: (0.08, 0.12, 0.18, 0.26, 0.38)},
    ),
    "shot_noise": (
        kinds.shot_noise,
        {32: (500, 250, 100, 75, 50), 224: (60, 25, 12, 5, 3)},
    ),
    "impulse_noise": (
        kinds.impulse_noise,
        {32: (0.01, 0.02, 0.03, 0.05, 0.07), 224: (0.03, 0.06, 0.09, 0.17, 0.27)},
    ),
    "defocus_blur": (
        kinds.defocus_blur,
        {
            32: ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
            224: ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        },
    ),
    "glass_blur": (
        kinds.glass_blur,
        {
            32: ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
            224: ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        },
    ),
    "motion_blur": (
        kinds.motion_blur,
        {
            32: ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
            224: ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        },
    ),
    "zoom_blur": (
        kinds.zoom_blur,
        {
            32: ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
            224: ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        },
    ),
    "snow": (
        kinds.snow,
        {
            32: (
                (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
                (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
                (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
                (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
                (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
            ),
            224: (
                (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
                (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
                (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
                (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
                (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
            ),
        },
    ),
    "frost": (
        kinds.frost,
        {
            32: ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
            224: ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        },
    ),
    "fog": (
        kinds.fog,
        {
            32: ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
            224: ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        },
    ),
    "brightness": (
        kinds.brightness,
        {32: (0.05, 0.1, 0.15, 0.2, 0.3), 224: (0.1, 0.2, 0.3, 0.4, 0.5)},
    ),
    "contrast": (
        kinds.contrast,
        {32: (0.75, 0.5, 0.4, 0.3, 0.15), 224: (0.4, 0.3, 0.2, 0.1, 0.05)},
    ),
    # Shares of the side.
    "elastic_transform": (
        kinds.elastic_transform,
        {
            32: (
                (0, 0, 0.08),
                (0.05, 0.2, 0.07),
                (0.08, 0.06, 0.06),
                (0.1, 0.04, 0.05),
                (0.1, 0.03, 0.03),
            ),
            224: (
                (2 * _244, 0.7 * _244, 0.1 * _244),
                (2 * _244, 0.08 * _244, 0.2 * _244),
                (0.05 * _244, 0.01 * _244, 0.02 * _244),
                (0.07 * _244, 0.01 * _244, 0.02 * _244),
                (0.12 * _244, 0.01 * _244, 0.02 * _244),
            ),
        },
    ),
    "pixelate": (
        kinds.pixelate,
        {32: (0.95, 0.9, 0.85, 0.75, 0.65), 224: (0.6, 0.5, 0.4, 0.3, 0.25)},
    ),
    "jpeg_compression": (
        kinds.jpeg_compression,
        {32: (80, 65, 58, 50, 40), 224: (25, 18, 15, 10, 7)},
    ),
}
CORRUPTIONS = tuple(_OF_SIZE)


def parameters(corruption: str, severity: int, side: int) -> tuple:
    """The numbers of a corruption.

    Args:
        corruption: one of `CORRUPTIONS`.
        severity: from 1 to 5.
        side: of the images, in pixels.
    """
    sizes = _OF_SIZE[corruption][1]
    nearest = min(sizes, key=lambda size: abs(math.log(side / size)))
    found = sizes[nearest][severity - 1]
    return found if isinstance(found, tuple) else (found,)


def corrupt(
    images: np.ndarray, corruption: str, severity: int, seed: int, first: int = 0
) -> np.ndarray:
    """Corrupts images; the same images and seed always give the same result.

    Args:
        images: uint8 [N, S, S, 3].
        corruption: one of `CORRUPTIONS`.
        severity: from 1 to 5.
        seed: int >= 0.
        first: place of the first image among all that are corrupted.

    Returns:
        uint8 [N, S, S, 3].

    Raises:
        ValueError: if there is no such corruption or severity, or the images have a different form.
    """
    if corruption not in CORRUPTIONS or severity not in SEVERITIES:
        raise ValueError(
            f"corruption must be one of {', '.join(CORRUPTIONS)}, and severity from 1 to 5. "
            f"Received: {corruption!r}, {severity!r}."
        )
    side = images.shape[1]
    if images.dtype != np.uint8 or images.shape[1:] != (side, side, 3):
        raise ValueError(
            f"images must be uint8 [N, S, S, 3]. Received: {images.dtype} {list(images.shape)}."
        )
    function, numbers = _OF_SIZE[corruption][0], parameters(corruption, severity, side)
    size = max(1, min(_CHUNK_IMAGES, _CHUNK_VALUES // (side * side * 3)))
    found, key = np.empty_like(images), CORRUPTIONS.index(corruption)
    for start in range(0, len(images), size):
        rng = np.random.default_rng([seed, key, severity, first + start])
        changed = function(images[start : start + size] / 255.0, rng, *numbers)
        found[start : start + size] = np.rint(np.clip(changed, 0.0, 1.0) * 255.0)
    return found
