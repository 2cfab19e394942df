"""Decoding and evaluation preprocessing: one path for training, evaluation and serving."""

import tensorflow as tf

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png")


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes an image of any supported format to three channels.

    Args:
        encoded: scalar string: JPEG, PNG, BMP, or GIF (its first frame). Grey is repeated to three
            channels, and an alpha channel is dropped.

    Returns:
        uint8 [H, W, 3].

    Raises:
        tf.errors.InvalidArgumentError: if the bytes are no such image.
    """
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image.set_shape([None, None, 3])
    return image


def is_readable(encoded: bytes) -> bool:
    """Whether `decode` gives the picture that the bytes hold.

    Damage that a decoder repairs by itself, as JPEG's does within a picture, is not noticed.

    Args:
        encoded: the content of a file.
    """
    if encoded[:2] == b"BM" and _has_colour_palette(encoded):
        return False  # TensorFlow takes the palette's indices for grey levels.
    try:
        decode(tf.constant(encoded))
    except (tf.errors.OpError, ValueError):
        return False
    return True


def _has_colour_palette(bmp: bytes) -> bool:
    """Whether a BMP of at most 8 bits a pixel has a palette other than the grey levels in order."""
    header, bits = int.from_bytes(bmp[14:18], "little"), int.from_bytes(bmp[28:30], "little")
    if bits > 8:
        return False
    palette = bmp[14 + header : 14 + header + 4 * 256]
    levels = [tuple(palette[at : at + 3]) for at in range(0, len(palette) - 3, 4)]
    return bits < 8 or levels != [(level,) * 3 for level in range(len(levels))]


def preprocess(image: tf.Tensor, image_size_px: int) -> tf.Tensor:
    """The image as evaluation and serving see it: centre square, resized, in [0, 1].

    Args:
        image: uint8 [..., H, W, 3] or float in [0, 255]; one image, or a batch of one size.
        image_size_px: side of the result. An image of that size is not resampled.

    Returns:
        float32 [..., S, S, 3] in [0, 1].
    """
    height, width = tf.unstack(tf.shape(image)[-3:-1])
    side = tf.minimum(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[..., top : top + side, left : left + side, :]
    resized = tf.image.resize(square, [image_size_px, image_size_px], antialias=True)
    return tf.clip_by_value(resized / 255.0, 0.0, 1.0)


def shrink(image: tf.Tensor, image_size_px: int) -> tf.Tensor:
    """Scales a large image down, smoothed, so that its short side is at most twice the size given.

    Random crops are then sampled without smoothing and without visible aliasing.

    Args:
        image: uint8 [H, W, 3].
        image_size_px: side of the crops to be taken.

    Returns:
        float32 [H', W', 3] in [0, 1], the aspect kept.
    """
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    scale = tf.minimum(1.0, 2.0 * image_size_px / tf.reduce_min(size))
    target = tf.cast(tf.math.ceil(size * scale), tf.int32)
    return tf.image.resize(image, target, antialias=True) / 255.0
