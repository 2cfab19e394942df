"""One instance of a request: the bytes of an image file, or an array of pixels; checked."""

import base64
import binascii
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from supcon_tf.data.headers import image_size
from supcon_tf.serving.faults import BadRequestError, TooLargeError, shown

Instance = bytes | np.ndarray
INPUTS = ("encoded", "images")  # Names of the one input that a request has.


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What one request may ask for.

    Args:
        images: images of one request.
        pixels: pixels of one image.
    """

    images: int
    pixels: int

    def check_count(self, count: int) -> None:
        """Refuses a request without images, or with too many.

        Raises:
            BadRequestError: if there are none.
            TooLargeError: if there are more than may ever wait.
        """
        if count < 1:
            raise BadRequestError("the request has no instances. Give at least one image.")
        if count > self.images:
            raise TooLargeError(
                f"the request has {count} instances; at most {self.images} are taken at once "
                "(max_queue). Send them in several requests."
            )

    def check_size(self, where: str, width: int, height: int) -> None:
        """Refuses an image of too many pixels, before anything of that size is allocated.

        Raises:
            BadRequestError: if an edge is 0, or there are too many pixels.
        """
        if width < 1 or height < 1 or width * height > self.pixels:
            raise BadRequestError(
                f"{where} has {width} x {height} pixels; an image has at least one and at most "
                f"{self.pixels / 1e6:g} million (max_image_megapixels). Scale it down."
            )


def check_encoded(encoded: bytes, where: str, bounds: Bounds) -> bytes:
    """Returns the bytes of an image file whose header is in order.

    Args:
        encoded: JPEG, PNG, BMP or GIF.
        where: what the message calls the image, such as "instance 3".
        bounds: of the size.

    Raises:
        BadRequestError: if the bytes begin no such image, or its header claims too many pixels.
    """
    size = image_size(encoded)
    if size is None:
        raise BadRequestError(
            f"{where} is no JPEG, PNG, BMP or GIF image. Received: {shown(encoded)}."
        )
    bounds.check_size(where, *size)
    return encoded


def decode_base64(text: Any, where: str) -> bytes:
    """Decodes base64; line breaks in it are allowed.

    Raises:
        BadRequestError: if `text` is no string, or no base64.
    """
    if not isinstance(text, str):
        raise BadRequestError(f"{where} must hold a base64 string. Received: {shown(text)}.")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequestError(
            f"{where} is not base64 ({error}). Received: {shown(text)}."
        ) from error


def numbers(data: Any, where: str) -> np.ndarray:
    """An array of nested lists of numbers, whatever its shape.

    Args:
        data: what JSON held.
        where: what the message calls it.

    Returns:
        uint8 if all are whole numbers as JSON writes them, else float32; each in [0, 255].

    Raises:
        BadRequestError: if the lists are ragged, or anything in them is no number in [0, 255].
    """
    # References only: numpy would make text of a mixed list, each item as wide as the widest.
    items = np.array(data, dtype=object)
    kinds = set(map(type, items.ravel()))
    if list in kinds or items.ndim == 0:
        raise BadRequestError(f"{where} is ragged: lists of one level must be of one length.")
    if not kinds <= {int, float}:
        wrong = next(item for item in items.ravel() if type(item) not in (int, float))
        raise BadRequestError(f"{where} must hold numbers only. Received: {shown(wrong)}.")
    values = items.astype(np.float64)
    check_range(values, where)
    return values.astype(np.float32 if float in kinds else np.uint8)


def check_range(values: np.ndarray, where: str) -> None:
    """Refuses numbers that are no levels of a pixel.

    Raises:
        BadRequestError: if one is not finite, or outside [0, 255].
    """
    inside = (values >= 0) & (values <= 255)  # Not so for NaN.
    if not inside.all():
        wrong = float(values[~inside].flat[0])
        kind = "finite numbers" if not math.isfinite(wrong) else "numbers in [0, 255]"
        raise BadRequestError(f"{where} must hold {kind}. Received: {wrong}.")


def check_pixels(shape: Sequence[int], where: str, bounds: Bounds) -> None:
    """Refuses the shape of an array that is no picture.

    Raises:
        BadRequestError: if it is not [H, W, 3] with a size within bounds.
    """
    if len(shape) != 3 or shape[2] != 3:
        raise BadRequestError(
            f"{where} must have the shape [height, width, 3]. Received: {list(shape)}."
        )
    bounds.check_size(where, shape[1], shape[0])


def unnamed(value: Any) -> Any:
    """What an object of one named input holds; anything else is returned as it is."""
    if isinstance(value, dict) and len(value) == 1 and (name := next(iter(value))) in INPUTS:
        return value[name]
    return value


def from_json(value: Any, where: str, bounds: Bounds) -> Instance:
    """One instance of the V1 protocol, as TensorFlow Serving's REST API writes it.

    Args:
        value: `{"b64": "..."}` for an image file, or nested lists of pixels.
        where: what a message calls it.
        bounds: of its size.

    Raises:
        BadRequestError: if it is neither.
    """
    if isinstance(value, dict) and set(value) == {"b64"}:
        return check_encoded(decode_base64(value["b64"], where), where, bounds)
    if isinstance(value, list):
        pixels = numbers(value, where)
        check_pixels(pixels.shape, where, bounds)
        return pixels
    raise BadRequestError(
        f'{where} must be {{"b64": "..."}} or [[[red, green, blue], ...], ...]. '
        f"Received: {shown(value)}."
    )
