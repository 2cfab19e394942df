"""The V2 protocol over gRPC: KServe's service, with bounds, versions and one clear error."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any

import grpc
from grpc import StatusCode
from kserve.errors import InvalidInput
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import (
    add_GRPCInferenceServiceServicer_to_server as add_servicer,
)
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.servicer import InferenceServicer

from supcon_tf.core.errors import UserError
from supcon_tf.serving import metrics
from supcon_tf.serving.faults import BusyError, RequestError, ServerFailedError
from supcon_tf.serving.gate import BODY_SECONDS, Memory
from supcon_tf.serving.model import FixedModels, ServedDataPlane, asked_version

RECEIVED_AT_ONCE = 8
_CONCURRENT_CALLS = 1024
_CODES = {
    HTTPStatus.FORBIDDEN: StatusCode.PERMISSION_DENIED,
    HTTPStatus.NOT_FOUND: StatusCode.NOT_FOUND,
    HTTPStatus.REQUEST_TIMEOUT: StatusCode.DEADLINE_EXCEEDED,
    HTTPStatus.INTERNAL_SERVER_ERROR: StatusCode.INTERNAL,
    HTTPStatus.SERVICE_UNAVAILABLE: StatusCode.UNAVAILABLE,
}
_log = logging.getLogger("supcon_tf.serving")


class Servicer(InferenceServicer):
    """KServe's service, which leaves the versions out of a model's metadata."""

    async def ModelMetadata(self, request, context):  # noqa: N802
        """Describes the model."""
        return pb.ModelMetadataResponse(**await self._data_plane.model_metadata(request.name))


class Interceptor(ExceptionToStatusInterceptor):
    """Receives the message of a call, and turns every error into a status; counts the calls.

    Args:
        memory: of all requests.
        is_closing: whether calls are refused from now on.
    """

    def __init__(self, memory: Memory, is_closing: Callable[[], bool]):
        super().__init__()
        self._memory, self._is_closing, self.answered = memory, is_closing, 0
        self._receiving = asyncio.Semaphore(RECEIVED_AT_ONCE)

    async def intercept_service(self, continuation, handler_call_details):
        """Turns a call into a stream of one message, which is then received when there is room.

        gRPC itself would receive the messages of all calls at once, each as large as allowed,
        before anything can count them; and report one that it cannot read as an internal error.
        """
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler

        async def answer(_, context):
            return await self.intercept(
                partial(self._serve, handler), None, context, handler_call_details.method
            )

        return grpc.stream_unary_rpc_method_handler(
            answer, response_serializer=handler.response_serializer
        )

    async def _serve(self, handler, _, context):
        if self._is_closing():
            raise RequestError("the server is about to stop.", HTTPStatus.SERVICE_UNAVAILABLE)
        with self._memory.share() as take:
            content = await self._receive(context)
            take(len(content))
            try:
                message = handler.request_deserializer(content)
            except Exception as error:  # Of whichever protobuf is installed.
                raise RequestError(
                    f"the message of {len(content)} bytes is not a message of this call."
                ) from error
            asked = getattr(message, "model_version", "") or getattr(message, "version", "")
            asked_version.set(asked)
            return await handler.unary_unary(message, context)

    async def _receive(self, context) -> bytes:
        async with self._receiving:
            try:
                content = await asyncio.wait_for(context.read(), BODY_SECONDS)
            except TimeoutError:
                raise RequestError(
                    f"no message arrived within {BODY_SECONDS:g} seconds.",
                    HTTPStatus.REQUEST_TIMEOUT,
                ) from None
        if content is grpc.aio.EOF:
            raise RequestError("the call has no message.")
        return content

    async def intercept(self, method, request_or_iterator, context, method_name):
        """Answers and counts one call."""
        try:
            answer = await super().intercept(method, request_or_iterator, context, method_name)
            metrics.REQUESTS.labels(route="grpc", status="OK").inc()
            return answer
        finally:
            self.answered += 1

    async def handle_exception(self, ex, request_or_iterator, context, method_name):
        """Answers one call that failed."""
        if isinstance(ex, InvalidInput):
            ex = RequestError(str(ex))
        if not isinstance(ex, RequestError):
            _log.error("%s failed", method_name, exc_info=ex)
            ex = ServerFailedError("the server failed")
        code = _CODES.get(ex.status, StatusCode.INVALID_ARGUMENT)
        if isinstance(ex, BusyError):
            code = StatusCode.RESOURCE_EXHAUSTED
        _log.warning("%s %s %s: %s", context.peer(), method_name, code.name, ex.message)
        metrics.REQUESTS.labels(route="grpc", status=code.name).inc()
        await context.abort(code, ex.message)


def create_server(
    dataplane: ServedDataPlane, interceptor: Interceptor, max_bytes: int, host: str, port: int
) -> tuple[Any, int]:
    """A server that listens, and its port; KServe's own listens on every address.

    Args:
        dataplane: KServe's way to the model.
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
        interceptors=[interceptor], options=options, maximum_concurrent_rpcs=_CONCURRENT_CALLS
    )
    add_servicer(Servicer(dataplane, FixedModels(dataplane.model_registry)), server)
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
