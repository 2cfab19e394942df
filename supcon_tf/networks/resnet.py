"""Residual networks, built from Keras's own layers only.

He et al. 2016, "Deep Residual Learning for Image Recognition", sections 3.3, 4.1 and 4.2; strides
and parameters are torchvision's (a bottleneck's stride is in its 3x3 convolution). ResNet-200 has
the blocks of He et al. 2016, "Identity Mappings in Deep Residual Networks", in this same form.
"""

import dataclasses

import keras
from keras import layers

from supcon_tf.core.errors import UserError

# Images in [0, 1] are brought near zero mean and unit variance; 0.45 and 0.25 are about the mean
# and deviation of photographs. The layer is part of the encoder, so what was trained is what is
# served.
_SCALE, _OFFSET = 1 / 0.25, -0.45 / 0.25


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Depth and width of a residual network.

    Attributes:
        blocks: residual blocks in each stage.
        channels: channels of each stage; a bottleneck stage outputs four times as many.
        bottleneck: 1x1-3x3-1x1 blocks rather than two 3x3 convolutions.
    """

    blocks: tuple[int, ...]
    channels: tuple[int, ...]
    bottleneck: bool = False


_SMALL, _LARGE = (16, 32, 64), (64, 128, 256, 512)

ENCODERS = {
    "resnet8": Architecture((1, 1, 1), _SMALL),
    "resnet14": Architecture((2, 2, 2), _SMALL),
    "resnet20": Architecture((3, 3, 3), _SMALL),
    "resnet18": Architecture((2, 2, 2, 2), _LARGE),
    "resnet34": Architecture((3, 4, 6, 3), _LARGE),
    "resnet50": Architecture((3, 4, 6, 3), _LARGE, bottleneck=True),
    "resnet101": Architecture((3, 4, 23, 3), _LARGE, bottleneck=True),
    "resnet152": Architecture((3, 8, 36, 3), _LARGE, bottleneck=True),
    "resnet200": Architecture((3, 24, 36, 3), _LARGE, bottleneck=True),
}

# From this side on, the four-stage networks start with the ImageNet stem (7x7 stride 2, pooling).
IMAGENET_STEM_FROM_PX = 128


def build_resnet(name: str, image_size_px: int, width_multiplier: float = 1.0) -> keras.Model:
    """Builds a residual network that ends in global average pooling.

    Args:
        name: a key of `ENCODERS`.
        image_size_px: side of the square input.
        width_multiplier: factor > 0 on all channels, rounded to at least one.

    Returns:
        A functional model from float32 [B, S, S, 3] in [0, 1] to features float32 [B, F].
        Four-stage networks have the CIFAR stem (3x3, stride 1) below 128 pixels and the ImageNet
        stem from there on; three-stage ones always have the CIFAR stem.

    Raises:
        UserError: if `name` is unknown, the image too small for the strides, or
            `width_multiplier` <= 0.
    """
    if name not in ENCODERS:
        raise UserError(
            f"a residual network must be one of {', '.join(ENCODERS)}. Received: {name!r}."
        )
    architecture = ENCODERS[name]
    num_stages = len(architecture.blocks)
    check_sizes(name, 2 ** (num_stages - 1), image_size_px, width_multiplier)
    widths = [max(1, round(width_multiplier * channels)) for channels in architecture.channels]
    imagenet = num_stages == 4 and image_size_px >= IMAGENET_STEM_FROM_PX
    stem = _imagenet_stem if imagenet else _cifar_stem
    images = keras.Input((image_size_px, image_size_px, 3), name="images")
    x = stem(standardize(images), widths[0])
    block = _bottleneck_block if architecture.bottleneck else _basic_block
    stages = zip(architecture.blocks, widths, strict=True)
    for number, (num_blocks, width) in enumerate(stages, start=1):
        x = _stage(x, number, num_blocks, width, block)
    features = layers.GlobalAveragePooling2D(dtype="float32", name="features")(x)
    return keras.Model(images, features, name=name)


def check_sizes(name: str, least_px: int, image_size_px: int, width_multiplier: float) -> None:
    """Raises `UserError` unless the image is large enough for the strides and the width positive.

    Args:
        name: of the network, for the message.
        least_px: side of the smallest image that the strides do not reduce to nothing.
        image_size_px: side of the square input.
        width_multiplier: factor on all channels.
    """
    if image_size_px < least_px:
        raise UserError(
            f"{name} needs images of {least_px} pixels or more. "
            f"Received: image_size_px={image_size_px}."
        )
    if not width_multiplier > 0:
        raise UserError(f"width_multiplier must be positive. Received: {width_multiplier}.")


def standardize(images):
    """Images in [0, 1] near zero mean and unit variance."""
    return layers.Rescaling(_SCALE, _OFFSET, name="standardize")(images)


def _stage(x, number, num_blocks, width, block):
    for index in range(1, num_blocks + 1):
        stride = 2 if number > 1 and index == 1 else 1
        x = block(x, width, stride, name=f"stage{number}_block{index}")
    return x


def _cifar_stem(x, width):
    return _conv_norm(x, width, 3, 1, "stem")


def _imagenet_stem(x, width):
    x = _conv_norm(x, width, 7, 2, "stem")
    return layers.MaxPooling2D(3, 2, padding="same", name="stem_pool")(x)


def _conv_norm(x, width, kernel, stride, name, relu=True, zero_init=False):
    """Convolution without bias, batch norm synchronized over replicas, and perhaps ReLU."""
    if stride > 1 and kernel > 1:
        # Symmetric padding, as published; "same" pads bottom and right only at stride 2.
        x = layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
    x = layers.Conv2D(
        width,
        kernel,
        stride,
        padding="valid" if stride > 1 else "same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    x = layers.BatchNormalization(
        momentum=0.9,
        epsilon=1e-5,
        gamma_initializer="zeros" if zero_init else "ones",
        synchronized=True,
        name=f"{name}_norm",
    )(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def _shortcut(x, width, stride, name):
    if stride == 1 and x.shape[-1] == width:
        return x
    return _conv_norm(x, width, 1, stride, f"{name}_shortcut", relu=False)


def _add(x, shortcut, name):
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, shortcut]))


def _basic_block(x, width, stride, name):
    shortcut = _shortcut(x, width, stride, name)
    x = _conv_norm(x, width, 3, stride, f"{name}_1")
    # The block starts as the identity (Goyal et al. 2017, section 5.1).
    x = _conv_norm(x, width, 3, 1, f"{name}_2", relu=False, zero_init=True)
    return _add(x, shortcut, name)


def _bottleneck_block(x, width, stride, name):
    shortcut = _shortcut(x, 4 * width, stride, name)
    x = _conv_norm(x, width, 1, 1, f"{name}_1")
    x = _conv_norm(x, width, 3, stride, f"{name}_2")
    x = _conv_norm(x, 4 * width, 1, 1, f"{name}_3", relu=False, zero_init=True)
    return _add(x, shortcut, name)
