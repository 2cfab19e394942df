"""ASGI middleware: bounds bodies, answers every fault, and counts and logs requests."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from http import HTTPStatus
from typing import Any

import orjson
from starlette.datastructures import Headers
from starlette.responses import Response

from supcon_tf.serving import metrics
from supcon_tf.serving.faults import BusyError, RequestError, ServerFailedError, shown

BODY_SECONDS = 30.0
_DISCARD_SECONDS = 2.0
_log = logging.getLogger("supcon_tf.serving")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


def megabytes(count: int) -> str:
    """A number of bytes, as messages show it."""
    return f"{count / 1e6:g} MB"


class Memory:
    """Bytes that all requests hold: bodies, from their arrival, and the images made of them.

    Args:
        most: bytes that may be held.
    """

    def __init__(self, most: int):
        self._most, self.held = most, 0

    @contextlib.contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """Gives a function that counts bytes of one request; at the end all of them are released.

        The function raises `BusyError` if all requests together would hold too many.
        """
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            if self.held + count > self._most:
                raise BusyError(f"the server already holds {megabytes(self.held)} of requests.")
            self._change(count)
            taken += count

        try:
            yield take
        finally:
            self._change(-taken)

    def _change(self, count: int) -> None:
        self.held += count
        metrics.HELD_BYTES.set(self.held)


def error_response(scope: MutableMapping[str, Any], error: BaseException) -> Response:
    """The answer to a request that is not served, `{"error": ...}`; writes a line in the log.

    Args:
        scope: of the request.
        error: of any kind; all but `RequestError` are the server's fault.
    """
    if isinstance(error, asyncio.CancelledError):  # The time to drain is over.
        error = RequestError("the server has stopped.", HTTPStatus.SERVICE_UNAVAILABLE)
    elif not isinstance(error, RequestError):
        _log.error("%s %r failed", scope["method"], scope["path"][:200], exc_info=error)
        error = ServerFailedError("the server failed")
    client = (scope.get("client") or ("?",))[0]
    message = error.message.encode("unicode_escape").decode()
    request = scope["method"], scope["path"][:200]
    _log.warning("%s %s %r %d: %s", client, *request, error.status, message)
    headers = {"retry-after": "1"} if error.status == HTTPStatus.SERVICE_UNAVAILABLE else None
    body = orjson.dumps({"error": error.message})
    return Response(body, error.status, headers, "application/json")


class Gate:
    """Outermost layer of the application.

    Args:
        app: the inner layers.
        max_bytes: of one body.
        memory: of all requests.
        is_ending: returns whether a connection should be closed after its answer.
        body_seconds: seconds within which a body must arrive.
    """

    def __init__(
        self,
        app: App,
        max_bytes: int,
        memory: Memory,
        is_ending: Callable[[], bool],
        body_seconds: float = BODY_SECONDS,
    ):
        self._app, self._max_bytes, self._memory = app, max_bytes, memory
        self._is_ending, self._body_seconds = is_ending, body_seconds
        self.answered = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serves one request, as ASGI calls it."""
        status, is_read = 0, False

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._is_ending() or not is_read:
                    message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
            await send(message)

        try:
            with self._memory.share() as take:
                body = await self._read(Headers(scope=scope), receive, take)
                is_read = True
                if body is not None:
                    await self._app(scope, _replay(body, receive), observed)
        except (Exception, asyncio.CancelledError) as error:
            if not status:  # Otherwise it has been answered, and FastAPI raises it again.
                if not is_read and isinstance(error, Exception):
                    await self._discard(scope, receive)
                await error_response(scope, error)(scope, receive, observed)
        if status:
            self.answered += 1
            route = getattr(scope.get("route"), "name", "other")
            metrics.REQUESTS.labels(route=route, status=str(status)).inc()

    async def _read(
        self, headers: Headers, receive: Receive, take: Callable[[int], None]
    ) -> bytes | None:
        """The whole body; None if the client has disconnected."""
        self._check(headers)
        parts, count, more = [], 0, True
        try:
            async with asyncio.timeout(self._body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    part, more = message.get("body", b""), message.get("more_body", False)
                    count += len(part)
                    if count > self._max_bytes:
                        raise self._too_large()
                    take(len(part))
                    parts.append(part)
        except TimeoutError:
            raise RequestError(
                f"the body did not arrive within {self._body_seconds:g} seconds.",
                HTTPStatus.REQUEST_TIMEOUT,
            ) from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _check(self, headers: Headers) -> None:
        encoding = headers.get("content-encoding", "identity")
        if encoding.strip().lower() != "identity":
            raise RequestError(
                f"the body must not be compressed. Received: {shown(encoding)}. Send it as it is.",
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            )
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise RequestError(f"Content-Length must be a number. Received: {shown(length)}.")
        if len(length) > 18 or int(length) > self._max_bytes:
            raise self._too_large()

    def _too_large(self) -> RequestError:
        return RequestError(
            f"the body is larger than {megabytes(self._max_bytes)} (max_request_mb). Send fewer "
            "or smaller images at once.",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )

    async def _discard(self, scope: MutableMapping[str, Any], receive: Receive) -> None:
        """Drops the rest of the body for a while: a client still sending reads no answer."""
        if "expect" in Headers(scope=scope):
            return  # A client that waits for a "continue" has sent nothing.
        left, more = 2 * self._max_bytes, True
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):  # The server may end.
            async with asyncio.timeout(_DISCARD_SECONDS):
                while more and left > 0:
                    message = await receive()
                    more = message.get("more_body", False)
                    left -= len(message.get("body", b""))


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was read, then whatever follows on the connection."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed
