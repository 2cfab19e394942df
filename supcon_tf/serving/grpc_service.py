"""The V2 protocol over gRPC."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
from grpc import StatusCode
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import (
    add_GRPCInferenceServiceServicer_to_server as add_servicer,
)
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.servicer import InferenceServicer

from supcon_tf.errors import UserError
from supcon_tf.serving import answers, measures, protocol, tensors
from supcon_tf.serving.faults import BadRequestError, BusyError, ForbiddenError, RequestError
from supcon_tf.serving.instances import Bounds
from supcon_tf.serving.limits import Held
from supcon_tf.serving.model import Answer, Call, ServedDataPlane, ServedModel

_CONCURRENT_CALLS = 1024
_CODES = {
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    413: StatusCode.INVALID_ARGUMENT,
    500: StatusCode.INTERNAL,
    503: StatusCode.UNAVAILABLE,
}
_CONTENTS = {"BYTES": "bytes_contents", "UINT8": "uint_contents", "FP32": "fp32_contents"}
_OUTPUT_CONTENTS = {"BYTES": "bytes_contents", "INT32": "int_contents", "FP32": "fp32_contents"}
_log = logging.getLogger("supcon_tf.serving")


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
    outputs = tuple((name, bool(raw)) for name in names or protocol.SIGNATURES[signature])
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
        tensor, datatype = answers.tensor_of(name, answer.rows), answers.DATATYPES[name]
        output = response.outputs.add(name=name, datatype=datatype, shape=tensor.shape)
        if query.raw:
            response.raw_output_contents.append(answers.raw_bytes(tensor))
            continue
        values = tensor.ravel().tolist()
        if datatype == "BYTES":
            values = [text.encode() for text in values]
        getattr(output.contents, _OUTPUT_CONTENTS[datatype]).extend(values)
    return response


class Servicer(InferenceServicer):
    """KServe's service, with versions, bounds, and without loading by request.

    Args:
        model: answers.
        dataplane: KServe's way to it.
        held: counts the bytes of all requests.
    """

    def __init__(self, model: ServedModel, dataplane: ServedDataPlane, held: Held):
        super().__init__(dataplane, None)
        self._model, self._dataplane, self._held = model, dataplane, held

    def _check(self, name: str, version: str) -> None:
        self._dataplane.get_model_from_registry(name)
        self._model.check_version(version)

    async def ModelReady(self, request, context):  # noqa: N802
        """Whether a model, or its version, is served."""
        self._check(request.name, request.version)
        return await super().ModelReady(request, context)

    async def ModelMetadata(self, request, context):  # noqa: N802
        """What a model takes and gives."""
        self._check(request.name, request.version)
        return pb.ModelMetadataResponse(**await self._dataplane.model_metadata(request.name))

    async def ModelInfer(self, request, context):  # noqa: N802
        """Predicts."""
        size = request.ByteSize()
        self._held.take(size)
        try:
            read = partial(read_grpc, request)
            call = Call(size, request.model_version, read, write_grpc)
            response, _ = await self._dataplane.infer(request.model_name, call)
            return response
        finally:
            self._held.give_back(size)

    async def RepositoryModelLoad(self, request, context):  # noqa: N802
        """Refuses."""
        raise ForbiddenError(
            "models are not loaded by request. Put a version into the model's folder."
        )

    async def RepositoryModelUnload(self, request, context):  # noqa: N802
        """Refuses."""
        raise ForbiddenError("models are not unloaded by request. Take the version's folder away.")


class StatusInterceptor(ExceptionToStatusInterceptor):
    """Makes a status of every error, a message that cannot be read included; counts the calls.

    Args:
        count: is called for each call that was answered.
    """

    def __init__(self, count: Callable[[], None]):
        super().__init__()
        self._count = count

    async def intercept_service(self, continuation, handler_call_details):
        """Wraps what reads a message, whose failure gRPC would call internal."""
        handler = await super().intercept_service(continuation, handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        return grpc.unary_unary_rpc_method_handler(
            handler.unary_unary,
            request_deserializer=partial(_read_message, handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )

    async def intercept(self, method, request_or_iterator, context, method_name):
        """Answers one call."""
        try:
            if isinstance(request_or_iterator, BadRequestError):
                await self._abort(request_or_iterator, context, method_name)
            answer = await super().intercept(method, request_or_iterator, context, method_name)
            measures.REQUESTS.labels(route="grpc", status="OK").inc()
            return answer
        finally:
            self._count()

    async def handle_exception(self, ex, request_or_iterator, context, method_name):
        """Answers one call that failed."""
        if isinstance(ex, RequestError):
            await self._abort(ex, context, method_name)
        _log.error("%s failed", method_name, exc_info=ex)
        await self._abort(RequestError("the server failed; its log says why."), context, "", 500)

    async def _abort(self, error, context, method_name, status=None):
        code = _CODES.get(status or error.status, StatusCode.INVALID_ARGUMENT)
        if isinstance(error, BusyError):
            code = StatusCode.RESOURCE_EXHAUSTED
        if method_name:
            _log.warning("%s %s %s: %s", context.peer(), method_name, code.name, error.message)
        measures.REQUESTS.labels(route="grpc", status=code.name).inc()
        await context.abort(code, error.message)


def _read_message(read: Callable[[bytes], Any], content: bytes) -> Any:
    try:
        return read(content)
    except Exception:  # Of whichever protobuf is installed.
        return BadRequestError(f"the message of {len(content)} bytes is no message of this call.")


def create_server(
    servicer: Servicer, max_bytes: int, host: str, port: int, count: Callable[[], None]
) -> tuple[Any, int]:
    """A server that listens, and its port.

    Args:
        servicer: answers.
        max_bytes: of one message.
        host: address to listen on.
        port: 0 for any free one.
        count: is called for each call that was answered.

    Raises:
        UserError: if the port is taken.
    """
    options = [
        ("grpc.max_receive_message_length", max_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),  # Else two servers would share a port, unknown to both.
    ]
    server = grpc.aio.server(
        interceptors=[StatusInterceptor(count)],
        options=options,
        maximum_concurrent_rpcs=_CONCURRENT_CALLS,
    )
    add_servicer(servicer, server)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError:
        bound = 0
    if not bound:
        raise UserError(
            f"cannot listen for gRPC on {address}. Is the port taken? Pass another --grpc_port."
        )
    return server, bound
