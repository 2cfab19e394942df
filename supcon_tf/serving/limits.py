"""ASGI middleware: how large a body may be, how long it may take, and how much all may hold."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from supcon_tf.serving import measures
from supcon_tf.serving.faults import (
    BadRequestError,
    BusyError,
    EncodingError,
    RequestError,
    TooLargeError,
    TooSlowError,
    error_answer,
    shown,
)

BODY_SECONDS = 30.0
HELD_REQUESTS = 8  # So many of the largest requests may be held at once, with their images.
_DISCARD_SECONDS = 2.0

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def megabytes(count: int) -> str:
    """Bytes as a message tells them."""
    return f"{count / 1e6:g} MB"


class Held:
    """Bytes that all requests hold: bodies, from their arrival, and the images made of them.

    Args:
        most: bytes that may be held.
    """

    def __init__(self, most: int):
        self._most, self._held = most, 0

    @property
    def count(self) -> int:
        """Bytes held now."""
        return self._held

    def change(self, count: int) -> None:
        """Counts bytes, or with a negative number takes them back.

        Raises:
            BusyError: if there are too many; none is counted then.
        """
        if count > 0 and self._held + count > self._most:
            raise BusyError(
                f"requests of {megabytes(self._held)} are held already. Try again in a second."
            )
        self._held += count
        measures.HELD_BYTES.set(self._held)


class Share:
    """What one request holds of `Held`; a context that gives all of it back.

    Args:
        held: counts the bytes of all.
    """

    def __init__(self, held: Held):
        self._held, self._count = held, 0

    def take(self, count: int) -> None:
        """Counts bytes of this request.

        Raises:
            BusyError: if all requests would hold too many.
        """
        self._held.change(count)
        self._count += count

    def give_back(self, count: int | None = None) -> None:
        """Takes back what `take` counted, or some of it."""
        count = self._count if count is None else count
        self._held.change(-count)
        self._count -= count

    def __enter__(self) -> "Share":
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()


def header(scope: Scope, name: bytes) -> str | None:
    """The value of a request's header, in lower case names; None where there is none."""
    for key, value in scope["headers"]:
        if key == name:
            return value.decode("latin-1")
    return None


async def send_error(scope: Scope, send: Send, error: RequestError, closes: bool = False) -> None:
    """Answers with `{"error": ...}`.

    Args:
        scope: of the request; the message is left in it for the log.
        send: of the request.
        error: what to say.
        closes: whether the connection ends with it; the last message is then left to the caller.
    """
    scope["supcon_error"] = error.message
    body, named = error_answer(error.status, error.message)
    headers = [(name.encode(), value.encode()) for name, value in named.items()]
    if closes:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": closes})


class Limits:
    """Reads the whole body before the application sees it, within bounds.

    The request's `Share` is left in its scope, for what the application makes of the body.

    Args:
        app: the application.
        max_bytes: of one body.
        held: counts the bytes of all.
        body_seconds: within which a body must arrive.
    """

    def __init__(self, app: App, max_bytes: int, held: Held, body_seconds: float = BODY_SECONDS):
        self._app, self._max_bytes, self._held = app, max_bytes, held
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, as ASGI calls it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with Share(self._held) as share:
            scope["supcon_share"] = share
            if _has_body(scope):
                await self._serve(scope, receive, send, share)
            else:
                await self._app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, share: Share) -> None:
        try:
            self._check_headers(scope)
            body = await asyncio.wait_for(self._read(receive, share), self._body_seconds)
        except TimeoutError:
            error = TooSlowError(f"the body did not arrive within {self._body_seconds:g} seconds.")
            await self._refuse(scope, receive, send, error, share)
        except RequestError as error:
            await self._refuse(scope, receive, send, error, share)
        else:
            if body is not None:
                await self._app(scope, _replay(body, receive), send)

    def _check_headers(self, scope: Scope) -> None:
        encoding = header(scope, b"content-encoding")
        if encoding and encoding.strip().lower() != "identity":
            raise EncodingError(
                f"bodies are taken as they are, not compressed. Received: {shown(encoding)}."
            )
        length = header(scope, b"content-length") or "0"
        if not (length.isascii() and length.isdigit()):
            raise BadRequestError(f"Content-Length must be a number. Received: {shown(length)}.")
        if len(length) > 18 or int(length) > self._max_bytes:
            raise self._too_large()

    def _too_large(self) -> TooLargeError:
        return TooLargeError(
            f"the body is larger than {megabytes(self._max_bytes)} (max_request_mb). Send fewer "
            "or smaller images at once."
        )

    async def _read(self, receive: Receive, share: Share) -> bytes | None:
        """The body; None if the client has gone."""
        parts, count, more = [], 0, True
        try:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                part, more = message.get("body", b""), message.get("more_body", False)
                count += len(part)
                if count > self._max_bytes:
                    raise self._too_large()
                share.take(len(part))
                parts.append(part)
            if len(parts) == 1:
                return parts[0]
            share.take(count)  # For a moment, the body is there twice.
            body = b"".join(parts)
            share.give_back(count)
            return body
        finally:
            parts.clear()  # An error would keep them.

    async def _refuse(self, scope, receive, send, error, share) -> None:
        """Answers, then lets the rest of the body go by for a while, and closes the connection.

        A connection closed while the client still sends is reset, and the client would not see why.
        """
        share.give_back()
        await send_error(scope, send, error, closes=True)
        if header(scope, b"expect") is None:  # Who waits for a "continue" has sent nothing.
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._discard(receive), _DISCARD_SECONDS)
        await send({"type": "http.response.body", "body": b""})

    async def _discard(self, receive: Receive) -> None:
        left = 2 * self._max_bytes
        while left > 0:
            message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return
            left -= len(message.get("body", b""))


def _has_body(scope: Scope) -> bool:
    names = {name for name, _ in scope["headers"]}
    return bool(names & {b"content-length", b"transfer-encoding"})


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was read, then what follows on the connection."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
