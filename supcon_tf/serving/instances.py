"""One instance of a request: the bytes of an image file, or an array of pixels; checked."""

import base64
import binascii
import dataclasses
import math
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import numpy as np

from supcon_tf.data.headers import FORMATS, image_size
from supcon_tf.serving.faults import RequestError, shown


@dataclasses.dataclass(frozen=True)
class Instance:
    """One image.

    Args:
        content: bytes of a file, or pixels [H, W, 3], uint8 or float32 in [0, 255].
        pixels: H times W; for a file, as its header claims.
    """

    content: bytes | np.ndarray
    pixels: int

    @property
    def nbytes(self) -> int:
        """Bytes of the content."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.nbytes


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Limits of one request.

    Args:
        images: images of one request.
        pixels: pixels of one image.
    """

    images: int
    pixels: int

    def check_count(self, count: int) -> None:
        """Refuses a request without images, or with more than may ever wait (413).

        Raises:
            RequestError: if there are too few or too many.
        """
        if count < 1:
            raise RequestError("the request has no instances. Give at least one image.")
        if count > self.images:
            raise RequestError(
                f"the request has {count} instances; at most {self.images} are taken at once "
                "(max_queue). Send them in several requests.",
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )

    def check_size(self, where: str, width: int, height: int) -> int:
        """Returns the number of pixels of an image, before anything of that size is allocated.

        Raises:
            RequestError: if an edge is 0, or there are too many pixels.
        """
        if width < 1 or height < 1 or width * height > self.pixels:
            raise RequestError(
                f"{where} has {width} x {height} pixels; an image has at least one and at most "
                f"{self.pixels / 1e6:g} million (max_image_megapixels). Scale it down."
            )
        return width * height


def encoded(content: bytes, where: str, bounds: Bounds) -> Instance:
    """An instance of an image file; only its header is read.

    Args:
        content: its bytes.
        where: what the message calls the image, such as "instance 3".
        bounds: of the size.

    Raises:
        RequestError: if the bytes do not begin such an image, or its header claims too many pixels.
    """
    size = image_size(content)
    if size is None:
        raise RequestError(f"{where} is not a {FORMATS} image. Received: {shown(content)}.")
    return Instance(content, bounds.check_size(where, *size))


def decode_base64(text: Any, where: str) -> bytes:
    """Decodes base64; line breaks in it are allowed.

    Raises:
        RequestError: if `text` is not a string, or not base64.
    """
    if not isinstance(text, str):
        raise RequestError(f"{where} must hold a base64 string. Received: {shown(text)}.")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"{where} is not base64 ({error}). Received: {shown(text)}.") from error


def numbers(data: Any, where: str) -> np.ndarray:
    """An array of nested lists of numbers, whatever its shape.

    Args:
        data: lists, perhaps nested.
        where: what the message calls it.

    Returns:
        uint8 if all are whole numbers as JSON writes them, else float32; each in [0, 255].

    Raises:
        RequestError: if the lists are ragged, or anything in them is not a number in [0, 255].
    """
    # References only: numpy would make text of a mixed list, each item as wide as the widest.
    items = np.array(data, dtype=object)
    kinds = set(map(type, items.ravel()))
    if list in kinds or items.ndim == 0:
        raise RequestError(f"{where} is ragged: lists at the same level must have the same length.")
    if not kinds <= {int, float}:
        wrong = next(item for item in items.ravel() if type(item) not in (int, float))
        raise RequestError(f"{where} must hold numbers only. Received: {shown(wrong)}.")
    values = items.astype(np.float64)
    check_range(values, where)
    return values.astype(np.float32 if float in kinds else np.uint8)


def check_range(values: np.ndarray, where: str) -> None:
    """Refuses numbers that are not levels of a pixel.

    Raises:
        RequestError: if one is not finite, or outside [0, 255].
    """
    inside = (values >= 0) & (values <= 255)  # Not so for NaN.
    if not inside.all():
        wrong = float(values[~inside].flat[0])
        kind = "finite numbers" if not math.isfinite(wrong) else "numbers in [0, 255]"
        raise RequestError(f"{where} must hold {kind}. Received: {wrong}.")


def check_pixels(shape: Sequence[int], where: str, bounds: Bounds) -> int:
    """Returns the number of pixels of an array of the shape [H, W, 3].

    Raises:
        RequestError: if it has a different shape, or a size out of bounds.
    """
    if len(shape) != 3 or shape[2] != 3:
        raise RequestError(
            f"{where} must have the shape [height, width, 3]. Received: {list(shape)}."
        )
    return bounds.check_size(where, shape[1], shape[0])
