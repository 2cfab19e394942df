"""Wide residual networks of pre-activation blocks, built from Keras's own layers only.

Zagoruyko and Komodakis 2016, "Wide Residual Networks", table 1, in the form in which FixMatch (Sohn
et al. 2020) and CoMatch (Li et al. 2021) train them: leaky ReLU of slope 0.1, and batch norm with
slow moving averages.
"""

import keras
from keras import layers

from supcon_tf.networks.resnet import check_sizes, standardize

# The factor on 16, 32 and 64 channels of networks of 28 layers.
WIDE_ENCODERS = {"wide_resnet28_2": 2, "wide_resnet28_8": 8}
CHANNELS = (16, 32, 64)
_BLOCKS_PER_STAGE = 4
# The moving averages need thousands of steps.
_NORM = {"momentum": 0.999, "epsilon": 1e-3, "synchronized": True}


def build_wide_resnet(name: str, image_size_px: int, width_multiplier: float = 1.0) -> keras.Model:
    """Builds a wide residual network that ends in global average pooling.

    A block is x + conv(act(conv(act(x)))), where act is batch norm and leaky ReLU, and both
    convolutions are 3x3. A shortcut has a 1x1 convolution where channels or sides change; that of
    the very first block begins with act(x), as in FixMatch.

    Args:
        name: a key of `WIDE_ENCODERS`.
        image_size_px: side of the square input.
        width_multiplier: factor > 0 on all channels, rounded to at least one.

    Returns:
        A functional model from float32 [B, S, S, 3] in [0, 1] to features float32 [B, F]. Its
        layers are `stem_...`, `stage{n}_block{m}_...` and, after the last block, `last_...`.

    Raises:
        UserError: if the image is too small for the strides, or `width_multiplier` <= 0.

    Reference:
        Differs from FixMatch: convolutions have no bias, and are padded equally on all sides.
    """
    check_sizes(name, 2 ** (len(CHANNELS) - 1), image_size_px, width_multiplier)
    images = keras.Input((image_size_px, image_size_px, 3), name="images")

    def width(channels):
        return max(1, round(width_multiplier * channels))

    x = _conv(standardize(images), width(CHANNELS[0]), 3, 1, "stem")
    for stage, channels in enumerate(CHANNELS, start=1):
        for block in range(1, _BLOCKS_PER_STAGE + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            label = f"stage{stage}_block{block}"
            x = _block(x, width(channels * WIDE_ENCODERS[name]), stride, label)
    x = _activate(x, "last")
    features = layers.GlobalAveragePooling2D(dtype="float32", name="features")(x)
    return keras.Model(images, features, name=name)


def _block(x, width, stride, name):
    activated = _activate(x, f"{name}_1")
    shortcut = activated if name == "stage1_block1" else x
    if stride > 1 or shortcut.shape[-1] != width:
        shortcut = _conv(shortcut, width, 1, stride, f"{name}_shortcut")
    x = _conv(activated, width, 3, stride, f"{name}_1")
    x = _conv(_activate(x, f"{name}_2"), width, 3, 1, f"{name}_2")
    return layers.Add(name=f"{name}_add")([x, shortcut])


def _activate(x, name):
    x = layers.BatchNormalization(**_NORM, name=f"{name}_norm")(x)
    return layers.LeakyReLU(0.1, name=f"{name}_relu")(x)


def _conv(x, width, kernel, stride, name):
    if stride > 1 and kernel > 1:
        # Alike on all sides; "same" pads bottom and right only at stride 2.
        x = layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
    return layers.Conv2D(
        width,
        kernel,
        stride,
        padding="valid" if stride > 1 else "same",
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        name=f"{name}_conv",
    )(x)
