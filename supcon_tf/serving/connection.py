"""HTTP connections: headers are bounded, and requests beyond capacity are refused unread."""

import asyncio
import logging
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from supcon_tf.serving import metrics
from supcon_tf.serving.faults import BusyError

_MAX_HEADER_BYTES = 2**16
_DISCARD_SECONDS = 2.0
# Seconds after which a refused client may try again.
_RETRY_SECONDS = 1
_PREDICTING = (b":predict", b"/infer")
_log = logging.getLogger("supcon_tf.serving")


class Load:
    """Counts of requests in progress on all connections, and of those refused.

    A refusal must cost little, or the refused requests take the time of those served: it is written
    before a request becomes a task, and logged once a second.

    Args:
        most_requests: predictions that may be in progress.
        most_connections: connections that may be open.
        is_full: whether no image can be taken, however few requests are in progress.
    """

    def __init__(self, most_requests: int, most_connections: int, is_full: Callable[[], bool]):
        self._most_requests, self.most_connections = most_requests, most_connections
        self._is_full = is_full
        self.running, self.refused = 0, 0
        self._resting: dict[Connection, None] = {}  # In order: the longest wait comes first.
        self._logged, self._logged_at = 0, 0.0
        self._refusals = metrics.REQUESTS.labels(route="refused", status="503")
        error = BusyError("the server is at its limit of requests (max_queue).")
        body = orjson.dumps({"error": error.message})
        status = HTTPStatus(error.status)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nretry-after: {_RETRY_SECONDS}\r\n"
        ).encode()
        self._answers = {
            False: head + b"\r\n" + body,
            True: head + b"connection: close\r\n\r\n" + body,
        }

    def takes(self, method: bytes, url: bytes) -> bool:
        """Whether a request is served; only predictions are limited in number."""
        if self.running < self._most_requests and not self._is_full():
            return True
        return method != b"POST" or not url.partition(b"?")[0].endswith(_PREDICTING)

    def rest(self, connection: "Connection") -> None:
        """Stops reading from a refused connection until there is room, or it may try again.

        Clients that try again at once would otherwise keep the server busy with refusals.
        """
        self._resting[connection] = None
        connection.flow.pause_reading()
        connection.loop.call_later(_RETRY_SECONDS, self._resume, connection)

    def let_one_in(self) -> None:
        """Reads from the connection that has rested longest, now that there is room."""
        if self._resting:
            self._resume(next(iter(self._resting)))

    def _resume(self, connection: "Connection") -> None:
        if connection not in self._resting:
            return
        del self._resting[connection]
        if not connection.transport.is_closing():
            connection.flow.resume_reading()

    def refusal(self, closes: bool) -> bytes:
        """The answer to one request that is refused; counted, and logged with others.

        Args:
            closes: whether the connection ends with it.
        """
        self.refused += 1
        self._refusals.inc()
        now = time.monotonic()
        if now - self._logged_at >= 1.0:
            _log.warning(
                "%d requests were refused; the server is full", self.refused - self._logged
            )
            self._logged, self._logged_at = self.refused, now
        return self._answers[closes]


class Connection(HttpToolsProtocol):
    """A connection of uvicorn with bounded headers.

    uvicorn itself bounds headers only in its other parser, which is 9 % slower, and waits
    indefinitely for the first request and for the rest of one that has begun.

    Args:
        load: of all connections.
        **kwargs: as for uvicorn's; its time to keep an idle connection bounds those waits too.
    """

    def __init__(self, load: Load, **kwargs: Any):
        super().__init__(**kwargs)
        self._load, self._header_bytes = load, 0
        self._arriving: asyncio.TimerHandle | None = None
        self._is_counted = self._is_refused = self._closes = self._is_hasty = False
        self._may_retry_at = 0.0

    def connection_made(self, transport: Any) -> None:
        """Accepts a connection; one beyond the limit only to refuse it."""
        super().connection_made(transport)
        self._closes = len(self.connections) > self._load.most_connections
        self._await_arrival()

    def data_received(self, data: bytes) -> None:
        """Counts bytes that no request and no body has taken."""
        self._header_bytes += len(data)
        super().data_received(data)
        if self._header_bytes > _MAX_HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response("The headers are too long.")

    def on_message_begin(self) -> None:
        """Begins to read a request."""
        super().on_message_begin()
        self._await_arrival()

    def on_headers_complete(self) -> None:
        """Starts serving the request, or refuses it."""
        self._header_bytes = 0
        takes = self._load.takes(self.parser.get_method(), self.url)
        self._is_refused = self._is_idle() and (self._closes or not takes)
        if not self._is_refused:
            self._arriving.cancel()  # The gate bounds the time of the body.
            super().on_headers_complete()
            return
        if self.transport.is_closing():  # It follows one that ended the connection.
            return
        self._closes |= self.expect_100_continue or not self.parser.should_keep_alive()
        self.transport.write(self._load.refusal(self._closes))
        if self._closes:  # The rest is read and dropped: closing at once could lose the answer.
            self.loop.call_later(_DISCARD_SECONDS, self.transport.close)

    def on_body(self, body: bytes) -> None:
        """Takes a part of the body."""
        self._header_bytes = 0
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Counts a request once it has arrived: a slow one does not keep others out."""
        if not self._is_refused:
            super().on_message_complete()
            self._count(True)
            return
        self._arriving.cancel()
        if self._closes:
            self.transport.close()
        else:
            now = self.loop.time()
            self._is_hasty |= now < self._may_retry_at  # It did not wait last time.
            self._may_retry_at = now + _RETRY_SECONDS
            if self._is_hasty:
                self._load.rest(self)
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """Ends a request; the next of the pipeline, if it has arrived, is counted instead."""
        goes_on = bool(self.pipeline) and not self.transport.is_closing()
        self._count(goes_on and not self.pipeline[-1][0].more_body)
        super().on_response_complete()
        self._load.let_one_in()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the connection."""
        self._count(False)
        self._arriving.cancel()
        super().connection_lost(exc)

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete  # Else the next waits its turn.

    def _await_arrival(self) -> None:
        """Ends the connection unless a request that has begun to arrive is complete in time."""
        if self._arriving is not None:
            self._arriving.cancel()
        self._arriving = self.loop.call_later(self.timeout_keep_alive, self._give_up)

    def _give_up(self) -> None:
        if self._is_idle():
            self.transport.close()
        else:  # Reading may have paused until the request under way is answered.
            self._await_arrival()

    def _count(self, is_running: bool) -> None:
        self._load.running += is_running - self._is_counted
        self._is_counted = is_running
