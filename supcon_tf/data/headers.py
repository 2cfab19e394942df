"""Sizes that image headers claim, read before anything is decoded.

Pillow is not used: it learns the sizes of a GIF's frames only by decoding them, and refuses or
warns of large images by settings of the whole process.
"""

import struct

FORMATS = "JPEG, PNG, BMP, GIF or WebP"
_JPEG_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
# No real file has this many segments, or blocks of less than their usual 255 bytes.
_MAX_STEPS = 1_000_000
_WEBP_ANIMATION = 0x02
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


def image_size(encoded: bytes) -> tuple[int, int] | None:
    """Width and height that a decoder will make room for.

    Args:
        encoded: JPEG, PNG, BMP, GIF or WebP. The frames of a GIF count as stacked, because the
            decoder reads all of them.

    Returns:
        Width and height in pixels; None if the header is not that of such an image, or is cut off.
    """
    try:
        for magic, size in _SIZES.items():
            if encoded.startswith(magic):
                return size(encoded)
    except (struct.error, IndexError):
        return None
    return None


def _png(encoded):
    if encoded[8:16] != b"\0\0\0\rIHDR":  # Nothing may come before it.
        return None
    return struct.unpack_from(">II", encoded, 16)


def _bmp(encoded):
    if struct.unpack_from("<I", encoded, 14)[0] == 12:
        return struct.unpack_from("<HH", encoded, 18)
    width, height = struct.unpack_from("<ii", encoded, 18)
    return abs(width), abs(height)


def _jpeg(encoded):
    at = 2
    for _ in range(_MAX_STEPS):
        if encoded[at] != 0xFF:
            return None
        marker = encoded[at + 1]
        if marker == 0xFF or marker in _JPEG_WITHOUT_LENGTH:  # Padding, or a marker by itself.
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", encoded, at + 5)
            return width, height
        if marker < 0xC0 or marker in (0xD9, 0xDA):  # No segment; or no frame before the picture.
            return None
        at += 2 + struct.unpack_from(">H", encoded, at + 2)[0]
    return None


def _gif(encoded):
    width, height, pixels = *struct.unpack_from("<HH", encoded, 6), 0
    at, steps = 13 + _gif_colours(encoded[10]), 0
    while at < len(encoded) and encoded[at] != 0x3B:
        if encoded[at] == 0x2C:  # A frame: place, size, colours, code size, data.
            frame_width, frame_height = struct.unpack_from("<HH", encoded, at + 5)
            width, height = max(width, frame_width), max(height, frame_height)
            pixels += frame_width * frame_height
            at += 11 + _gif_colours(encoded[at + 9])
        elif encoded[at] == 0x21:  # An extension: kind, data.
            at += 2
        else:
            break
        while at < len(encoded) and encoded[at]:
            at, steps = at + 1 + encoded[at], steps + 1
            if steps > _MAX_STEPS:
                return None
        at, steps = at + 1, steps + 1
    # The decoder makes room for each frame, and for a picture as wide and high as any of them.
    return (width, max(height, -(-pixels // width))) if pixels else None


def _gif_colours(flags):
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def is_animated_webp(encoded: bytes) -> bool:
    """Whether a file is a WebP that declares itself animated."""
    extended = encoded[:4] == b"RIFF" and encoded[8:16] == b"WEBPVP8X"
    return extended and bool(encoded[20:21]) and bool(encoded[20] & _WEBP_ANIMATION)


def _webp(encoded):
    """The first chunk has the size; if it is VP8X, the picture itself must have the same."""
    if encoded[8:12] != b"WEBP":
        return None
    if encoded[12:16] == b"VP8X":
        width, height = (int.from_bytes(encoded[at : at + 3], "little") for at in (24, 27))
        return (width + 1, height + 1) if len(encoded) >= 30 else None
    if encoded[12:16] == b"VP8L" and encoded[20] == 0x2F:
        bits = struct.unpack_from("<I", encoded, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if encoded[12:16] == b"VP8 " and encoded[23:26] == b"\x9d\x01\x2a":
        return tuple(side & 0x3FFF for side in struct.unpack_from("<HH", encoded, 26))
    return None


_SIZES = {
    b"\x89PNG\r\n\x1a\n": _png,
    b"BM": _bmp,
    b"\xff\xd8": _jpeg,
    b"GIF8": _gif,
    b"RIFF": _webp,
}
