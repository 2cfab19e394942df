"""A small plain network that learns CIFAR-10 in minutes, built from Keras's own layers only.

Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU": six 3x3 convolutions behind a fixed
2x2 one that whitens patches.
"""

import keras
import numpy as np
from keras import layers

from supcon_tf.networks.resnet import check_sizes, standardize

# The channels of each stage.
AIRBENCH_ENCODERS = {"airbench94": (64, 256, 256)}

# Patches of 2x2 pixels: mean, differences of columns, of rows, and of diagonals.
_HAAR = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
# Red, green and blue: luminance, red against blue, and green against both.
_COLOURS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
# Root mean square of each product of the two over CIFAR-10's training images, standardized: rows as
# in _HAAR, columns as in _COLOURS. The products are nearly uncorrelated (at most 0.11).
_SIZES = np.array(
    [[3.183, 0.930, 0.424], [0.584, 0.062, 0.038], [0.634, 0.076, 0.044], [0.234, 0.014, 0.011]]
)
_LEAST_VARIANCE = 5e-4  # Anything below is mostly the rounding of pixels.


def build_airbench(name: str, image_size_px: int, width_multiplier: float = 1.0) -> keras.Model:
    """Builds a plain convolutional network that ends in global average pooling.

    The first convolution is fixed: it gives the twelve components of each patch of 2x2 pixels,
    scaled to the same size, and their negatives. A stage is conv, max pooling by 2, act, conv, act,
    where act is batch norm and GELU, and convolutions are 3x3.

    Args:
        name: a key of `AIRBENCH_ENCODERS`.
        image_size_px: side of the square input.
        width_multiplier: factor > 0 on all channels but the 24 of the first convolution, rounded to
            at least one.

    Returns:
        A functional model from float32 [B, S, S, 3] in [0, 1] to features float32 [B, F]. Its
        layers are `stem_...` and `stage{n}_{m}_...`.

    Raises:
        UserError: if the image is smaller than 9 pixels, or `width_multiplier` <= 0.

    Reference:
        Differs from Jordan: the first kernel is not computed from the training images, so that
        weights depend on the seed alone; batch norm scales too and has epsilon 1e-5; average
        pooling at the end in place of the maximum.
    """
    channels = AIRBENCH_ENCODERS[name]
    check_sizes(name, 9, image_size_px, width_multiplier)
    images = keras.Input((image_size_px, image_size_px, 3), name="images")
    x = _whiten(standardize(images))
    for stage, width in enumerate(channels, start=1):
        width = max(1, round(width_multiplier * width))
        x = _conv(x, width, f"stage{stage}_1")
        x = layers.MaxPooling2D(2, name=f"stage{stage}_pool")(x)
        x = _activate(x, f"stage{stage}_1")
        x = _activate(_conv(x, width, f"stage{stage}_2"), f"stage{stage}_2")
    features = layers.GlobalAveragePooling2D(dtype="float32", name="features")(x)
    return keras.Model(images, features, name=name)


def whitening_kernel() -> np.ndarray:
    """The kernel of the first convolution: float32 [2, 2, 3, 24]."""
    components = _HAAR[:, None, :, None] * _COLOURS[None, :, None, :]
    components = components / np.sqrt(_SIZES**2 + _LEAST_VARIANCE)[:, :, None, None]
    kernel = components.reshape(12, 2, 2, 3).transpose(1, 2, 3, 0)
    return np.concatenate([kernel, -kernel], axis=-1).astype(np.float32)


def _whiten(x):
    kernel = whitening_kernel()
    conv = layers.Conv2D(kernel.shape[-1], 2, use_bias=False, trainable=False, name="stem_conv")
    x = conv(x)
    conv.set_weights([kernel])
    return layers.Activation("gelu", name="stem_gelu")(x)


def _conv(x, width, name):
    conv = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"{name}_conv")
    before = x.shape[-1]
    x = conv(x)
    # The first channels begin as copies of the input's.
    (kernel,) = conv.get_weights()
    kept = min(before, width)
    kernel[..., :kept] = 0
    kernel[1, 1, range(kept), range(kept)] = 1
    conv.set_weights([kernel])
    return x


def _activate(x, name):
    norm = layers.BatchNormalization(
        momentum=0.6, epsilon=1e-5, synchronized=True, name=f"{name}_norm"
    )
    return layers.Activation("gelu", name=f"{name}_gelu")(norm(x))
