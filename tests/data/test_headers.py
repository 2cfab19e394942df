import io
import struct

import numpy as np
import pytest
from PIL import Image

from supcon_tf.data.headers import image_size, is_animated_webp

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)


def saved(kind, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "encoded",
    [
        saved("PNG"),
        saved("PNG", "P"),
        saved("BMP"),
        saved("BMP", "L"),
        saved("JPEG"),
        saved("JPEG", "L", progressive=True),
        saved("JPEG", exif=b"Exif\0\0" + bytes(300)),
        saved("GIF"),
        saved("WEBP"),
        saved("WEBP", lossless=True),
        saved("WEBP", "RGBA", exif=b"Exif\0\0" + bytes(30)),
    ],
)
def test_size_of_every_format(encoded):
    assert image_size(encoded) == (14, 9)


def test_every_kind_of_webp_is_told_apart():
    kinds = {b"VP8 ": {}, b"VP8L": {"lossless": True}, b"VP8X": {"exif": b"Exif\0\0" + bytes(30)}}
    for chunk, options in kinds.items():
        encoded = saved("WEBP", **options)
        assert encoded[12:16] == chunk
        assert not is_animated_webp(encoded)
    animated = saved("WEBP", save_all=True, append_images=[Image.new("RGB", (14, 9))])
    assert is_animated_webp(animated)
    assert image_size(animated) == (14, 9)
    assert not is_animated_webp(animated[:20])


def test_frames_of_a_gif_add_up():
    frames = [Image.fromarray(np.full((5, 6, 3), level, np.uint8)) for level in (0, 100, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert image_size(buffer.getvalue()) == (6, 15)


def test_a_gif_frame_larger_than_its_screen_counts():
    encoded = bytearray(saved("GIF"))
    at = encoded.index(b"\x2c\0\0\0\0")
    struct.pack_into("<HH", encoded, at + 5, 60000, 50000)
    assert image_size(bytes(encoded)) == (60000, 50000)


def test_a_gif_needs_room_for_its_widest_and_its_highest_frame():
    """The decoder makes one picture for all."""
    frame = saved("GIF")
    start, end = frame.index(b"\x2c\0\0\0\0"), len(frame) - 1
    wide, high = bytearray(frame[start:end]), bytearray(frame[start:end])
    struct.pack_into("<HH", wide, 5, 30000, 1)
    struct.pack_into("<HH", high, 5, 1, 30000)
    assert image_size(frame[:start] + bytes(wide) + bytes(high) + b";") == (30000, 30000)


def test_what_only_seems_to_be_a_header_is_no_header():
    """Decoders skip or refuse what comes before the true one."""
    jpeg, png = saved("JPEG"), saved("PNG")
    fake = b"\xff\xfe\x00\x0d\xff\xc0\x00\x11\x08\x00\x01\x00\x01\x03\x01"
    assert image_size(jpeg[:2] + b"\xff\x00\x00\x06" + fake + jpeg[2:]) is None
    chunk = struct.pack(">I4sII", 8, b"prVt", 1, 1) + bytes(4)
    assert image_size(png[:8] + chunk + png[8:]) is None


def test_a_header_may_claim_anything():
    encoded = bytearray(saved("PNG"))
    struct.pack_into(">II", encoded, 16, 100_000, 100_000)
    assert image_size(bytes(encoded)) == (100_000, 100_000)
    encoded = bytearray(saved("BMP"))
    struct.pack_into("<ii", encoded, 18, 70_000, -80_000)  # Stored from the top down.
    assert image_size(bytes(encoded)) == (70_000, 80_000)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "JPEG", "GIF", "WEBP"])
def test_cut_off_headers_are_no_image_and_no_error(kind):
    encoded = saved(kind)
    known = [image_size(encoded[:length]) for length in range(len(encoded))]
    assert known[:8] == [None] * 8
    assert set(known[8:]) <= {None, (14, 9)}


@pytest.mark.parametrize("content", [b"", b"GIF8", b"\xff\xd8\xff", b"RIFF0000WEBP", b"text"])
def test_other_content_is_none(content):
    assert image_size(content) is None
