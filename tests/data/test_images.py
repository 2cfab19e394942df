import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from supcon_tf.data.images import (
    InvalidImage,
    decode,
    decode_checked,
    exif_orientation,
    preprocess,
    shrink,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)


def encoded(pixels, mode=None, kind="PNG"):
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, kind)
    return tf.constant(buffer.getvalue())


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_lossless_formats_decode_exactly(kind):
    np.testing.assert_array_equal(decode(encoded(PIXELS, kind=kind)), PIXELS)


@pytest.mark.parametrize("kind", ["JPEG", "GIF"])
def test_other_formats_decode_to_three_channels(kind):
    image = decode(encoded(PIXELS, kind=kind))
    assert image.shape == (9, 14, 3)
    assert image.dtype == tf.uint8


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_webp_decodes_as_pillow_does(mode, lossless):
    """TensorFlow alone refuses WebP with an alpha channel."""
    alpha = np.random.default_rng(1).integers(0, 256, (9, 14), dtype=np.uint8)
    image = Image.fromarray(np.dstack([PIXELS, alpha])).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=lossless, exact=True)
    expected = np.asarray(Image.open(buffer).convert("RGB"))
    found = tf.function(decode)(tf.constant(buffer.getvalue())).numpy()
    assert np.abs(found.astype(int) - expected).max() <= (0 if lossless else 2)
    assert found.std() > 20


def test_an_animated_webp_never_reaches_the_decoder(monkeypatch):
    """TensorFlow 2.21 writes beyond the memory that it makes room for."""
    frames = [Image.fromarray(pixels) for pixels in (PIXELS, 255 - PIXELS)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    with pytest.raises(InvalidImage, match="animated WebP images are not supported"):
        decode_checked(buffer.getvalue())
    seen = []
    original = tf.io.decode_image
    monkeypatch.setattr(
        tf.io,
        "decode_image",
        lambda *given, **named: seen.append(given) or original(*given, **named),
    )
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(tf.constant(buffer.getvalue()))
    assert [content.numpy() for (content,) in seen] == [b""]


def test_grey_is_repeated_and_alpha_dropped():
    grey = PIXELS[:, :, 0]
    np.testing.assert_array_equal(decode(encoded(grey)), np.repeat(grey[..., None], 3, axis=2))
    alpha = np.dstack([PIXELS, np.full((9, 14), 7, np.uint8)])
    np.testing.assert_array_equal(decode(encoded(alpha)), PIXELS)


def test_first_frame_of_an_animation():
    frames = [Image.fromarray(np.full((5, 6, 3), level, np.uint8)) for level in (0, 255)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(tf.constant(buffer.getvalue())), np.zeros((5, 6, 3)))


@pytest.mark.parametrize("broken", [b"", b"no image", encoded(PIXELS).numpy()[:60]])
def test_refuses_what_is_no_image(broken):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(tf.constant(broken))


def test_a_colour_palette_in_a_bmp_is_refused():
    """TensorFlow takes its indices for grey levels; a grey one is in their order."""
    for mode in ("P", "1"):
        with pytest.raises(InvalidImage, match="colour palette"):
            decode_checked(encoded(PIXELS, mode, "BMP").numpy())
    for mode, kind in (("L", "BMP"), (None, "BMP"), ("P", "PNG")):
        decode_checked(encoded(PIXELS, mode, kind).numpy())
    grey = np.asarray(Image.fromarray(PIXELS).convert("L"))
    np.testing.assert_array_equal(decode(encoded(PIXELS, "L", "BMP"))[..., 0], grey)


def test_preprocessing_keeps_an_image_of_the_right_size():
    square = PIXELS[:, :9]
    np.testing.assert_allclose(preprocess(square, 9), square / np.float32(255), rtol=1e-6)


def test_preprocessing_takes_the_centre_square():
    # 14 wide, 9 high: two columns fall away on the left and three on the right.
    np.testing.assert_allclose(preprocess(PIXELS, 9), PIXELS[:, 2:11] / np.float32(255), rtol=1e-6)


def test_preprocessing_smooths_when_it_shrinks():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = preprocess(stripes, 8).numpy()
    np.testing.assert_allclose(small, 0.5, atol=0.02)


def test_preprocessing_a_batch_equals_one_by_one():
    batch = np.stack([PIXELS, 255 - PIXELS])
    together = preprocess(batch, 6)
    np.testing.assert_array_equal(together[0], preprocess(PIXELS, 6))
    np.testing.assert_array_equal(together[1], preprocess(255 - PIXELS, 6))


def test_shrink_stops_at_twice_the_crop_and_never_enlarges():
    large = np.zeros((100, 150, 3), np.uint8)
    assert shrink(large, 16).shape == (32, 48, 3)
    np.testing.assert_array_equal(shrink(PIXELS, 16), PIXELS)


def test_shrink_rounds_to_whole_levels():
    columns = np.array([[0, 1, 3, 4, 254, 255, 255, 255]] * 4, np.uint8)
    shrunk = shrink(np.repeat(columns[..., None], 3, axis=2), 1).numpy()
    exact = tf.image.resize(columns[..., None], [2, 4], antialias=True).numpy()
    assert shrunk.dtype == np.uint8
    np.testing.assert_array_equal(shrunk, np.repeat(np.rint(exact), 3, axis=2))


def jpeg(orientation=None, little=True, **options):
    exif = Image.Exif()
    exif.endian = "<" if little else ">"
    exif[0x010F] = "maker"
    if orientation is not None:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG", exif=exif, quality=95, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("little", [True, False])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpegs_are_turned_upright(orientation, little):
    encoded = jpeg(orientation, little)
    assert exif_orientation(tf.constant(encoded)) == orientation
    stored = Image.fromarray(decode(tf.constant(jpeg())).numpy())
    stored.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(stored))
    assert expected.shape == ((14, 9, 3) if orientation >= 5 else (9, 14, 3))
    np.testing.assert_array_equal(decode(tf.constant(encoded)), expected)


@pytest.mark.parametrize("orientation", [None, 0, 9, 65535])
def test_a_missing_or_wrong_orientation_is_none(orientation):
    assert exif_orientation(tf.constant(jpeg(orientation))) == 1


def test_orientation_is_found_before_and_behind_jfif():
    encoded = jpeg(6)
    start = encoded.index(b"\xff\xe1")
    assert encoded[2:4] == b"\xff\xe0"  # Pillow puts JFIF first.
    assert exif_orientation(tf.constant(encoded[:2] + encoded[start:])) == 6


def test_broken_exif_is_passed_over():
    encoded = jpeg(6)
    at = encoded.index(b"Exif")
    for offset in range(30):
        for value in (0, 255):
            broken = bytearray(encoded)
            broken[at + offset] = value
            assert 1 <= exif_orientation(tf.constant(bytes(broken))) <= 8
    for length in (0, 1, 3, 5, 20, 24, 30, 40, 50):
        assert exif_orientation(tf.constant(encoded[:length])) in (1, 6)


def test_an_offset_beyond_the_segment_is_no_orientation():
    encoded = jpeg(6, little=False)
    at = encoded.index(b"MM\0*")
    far = encoded[: at + 4] + b"\2\0" + encoded[at + 6 :]
    assert exif_orientation(tf.constant(encoded)) == 6
    assert exif_orientation(tf.constant(far)) == 1


def test_other_formats_have_no_orientation():
    assert exif_orientation(encoded(PIXELS)) == 1
    assert exif_orientation(encoded(PIXELS, kind="GIF")) == 1


def test_sixteen_bits_keep_their_upper_eight():
    levels = np.random.default_rng(1).integers(0, 2**16, (9, 14), dtype=np.uint16)
    image = decode(encoded(levels))
    np.testing.assert_array_equal(image[..., 0], levels >> 8)
