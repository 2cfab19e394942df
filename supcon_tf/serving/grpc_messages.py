"""Requests and answers of the V2 protocol as messages of gRPC."""

from typing import Any

from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from supcon_tf.serving import answers, protocol, tensors
from supcon_tf.serving.faults import BadRequestError
from supcon_tf.serving.instances import Bounds
from supcon_tf.serving.model import Answer
from supcon_tf.serving.outputs import OUTPUTS, SIGNATURES

_CONTENTS = {"BYTES": "bytes_contents", "UINT8": "uint_contents", "FP32": "fp32_contents"}


def read_grpc(request: Any, bounds: Bounds, can_find_neighbors: bool = True) -> protocol.Query:
    """Reads a `ModelInferRequest`.

    Args:
        request: of any content.
        bounds: of the number of images and of their size.
        can_find_neighbors: whether the model has an index.

    Raises:
        RequestError: if anything about it is wrong.
    """
    name = None
    if "signature_name" in request.parameters:
        name = request.parameters["signature_name"].string_param
    signature = protocol.read_signature(name, can_find_neighbors)
    raw = request.raw_input_contents
    if len(request.inputs) != 1 or len(raw) > 1:
        raise BadRequestError(
            f"a request has one input. Received: {len(request.inputs)} inputs, {len(raw)} raw."
        )
    tensor = _tensor(request.inputs[0], raw[0] if raw else None)
    names = [protocol.check_output(output.name, signature) for output in request.outputs]
    outputs = tuple((name, bool(raw)) for name in names or SIGNATURES[signature])
    found = tensors.read_tensor(tensor, bounds)
    return protocol.Query(signature, found, request.id, outputs, raw=bool(raw))


def _tensor(tensor: Any, raw: bytes | None) -> tensors.Tensor:
    if raw is not None and tensor.HasField("contents"):
        raise BadRequestError("an input has contents and raw_input_contents. Give one of them.")
    data = None
    if raw is None:
        data = list(getattr(tensor.contents, _CONTENTS.get(tensor.datatype, "bytes_contents")))
    return tensors.Tensor(tensor.name, tensor.datatype, list(tensor.shape), data, raw)


def write_grpc(answer: Answer) -> Any:
    """Makes a `ModelInferResponse` of what was computed."""
    query, bundle = answer.query, answer.bundle
    response = pb.ModelInferResponse(
        model_name=bundle.name, model_version=str(bundle.version), id=query.request_id
    )
    for name, _ in query.outputs:
        tensor, known = answers.tensor_of(name, answer.rows), OUTPUTS[name]
        output = response.outputs.add(name=name, datatype=known.datatype, shape=tensor.shape)
        if query.raw:
            response.raw_output_contents.append(answers.raw_bytes(tensor))
            continue
        values = tensor.ravel().tolist()
        if known.datatype == "BYTES":
            values = [text.encode() for text in values]
        getattr(output.contents, known.contents).extend(values)
    return response
