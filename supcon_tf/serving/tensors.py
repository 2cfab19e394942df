"""What a request asks for in the V2 protocol (open inference).

It comes as JSON, as JSON with binary tensors behind it, or as gRPC; `Tensor` is what they have in
common.
"""

import dataclasses
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from supcon_tf.serving import instances, protocol
from supcon_tf.serving.faults import BadRequestError, shown
from supcon_tf.serving.instances import Bounds, Instance
from supcon_tf.serving.outputs import SIGNATURES

_ITEM_BYTES = {"UINT8": 1, "FP32": 4}
_DTYPES = {"UINT8": np.dtype("uint8"), "FP32": np.dtype("<f4")}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One input of a V2 request.

    Args:
        name: `encoded` or `images`.
        datatype: BYTES, UINT8 or FP32.
        shape: as declared, not yet compared with the content.
        data: numbers or text, as a list, perhaps nested; None if `raw` holds the content.
        raw: little-endian binary content.
    """

    name: Any
    datatype: Any
    shape: Any
    data: Any = None
    raw: bytes | None = None


def parse_v2(
    body: bytes, json_length: str | None, bounds: Bounds, can_find_neighbors: bool = True
) -> protocol.Query:
    """Reads an inference request of the V2 protocol over HTTP.

    Args:
        body: JSON, perhaps with the content of tensors behind it.
        json_length: the header `Inference-Header-Content-Length`: where that content begins.
        bounds: of the number of images and of their size.
        can_find_neighbors: whether the model has an index.

    Raises:
        RequestError: if anything about it is wrong.

    Reference:
        Open Inference Protocol, "HTTP/REST", and Triton's "Binary Tensor Data Extension".
    """
    header, binary = _split(body, json_length)
    document = protocol.read_json(header)
    parameters = _object(document.get("parameters"), "parameters")
    signature = protocol.read_signature(parameters.get("signature_name"), can_find_neighbors)
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise BadRequestError(f"inputs must be a list of one tensor. Received: {shown(inputs)}.")
    tensor, rest = _rest_tensor(inputs[0], binary)
    if rest:
        raise BadRequestError(f"{len(rest)} bytes follow the last tensor. Check binary_data_size.")
    request_id = document.get("id", "")
    if not isinstance(request_id, str):
        raise BadRequestError(f"id must be a string. Received: {shown(request_id)}.")
    outputs = _outputs(document.get("outputs"), parameters, signature)
    return protocol.Query(signature, read_tensor(tensor, bounds), request_id, outputs)


def _split(body: bytes, json_length: str | None) -> tuple[bytes, bytes]:
    if json_length is None:
        return body, b""
    if not (json_length.isascii() and json_length.isdigit() and len(json_length) < 12):
        length = -1
    else:
        length = int(json_length)
    if not 0 <= length <= len(body):
        raise BadRequestError(
            "Inference-Header-Content-Length must be a number of bytes within the body's "
            f"{len(body)}. Received: {shown(json_length)}."
        )
    return body[:length], body[length:]


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequestError(f"{where} must be an object. Received: {shown(value)}.")
    return value


def _rest_tensor(value: Any, binary: bytes) -> tuple[Tensor, bytes]:
    if not isinstance(value, dict):
        raise BadRequestError(f"an input must be an object. Received: {shown(value)}.")
    parameters = _object(value.get("parameters"), "an input's parameters")
    size, data = parameters.get("binary_data_size"), value.get("data")
    if size is None:
        if not isinstance(data, list):
            raise BadRequestError(f"an input's data must be a list. Received: {shown(data)}.")
        return Tensor(value.get("name"), value.get("datatype"), value.get("shape"), data), binary
    if type(size) is not int or not 0 <= size <= len(binary) or data is not None:
        raise BadRequestError(
            f"binary_data_size must be at most the {len(binary)} bytes that follow the JSON, and "
            f"there must be no data beside it. Received: {shown(size)}."
        )
    names = (value.get("name"), value.get("datatype"), value.get("shape"))
    return Tensor(*names, raw=binary[:size]), binary[size:]


def _outputs(wanted: Any, parameters: Mapping, signature: str) -> tuple[tuple[str, bool], ...]:
    all_binary = parameters.get("binary_data_output") is True
    if wanted is None or wanted == []:
        return tuple((name, all_binary) for name in SIGNATURES[signature])
    if not isinstance(wanted, list):
        raise BadRequestError(f"outputs must be a list. Received: {shown(wanted)}.")
    found = {}
    for item in wanted:
        item = _object(item, "an output")
        binary = _object(item.get("parameters"), "an output's parameters").get("binary_data")
        found[protocol.check_output(item.get("name"), signature)] = (
            all_binary if binary is None else binary is True
        )
    return tuple(found.items())


def read_tensor(tensor: Tensor, bounds: Bounds) -> list[Instance]:
    """The instances in a V2 input.

    Args:
        tensor: `encoded`, BYTES [n], or `images`, UINT8 or FP32 [n, H, W, 3].
        bounds: of the number of images and of their size.

    Raises:
        RequestError: if anything about it is wrong; before anything of the declared size is
            allocated.
    """
    shape = tensor.shape
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise BadRequestError(f"a shape must be a list of whole numbers. Received: {shown(shape)}.")
    if tensor.name == "encoded":
        return _encoded(tensor, bounds)
    if tensor.name == "images":
        return list(_images(tensor, bounds))
    raise BadRequestError(
        f"an input must be named encoded or images. Received: {shown(tensor.name)}."
    )


def _encoded(tensor: Tensor, bounds: Bounds) -> list[bytes]:
    if tensor.datatype != "BYTES":
        raise BadRequestError(
            f"encoded must be of datatype BYTES. Received: {shown(tensor.datatype)}."
        )
    if len(tensor.shape) not in (1, 2) or tensor.shape[1:] not in ([], [1]):
        raise BadRequestError(f"encoded must have the shape [images]. Received: {tensor.shape}.")
    bounds.check_count(tensor.shape[0])
    items = tensor.data if tensor.raw is None else _split_bytes(tensor.raw)
    if len(items) != tensor.shape[0]:
        raise BadRequestError(
            f"encoded has {len(items)} images and the shape {tensor.shape}. Make them agree."
        )
    found = []
    for index, item in enumerate(items):
        where = f"instance {index}"
        encoded = item if isinstance(item, bytes) else instances.decode_base64(item, where)
        found.append(instances.check_encoded(encoded, where, bounds))
    return found


def _split_bytes(raw: bytes) -> list[bytes]:
    """Cuts a binary BYTES tensor, each item of which is preceded by its length in four bytes."""
    items, at = [], 0
    while at < len(raw):
        if at + 4 > len(raw):
            raise BadRequestError("encoded ends within the length of an item. Send all of it.")
        length = struct.unpack_from("<I", raw, at)[0]
        at += 4
        if at + length > len(raw):
            raise BadRequestError(
                f"an item of encoded claims {length} bytes; {len(raw) - at} are left. Precede "
                "each item by its length as four bytes, the lowest first."
            )
        items.append(raw[at : at + length])
        at += length
    return items


def _images(tensor: Tensor, bounds: Bounds) -> np.ndarray:
    if not isinstance(tensor.datatype, str) or tensor.datatype not in _ITEM_BYTES:
        raise BadRequestError(
            f"images must be of datatype UINT8 or FP32. Received: {shown(tensor.datatype)}."
        )
    shape = tensor.shape
    if len(shape) != 4 or shape[3] != 3:
        raise BadRequestError(
            f"images must have the shape [images, height, width, 3]. Received: {shown(shape)}."
        )
    bounds.check_count(shape[0])
    instances.check_pixels(shape[1:], "each of images", bounds)
    values = _raw_numbers(tensor) if tensor.raw is not None else _listed_numbers(tensor)
    if values.size != math.prod(shape):
        raise BadRequestError(
            f"images has {values.size} numbers; the shape {shape} needs {math.prod(shape)}."
        )
    return values.reshape(shape)


def _raw_numbers(tensor: Tensor) -> np.ndarray:
    if len(tensor.raw) % _ITEM_BYTES[tensor.datatype]:
        raise BadRequestError(f"images has {len(tensor.raw)} bytes, which is no multiple of four.")
    values = np.frombuffer(tensor.raw, _DTYPES[tensor.datatype])
    instances.check_range(values, "images")
    return values


def _listed_numbers(tensor: Tensor) -> np.ndarray:
    values = instances.numbers(tensor.data, "images")
    if values.ndim not in (1, 4) or (values.ndim == 4 and list(values.shape) != tensor.shape):
        raise BadRequestError(
            f"images has lists of the shape {list(values.shape)[:8]}, and declares {tensor.shape}."
        )
    if tensor.datatype == "UINT8" and values.dtype != np.uint8:
        raise BadRequestError("images is declared UINT8 and holds fractions. Declare FP32.")
    return values
