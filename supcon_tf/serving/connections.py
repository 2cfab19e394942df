"""Where the server listens, and what it puts up with on a connection."""

import asyncio
import contextlib
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from supcon_tf.core.errors import UserError

_MAX_HEADER_BYTES = 2**16
_HEADER_SECONDS = 30.0
_STUCK_SECONDS = 30.0  # Within which a client must read something of its answer.


def bind(host: str, port: int, flag: str) -> socket.socket:
    """A bound socket that does not listen yet.

    Args:
        host: address, or a name of this machine.
        port: 0 for any free one.
        flag: what chooses the port.

    Raises:
        UserError: if the address is not of this machine, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise UserError(f"host must be an address of this machine. Received: {host!r}.") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise UserError(
            f"cannot listen on {host}:{port} ({error.strerror}). Pass another --{flag} or --host."
        ) from error
    return bound


class Connection(HttpToolsProtocol):
    """A connection that ends if headers are too long or take too long, or nobody reads answers."""

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self._header_bytes, self._deadline, self._stuck = 0, None, None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Waits for the first request."""
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops waiting."""
        self._headers_came()
        self._stop_watching()
        super().connection_lost(exc)

    def eof_received(self) -> bool | None:
        """A client that only stops sending still gets the answer to what it has sent."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body:
            return None  # Closes the connection.
        cycle.keep_alive = False
        return True

    def data_received(self, data: bytes) -> None:
        """Counts what arrives before the end of the headers."""
        if self._deadline is not None:
            self._header_bytes += len(data)
        super().data_received(data)
        if self._header_bytes > _MAX_HEADER_BYTES and self._deadline is not None:
            self.send_400_response("The headers are too long.")

    def on_message_begin(self) -> None:
        """Waits for the headers of the next request."""
        super().on_message_begin()
        self._await_headers()

    def on_headers_complete(self) -> None:
        """Has the request served."""
        self._headers_came()
        super().on_headers_complete()

    def shutdown(self) -> None:
        """Ends the connection, once what has begun to arrive is answered."""
        if self._deadline is None or not self._header_bytes:
            super().shutdown()

    def pause_writing(self) -> None:
        """Waits for the client to read."""
        super().pause_writing()
        self._watch_reading(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Stops waiting: the client has read nearly all."""
        self._stop_watching()
        super().resume_writing()

    def _watch_reading(self, unread: int) -> None:
        self._stuck = self.loop.call_later(_STUCK_SECONDS, self._check_reading, unread)

    def _check_reading(self, before: int) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread < before:
            self._watch_reading(unread)
        else:
            self.transport.abort()

    def _stop_watching(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _await_headers(self) -> None:
        if self._deadline is None:
            self._header_bytes = 0
            self._deadline = self.loop.call_later(_HEADER_SECONDS, self.timeout_keep_alive_handler)

    def _headers_came(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class HttpServer(uvicorn.Server):
    """Uvicorn without its own signal handlers."""

    def __init__(self, config: uvicorn.Config):
        super().__init__(config)
        self._connecting: list[asyncio.Task] = []

    @contextlib.contextmanager
    def capture_signals(self):
        """Leaves them alone."""
        yield

    def stop_accepting(self, listener: socket.socket) -> None:
        """Closes the listener; connections go on, and so do those not yet taken from the kernel.

        Args:
            listener: what `serve` was given.
        """
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.setblocking(False)
                connecting = loop.connect_accepted_socket(self._protocol, connection)
                self._connecting.append(loop.create_task(connecting))
        for server in self.servers:
            server.close()

    def _protocol(self) -> Connection:
        return Connection(self.config, self.server_state, {})
