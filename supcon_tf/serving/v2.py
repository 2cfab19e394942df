"""The V2 (open inference) protocol as queries, on KServe's `InferRequest` and `InferResponse`.

KServe's own reader of bodies takes no image files as binary tensors (it decodes them as UTF-8),
turns binary numbers into lists, and fails on most malformed input; so bodies are read here.
"""

import math
import struct
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from kserve import InferInput, InferOutput, InferRequest, InferResponse
from kserve.protocol.infer_type import RequestedOutput, to_http_parameters
from kserve.protocol.rest.v2_datamodels import InferenceRequest, RequestInput
from kserve.utils.numpy_codec import to_np_dtype
from kserve.utils.utils import generate_uuid
from pydantic import ValidationError

from supcon_tf.serving import instances
from supcon_tf.serving.faults import RequestError, shown
from supcon_tf.serving.instances import Bounds, Instance
from supcon_tf.serving.outputs import OUTPUTS, SIGNATURES, check_signature
from supcon_tf.serving.query import Query, Row, read_json


class _Input(RequestInput):
    data: list | None = None  # Binary tensors follow the JSON.


class _Request(InferenceRequest):
    inputs: list[_Input]


def read_body(
    body: bytes, json_length: str | None, model_name: str, bundle: Any, bounds: Bounds
) -> Query:
    """Reads an HTTP inference request.

    Args:
        body: JSON, perhaps with the content of the tensor after it.
        json_length: the header `Inference-Header-Content-Length`: where that content begins.
        model_name: of the requested model.
        bundle: of that model.
        bounds: of the number of images and of their size.

    Raises:
        RequestError: if anything about it is wrong.

    Reference:
        Open Inference Protocol, "HTTP/REST", and Triton's "Binary Tensor Data Extension".
    """
    header, binary = _split(body, json_length)
    try:
        document = _Request.model_validate(read_json(header))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise RequestError(
            f"{where}: {first['msg']}. Received: {shown(first['input'])}."
        ) from error
    tensors = [
        InferInput(tensor.name, tensor.shape, tensor.datatype, tensor.data, tensor.parameters)
        for tensor in document.inputs
    ]
    wanted = [RequestedOutput(one.name, one.parameters) for one in document.outputs or ()]
    parameters = document.parameters or {}
    raw = _raw_inputs(document.inputs, binary)
    request = InferRequest(
        model_name, tensors, document.id, raw, parameters=parameters, request_outputs=wanted
    )
    return read(request, bundle, bounds)


def _split(body: bytes, json_length: str | None) -> tuple[bytes, bytes]:
    if json_length is None:
        return body, b""
    digits = json_length.isascii() and json_length.isdigit() and len(json_length) < 12
    if not digits or int(json_length) > len(body):
        raise RequestError(
            "Inference-Header-Content-Length must be a number of bytes within the body's "
            f"{len(body)}. Received: {shown(json_length)}."
        )
    return body[: int(json_length)], body[int(json_length) :]


def _raw_inputs(tensors: Sequence[_Input], binary: bytes) -> list[bytes] | None:
    """The binary content of the first tensor; a request has no other."""
    size = (tensors[0].parameters or {}).get("binary_data_size") if tensors else None
    if size is None and not binary:
        return None
    if size != len(binary) or tensors[0].data is not None:
        raise RequestError(
            f"binary_data_size must be the {len(binary)} bytes that follow the JSON, and there "
            f"must be no other data. Received: {shown(size)}."
        )
    return [binary]


def read(request: InferRequest, bundle: Any, bounds: Bounds) -> Query:
    """Reads an inference request, from HTTP or gRPC.

    Args:
        request: with one input: `encoded`, BYTES [n], or `images`, UINT8 or FP32 [n, H, W, 3].
        bundle: of the requested model.
        bounds: of the number of images and of their size.

    Raises:
        RequestError: if anything about it is wrong; before anything of the declared size is
            allocated.
    """
    parameters = to_http_parameters(request.parameters)
    signature = check_signature(parameters.get("signature_name"), bundle)
    if len(request.inputs) != 1:
        raise RequestError(f"a request must have one input. Received: {len(request.inputs)}.")
    known = SIGNATURES[signature]
    for output in request.request_outputs or ():
        if output.name not in known:
            raise RequestError(
                f"{signature} has the outputs {', '.join(known)}. Received: {shown(output.name)}."
            )
    found = _read_tensor(request.inputs[0], bounds)
    return Query(signature, found, partial(write, request, signature))


def _read_tensor(tensor: InferInput, bounds: Bounds) -> list[Instance]:
    readers = {"encoded": (_encoded, ["BYTES"]), "images": (_images, ["UINT8", "FP32"])}
    if tensor.name not in readers:
        raise RequestError(
            f"an input must be named encoded or images. Received: {shown(tensor.name)}."
        )
    reader, datatypes = readers[tensor.name]
    if tensor.datatype not in datatypes:
        raise RequestError(
            f"{tensor.name} must be of datatype {' or '.join(datatypes)}. "
            f"Received: {shown(tensor.datatype)}."
        )
    if min(tensor.shape, default=0) < 0:
        raise RequestError(f"a shape must be of whole numbers. Received: {tensor.shape}.")
    return reader(tensor, bounds)


def _encoded(tensor: InferInput, bounds: Bounds) -> list[Instance]:
    if tensor.shape[1:] not in ([], [1]) or not tensor.shape:
        raise RequestError(f"encoded must have the shape [images]. Received: {tensor.shape}.")
    bounds.check_count(tensor.shape[0])
    items = _content(tensor)
    if len(items) != tensor.shape[0]:
        raise RequestError(
            f"encoded has {len(items)} images and the shape {tensor.shape}. Make them agree."
        )
    found = []
    for index, item in enumerate(items):
        where = f"instance {index}"
        content = item if isinstance(item, bytes) else instances.decode_base64(item, where)
        found.append(instances.encoded(content, where, bounds))
    return found


def _images(tensor: InferInput, bounds: Bounds) -> list[Instance]:
    shape = tensor.shape
    if len(shape) != 4:
        raise RequestError(
            f"images must have the shape [images, height, width, 3]. Received: {shown(shape)}."
        )
    bounds.check_count(shape[0])
    pixels = instances.check_pixels(shape[1:], "each image in images", bounds)
    values = _content(tensor)
    if isinstance(values, list):
        values = instances.numbers(values, "images")
    else:
        instances.check_range(values, "images")
    if values.size != math.prod(shape) or (values.ndim > 1 and list(values.shape) != shape):
        raise RequestError(
            f"images has {values.size} numbers in the shape {list(values.shape)[:8]}; it declares "
            f"the shape {shape} of {math.prod(shape)}."
        )
    if tensor.datatype == "UINT8" and values.dtype != np.uint8:
        raise RequestError("images is declared UINT8 and holds fractions. Declare FP32.")
    return [Instance(image, pixels) for image in values.reshape(shape)]


def _content(tensor: InferInput) -> list | np.ndarray:
    """A list, perhaps nested; or a flat array of binary content."""
    if tensor.data:
        return tensor.data
    try:
        return tensor.as_numpy().ravel()
    except (TypeError, ValueError, struct.error) as error:
        raise RequestError(
            f"the content of {tensor.name} does not fit its shape {tensor.shape}: {error}."
        ) from error


def write(request: InferRequest, signature: str, rows: Sequence[Row], bundle: Any) -> InferResponse:
    """An answer, for KServe to encode.

    Args:
        request: what is answered.
        signature: of the request.
        rows: one per image.
        bundle: the one that computed them.
    """
    wanted = [output.name for output in request.request_outputs or ()] or SIGNATURES[signature]
    as_lists = request.from_grpc and not request.use_binary_outputs
    outputs = []
    for name in dict.fromkeys(wanted):
        datatype, _ = OUTPUTS[name]
        tensor = np.array([row[name] for row in rows], to_np_dtype(datatype))
        data = tensor.ravel().tolist() if as_lists else tensor
        outputs.append(InferOutput(name, list(tensor.shape), datatype, data))
    return InferResponse(
        request.id or generate_uuid(),
        bundle.name,
        outputs,
        str(bundle.version),
        # Over gRPC an array is raw anyway, and KServe fails if that is requested.
        use_binary_outputs=request.use_binary_outputs and not request.from_grpc,
        requested_outputs=request.request_outputs,
    )
