"""Decoding and evaluation preprocessing: one path for training, evaluation and serving."""

import contextlib

import tensorflow as tf

from supcon_tf.core.errors import UserError
from supcon_tf.data.headers import FORMATS, is_animated_webp

_EXIF_ENTRIES, _ORIENTATION_TAG = 512, 0x0112


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes an image of any supported format to three channels.

    Args:
        encoded: scalar string: JPEG, PNG, BMP, GIF (its first frame), or WebP without animation.
            Grey is repeated to three channels, an alpha channel is dropped, and of 16 bits the
            upper 8 are kept. A JPEG is turned upright by its EXIF orientation.

    Returns:
        uint8 [H, W, 3].

    Raises:
        tf.errors.InvalidArgumentError: if the bytes are no such image.
    """
    head = tf.strings.join([tf.strings.substr(encoded, 0, 21), bytes(21)])  # All 21 bytes exist.
    is_webp = (tf.strings.substr(head, 0, 4) == b"RIFF") & (
        tf.strings.substr(head, 8, 4) == b"WEBP"
    )
    image = tf.cond(is_webp, lambda: _decode_webp(encoded, head), lambda: _decode_other(encoded))
    orientation = exif_orientation(encoded)
    return tf.cond(orientation == 1, lambda: image, lambda: _upright(image, orientation))


def _decode_other(encoded):
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image.set_shape([None, None, 3])
    return image


def _decode_webp(encoded, head):
    """uint8 [H, W, 3]; `head` is the first 21 bytes.

    TensorFlow decodes a WebP to the channels that it has, and refuses a different number. It must
    not get an animation: it writes four channels of each frame into room for three (2.21).
    """
    flags = tf.cast(tf.io.decode_raw(tf.strings.substr(head, 20, 1), tf.uint8)[0], tf.int32)
    is_animated = (tf.strings.substr(head, 12, 4) == b"VP8X") & (flags // 2 % 2 == 1)
    encoded = tf.where(is_animated, b"", encoded)
    image = tf.io.decode_image(encoded, channels=0, expand_animations=False)
    image.set_shape([None, None, None])
    return tf.ensure_shape(image[:, :, :3], [None, None, 3])


def _upright(image, orientation):
    """Undoes an EXIF orientation, 2 to 8, of uint8 [H, W, 3]."""

    def turned(image, orientations, turn):
        wanted = tf.reduce_any(orientation == orientations)
        return tf.cond(wanted, lambda: turn(image), lambda: image)

    image = turned(image, [5, 6, 7, 8], lambda image: tf.transpose(image, [1, 0, 2]))
    image = turned(image, [2, 3, 6, 7], lambda image: image[:, ::-1])
    return turned(image, [3, 4, 7, 8], lambda image: image[::-1])


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def exif_orientation(encoded: tf.Tensor) -> tf.Tensor:
    """The EXIF orientation of a JPEG.

    Args:
        encoded: scalar string, an image of any format.

    Returns:
        int32 scalar from 1 (upright) to 8; 1 for other formats, or if it is missing or broken.

    Reference:
        CIPA DC-008-2019, "Exif 2.32", section 4.6.
    """
    is_jpeg = tf.strings.substr(encoded, 0, 3) == b"\xff\xd8\xff"
    return tf.cond(is_jpeg, lambda: _jpeg_orientation(encoded), lambda: 1)


def _jpeg_orientation(encoded):
    """Looks at the first segment or, after JFIF's, the second, where the standard wants Exif."""
    nothing = tf.constant(bytes(16))  # So that every byte looked at exists.
    head = tf.strings.join([tf.strings.substr(encoded, 0, 6), nothing])
    head = tf.cast(tf.io.decode_raw(head, tf.uint8)[:6], tf.int32)
    segment = tf.where(head[3] == 0xE0, 4 + 256 * head[4] + head[5], 2)
    segment = tf.minimum(segment, tf.strings.length(encoded))
    segment = tf.strings.join([tf.strings.substr(encoded, segment, 2**16 + 2), nothing])
    marked = tf.strings.substr(segment, 0, 2) == b"\xff\xe1"
    is_exif = marked & (tf.strings.substr(segment, 4, 4) == b"Exif")
    return tf.cond(is_exif, lambda: _exif_value(segment), lambda: 1)


def _exif_value(segment):
    """The orientation from the TIFF structure that begins 10 bytes into an Exif segment."""
    content = tf.cast(tf.io.decode_raw(segment, tf.uint8), tf.int32)
    little = content[10] == ord("I")

    def number(at):  # Two bytes, in the order that the file has chosen; zeros beyond the end.
        first, second = tf.unstack(
            tf.gather(content, tf.minimum([at, at + 1], tf.size(content) - 1))
        )
        return tf.where(little, first + 256 * second, 256 * first + second)

    # The upper half of the 32-bit offset must be zero, as the segment is shorter than 2**16.
    directory = 10 + number(10 + tf.where(little, 4, 6))
    beyond = number(10 + tf.where(little, 6, 4)) > 0
    entries = directory + 2 + 12 * tf.range(tf.minimum(number(directory), _EXIF_ENTRIES))
    values = tf.boolean_mask(number(entries + 8), number(entries) == _ORIENTATION_TAG)
    value = tf.concat([values, [1]], axis=0)[0]
    return tf.where((value >= 1) & (value <= 8) & ~beyond, value, 1)


class InvalidImage(UserError):
    """Bytes or pixels that are not an image; the message says why."""


@contextlib.contextmanager
def invalid_images():
    """Turns what TensorFlow raises about an image's bytes into `InvalidImage`."""
    try:
        yield
    except tf.errors.ResourceExhaustedError:
        raise  # Not the image's fault.
    except (tf.errors.OpError, ValueError) as error:
        raise InvalidImage(f"the bytes are not a whole {FORMATS} image. Check the file.") from error


def decode_checked(encoded: bytes) -> tf.Tensor:
    """As `decode`, for bytes that come from outside.

    Args:
        encoded: the content of a file.

    Returns:
        uint8 [H, W, 3].

    Raises:
        InvalidImage: if it is not an image, or `decode` would not decode it correctly.
    """
    refuse_unsupported(encoded)
    with invalid_images():
        return decode(tf.constant(encoded))


def refuse_unsupported(encoded: bytes) -> None:
    """Refuses images of a known format that `decode` would fail on, or show wrongly.

    Args:
        encoded: the content of a file of any kind.

    Raises:
        InvalidImage: if it is an animated WebP, or a BMP of up to 8 bits per pixel whose palette is
            not the grey levels in order.
    """
    if is_animated_webp(encoded):
        raise InvalidImage("animated WebP images are not supported. Save a single frame.")
    if encoded[:2] == b"BM":
        _refuse_colour_palette(encoded)


def _refuse_colour_palette(encoded):
    """TensorFlow takes the indices of a BMP's palette for grey levels."""
    header, bits = (
        int.from_bytes(encoded[14:18], "little"),
        int.from_bytes(encoded[28:30], "little"),
    )
    if bits > 8:
        return
    palette = encoded[14 + header : 14 + header + 4 * 256]
    levels = [tuple(palette[at : at + 3]) for at in range(0, len(palette) - 3, 4)]
    if bits < 8 or levels != [(level,) * 3 for level in range(len(levels))]:
        raise InvalidImage("BMP images with a colour palette are not supported. Use PNG.")


def preprocess(image: tf.Tensor, image_size_px: int) -> tf.Tensor:
    """The image as evaluation and serving see it: centre square, resized, in [0, 1].

    Args:
        image: uint8 [..., H, W, 3] or float in [0, 255]; one image, or a batch of one size.
        image_size_px: side of the result. An image of that size is not resampled.

    Returns:
        float32 [..., S, S, 3] in [0, 1].
    """
    return tf.clip_by_value(to_unit(central_square(image, image_size_px)), 0.0, 1.0)


def central_square(image: tf.Tensor, image_size_px: int) -> tf.Tensor:
    """The square in the middle of images [..., H, W, 3], resized to float32 [..., S, S, 3]."""
    height, width = tf.unstack(tf.shape(image)[-3:-1])
    side = tf.minimum(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[..., top : top + side, left : left + side, :]
    return tf.image.resize(square, [image_size_px, image_size_px], antialias=True)


def to_unit(pixels: tf.Tensor) -> tf.Tensor:
    """Pixels in [0, 255] as float32 in [0, 1].

    Not by division, which TensorFlow replaces in some graphs but not in others, with a different
    last bit.
    """
    return tf.cast(pixels, tf.float32) * tf.constant(1.0 / 255.0)


def shrink(image: tf.Tensor, image_size_px: int) -> tf.Tensor:
    """Scales a large image down, smoothed, so that its short side is at most twice the size given.

    Random crops are then sampled without smoothing and without visible aliasing.

    Args:
        image: uint8 [H, W, 3].
        image_size_px: side of the crops to be taken.

    Returns:
        uint8 [H', W', 3], the aspect kept.
    """
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    scale = tf.minimum(1.0, 2.0 * image_size_px / tf.reduce_min(size))
    target = tf.cast(tf.math.ceil(size * scale), tf.int32)
    resized = tf.image.resize(image, target, antialias=True)
    return tf.cast(tf.round(tf.clip_by_value(resized, 0.0, 255.0)), tf.uint8)
