"""The V2 protocol over gRPC."""

import asyncio
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

from supcon_tf.core.errors import UserError
from supcon_tf.serving import measures
from supcon_tf.serving.faults import (
    BadRequestError,
    BusyError,
    ForbiddenError,
    RequestError,
    StoppingError,
    TooSlowError,
)
from supcon_tf.serving.grpc_messages import read_grpc, write_grpc
from supcon_tf.serving.limits import BODY_SECONDS, HELD_REQUESTS, Held, Share
from supcon_tf.serving.model import Call, ServedDataPlane

_CONCURRENT_CALLS = 1024
_CODES = {
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    408: StatusCode.DEADLINE_EXCEEDED,
    413: StatusCode.INVALID_ARGUMENT,
    500: StatusCode.INTERNAL,
    503: StatusCode.UNAVAILABLE,
}
_log = logging.getLogger("supcon_tf.serving")


class Servicer(InferenceServicer):
    """KServe's service, with versions, bounds, and without loading by request.

    Args:
        dataplane: KServe's way to the model.
        held: counts the bytes of all requests.
    """

    def __init__(self, dataplane: ServedDataPlane, held: Held):
        super().__init__(dataplane, None)
        self._dataplane, self._held = dataplane, held

    async def ModelReady(self, request, context):  # noqa: N802
        """Whether a model, or its version, is served."""
        self._dataplane.check(request.name, request.version)
        return await super().ModelReady(request, context)

    async def ModelMetadata(self, request, context):  # noqa: N802
        """What a model takes and gives."""
        self._dataplane.check(request.name, request.version)
        return pb.ModelMetadataResponse(**await self._dataplane.model_metadata(request.name))

    async def ModelInfer(self, request, context):  # noqa: N802
        """Predicts."""
        size = request.ByteSize()
        with Share(self._held) as share:
            share.take(size)
            read = partial(read_grpc, request)
            call = Call(size, request.model_version, read, write_grpc, share)
            response, _ = await self._dataplane.infer(request.model_name, call)
            return response

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
        is_closing: whether calls are refused from now on.
    """

    def __init__(self, count: Callable[[], None], is_closing: Callable[[], bool]):
        super().__init__()
        self._count, self._is_closing = count, is_closing
        self._receiving = asyncio.Semaphore(HELD_REQUESTS)

    async def intercept_service(self, continuation, handler_call_details):
        """Wraps what receives and reads a message, whose failure gRPC would call internal.

        As a stream of one message, the call decides when it is received: gRPC itself would receive
        those of all calls at once, each as large as allowed, before anything can count them.
        """
        handler = await super().intercept_service(continuation, handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler

        async def answer(_, context):
            return await handler.unary_unary(await self._receive(context), context)

        return grpc.stream_unary_rpc_method_handler(
            answer,
            request_deserializer=partial(_read_message, handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )

    async def _receive(self, context) -> Any:
        async with self._receiving:
            try:
                message = await asyncio.wait_for(context.read(), BODY_SECONDS)
            except TimeoutError:
                return TooSlowError(f"no message arrived within {BODY_SECONDS:g} seconds.")
        return BadRequestError("the call has no message.") if message is grpc.aio.EOF else message

    async def intercept(self, method, request_or_iterator, context, method_name):
        """Answers one call."""
        try:
            if self._is_closing():
                await self._abort(StoppingError("the server is about to stop."), context, "")
            if isinstance(request_or_iterator, RequestError):
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
    servicer: Servicer, interceptor: StatusInterceptor, max_bytes: int, host: str, port: int
) -> tuple[Any, int]:
    """A server that listens, and its port.

    Args:
        servicer: answers.
        interceptor: around all calls.
        max_bytes: of one message.
        host: address to listen on.
        port: 0 for any free one.

    Raises:
        UserError: if the port is taken.
    """
    options = [
        ("grpc.max_receive_message_length", max_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.http2.bdp_probe", 0),  # Else megabytes of each call are buffered ahead.
        ("grpc.so_reuseport", 0),  # Else two servers would share a port, unknown to both.
    ]
    server = grpc.aio.server(
        interceptors=[interceptor],
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
