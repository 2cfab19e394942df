"""RandAugment and cutout, as functions of images and random numbers.

The images of a batch are sorted by their operation, so that each image costs one operation, and
each operation a few calls.
"""

import math

import tensorflow as tf

# Rec. 601 luma.
_GREY = (0.299, 0.587, 0.114)
# Value of a cutout's square, and of what lies outside a turned, sheared or moved image.
_FILL = 0.5


def rand_augment(images, numbers, magnitude, probability):
    """Applies to each image operations drawn from `OPERATIONS`, one after another.

    The magnitude is a share of each operation's range. At 0 all but autocontrast and equalize leave
    an image of 256 levels as it is; at 1 the magnitude is

        rotate      30 degrees, either way
        shear       0.3 of the distance from the upper or left edge, either way
        translate   10 / 32 of the side, either way
        brightness  1 +- 0.9 times the distance from black
        color       1 +- 0.9 times the distance from the pixel's own grey
        contrast    1 +- 0.9 times the distance from the mean grey
        sharpness   1 +- 0.9 times the distance from the smoothed image
        posterize   4 of 8 bits
        solarize    pixels from level 128 of 255 on are inverted

    Args:
        images: float32 [B, S, S, 3] in [0, 1], S >= 2.
        numbers: float32 [B, N, 3], uniform in [0, 1): for each of N operations of an image, which
            one it is, whether it is applied, and in which direction.
        magnitude: float in [0, 1], the same for all operations.
        probability: float in [0, 1], with which each operation is applied.

    Returns:
        float32 [B, S, S, 3] in [0, 1].

    Reference:
        Cubuk et al. 2020, "RandAugment: Practical Automated Data Augmentation with a Reduced Search
        Space". The ranges are those of CoMatch's code (Li et al. 2021), which trains at their upper
        end. Differs: there the four enhancements take the factor 1.9 only, and solarize at the
        upper end changes nothing.
    """
    for slot in range(numbers.shape[1]):
        drawn, chance, direction = tf.unstack(numbers[:, slot], axis=1)
        which = tf.cast(drawn * len(OPERATIONS), tf.int32)
        which = tf.where(chance < probability, which, list(OPERATIONS).index("identity"))
        amounts = tf.where(direction < 0.5, -magnitude, magnitude)
        images = apply_operations(images, which, amounts)
    return images


def apply_operations(images, which, amounts):
    """Applies one operation to each image.

    Args:
        images: float32 [B, S, S, 3] in [0, 1], S >= 2.
        which: int32 [B], places in `ALL_OPERATIONS`.
        amounts: float32 [B], magnitudes with their directions, in units of the ranges that
            `rand_augment` lists; beyond 1 where an operation's own limits allow.

    Returns:
        float32 [B, S, S, 3] in [0, 1].
    """
    count = len(ALL_OPERATIONS)
    places = tf.dynamic_partition(tf.range(tf.shape(images)[0]), which, count)
    results = [
        operation(tf.gather(images, own), tf.gather(amounts, own)[:, None, None, None])
        for operation, own in zip(ALL_OPERATIONS.values(), places, strict=True)
    ]
    joined = tf.dynamic_stitch(places, results)
    return tf.clip_by_value(tf.ensure_shape(joined, images.shape), 0.0, 1.0)


def cut_out(images, centers, cutout):
    """Makes a square of each image grey, as far as it lies in the image.

    Args:
        images: float32 [B, S, S, 3] in [0, 1].
        centers: float32 [B, 2], of the squares, uniform in [0, 1): shares of the image's sides.
        cutout: float in [0, 1], side of a square as a share of the image's, rounded to pixels.

    Returns:
        float32 [B, S, S, 3] in [0, 1].

    Reference:
        DeVries and Taylor 2017, "Improved Regularization of Convolutional Neural Networks with
        Cutout", section 3.2.
    """
    side = images.shape[1]
    size = round(cutout * side)
    firsts = tf.cast(tf.floor(centers * side), tf.int32) - size // 2
    offsets = tf.range(side) - firsts[..., None]  # [B, 2, S]
    inside = (offsets >= 0) & (offsets < size)
    square = inside[:, 0, :, None] & inside[:, 1, None, :]
    return tf.where(square[..., None], _FILL, images)


def grey(images):
    """The luma [..., 1] of images [..., 3]."""
    return tf.reduce_sum(images * tf.constant(_GREY), axis=-1, keepdims=True)


def _levels(images):
    """The nearest of 256 levels, 0 to 255."""
    return tf.round(images * 255)


def _autocontrast(images, _):
    low = tf.reduce_min(images, axis=[1, 2], keepdims=True)
    high = tf.reduce_max(images, axis=[1, 2], keepdims=True)
    return tf.where(high > low, tf.math.divide_no_nan(images - low, high - low), images)


def _equalize(images, _):
    """Spreads the levels of each channel, so that all hold equally many pixels, as Pillow does.

    If that would be less than one pixel (in small images), the channel remains as it is.
    """
    batch, side = tf.shape(images)[0], images.shape[1]
    levels = tf.cast(_levels(images), tf.int32)
    # The table [b, 256, 3] of new levels has an entry for each image, level and channel.
    entries = (tf.range(batch)[:, None, None, None] * 256 + levels) * 3 + tf.range(3)
    counts = tf.math.unsorted_segment_sum(tf.ones_like(entries), entries, batch * 256 * 3)
    counts = tf.reshape(counts, [batch, 256, 3])
    highest = tf.reduce_max(levels, axis=[1, 2], keepdims=True)
    at_highest = tf.reduce_sum(tf.cast(levels == highest, tf.int32), axis=[1, 2])
    step = (side * side - at_highest)[:, None, :] // 255
    below = tf.cumsum(counts, axis=1, exclusive=True)
    table = tf.minimum((below + step // 2) // tf.maximum(step, 1), 255)
    equalized = tf.cast(tf.gather(tf.reshape(table, [-1]), entries), tf.float32) / 255
    return tf.where(step[:, :, None] > 0, equalized, images)


def _posterize(images, amounts):
    step = 2.0 ** tf.round(4 * tf.abs(amounts))
    return tf.floor(_levels(images) / step) * step / 255


def _solarize(images, amounts):
    return tf.where(_levels(images) < 256 - 128 * tf.abs(amounts), images, 1 - images)


def _enhance(images, amounts, degenerate):
    return images + 0.9 * amounts * (images - degenerate)


def _contrast(images, amounts):
    return _enhance(images, amounts, tf.reduce_mean(grey(images), axis=[1, 2], keepdims=True))


def _sharpness(images, amounts):
    """The smoothed image weights a pixel by 5 / 13 and each of its neighbours by 1 / 13."""
    if images.shape[1] < 2:
        return images
    inner = images[:, 1:-1, 1:-1]
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    details = inner - (sums + 4 * inner) / 13
    # The outermost pixels remain as they are.
    return images + 0.9 * amounts * tf.pad(details, [[0, 0], [1, 1], [1, 1], [0, 0]])


def _rotate(images, amounts):
    angle, center = math.radians(30) * amounts, (images.shape[1] - 1) / 2
    cos, sin = tf.cos(angle), tf.sin(angle)
    shift_x, shift_y = center * (1 - cos + sin), center * (1 - cos - sin)
    return _warp(images, cos, -sin, shift_x, sin, cos, shift_y)


def _shear_x(images, amounts):
    return _warp(images, 1.0, 0.3 * amounts, 0.0, 0.0, 1.0, 0.0)


def _shear_y(images, amounts):
    return _warp(images, 1.0, 0.0, 0.0, 0.3 * amounts, 1.0, 0.0)


def _translate_x(images, amounts):
    return _warp(images, 1.0, 0.0, 10 / 32 * images.shape[1] * amounts, 0.0, 1.0, 0.0)


def _translate_y(images, amounts):
    return _warp(images, 1.0, 0.0, 0.0, 0.0, 1.0, 10 / 32 * images.shape[1] * amounts)


def _warp(images, *affine):
    """Pixel (x, y) comes from (a x + b y + c, d x + e y + f); each of a to f is a number or [b]."""
    batch = tf.shape(images)[0]
    entries = [tf.broadcast_to(tf.reshape(entry, [-1]), [batch]) for entry in (*affine, 0.0, 0.0)]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack(entries, axis=1),
        output_shape=images.shape[1:3],
        fill_value=_FILL,
        interpolation="BILINEAR",
    )


# Each takes images float32 [b, S, S, 3] and amounts float32 [b, 1, 1, 1], and may leave [0, 1].
OPERATIONS = {
    "identity": lambda images, _: images,
    "autocontrast": _autocontrast,
    "brightness": lambda images, amounts: _enhance(images, amounts, 0.0),
    "color": lambda images, amounts: _enhance(images, amounts, grey(images)),
    "contrast": _contrast,
    "equalize": _equalize,
    "posterize": _posterize,
    "rotate": _rotate,
    "sharpness": _sharpness,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "solarize": _solarize,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}

# With AutoAugment's own; those above keep their places.
ALL_OPERATIONS = {**OPERATIONS, "invert": lambda images, _: 1.0 - images}
