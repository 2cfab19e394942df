"""The listeners, and their shutdown.

KServe's `ModelServer` listens on every address, and on SIGTERM unloads the model before the
requests under way are answered; so its parts are put together here.
"""

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import sys
from functools import partial

import uvicorn

from supcon_tf.config import ServeConfig
from supcon_tf.core.errors import UserError
from supcon_tf.serving.batching import Batcher
from supcon_tf.serving.connection import Connection, Load
from supcon_tf.serving.gate import Gate, Memory
from supcon_tf.serving.grpc_service import Interceptor, create_server
from supcon_tf.serving.instances import Bounds
from supcon_tf.serving.model import Repository, ServedDataPlane, ServedModel
from supcon_tf.serving.routes import create_application
from supcon_tf.serving.versions import Versions, report

_HELD_REQUESTS = 16  # This many of the largest may be in memory at once: bodies and their images.
_MAX_CONNECTIONS, _OTHER_FILES = 10_000, 100
_IDLE_SECONDS = 75  # Longer than the usual minute of proxies, which should be the ones to close.
_LAST_REQUESTS_SECONDS = 0.3  # For requests on their way on connections that are open.


def bind(host: str, port: int, flag: str) -> socket.socket:
    """A bound socket that does not listen yet.

    Args:
        host: address, or a name of this machine.
        port: 0 for any free one.
        flag: the flag that chooses the port.

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


def _most_connections() -> int:
    """The number of connections that fit in this process's limit on open files, which is raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_CONNECTIONS + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted - _OTHER_FILES


def _configure_logging() -> None:
    """One line on stderr for each fault, and none for success."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in ("kserve", "kserve.trace", "uvicorn", "supcon_tf.serving"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING)


class Server:
    """Serves one model.

    Args:
        config: settings.
        versions: has loaded a version.
        bound: socket for HTTP, as `bind` gives it.
    """

    def __init__(self, config: ServeConfig, versions: Versions, bound: socket.socket):
        _configure_logging()
        self._config, self._versions, self._bound = config, versions, bound
        self._max_bytes = int(config.max_request_mb * 1e6)
        self._memory = Memory(_HELD_REQUESTS * self._max_bytes)
        self._batcher = Batcher(
            config.max_batch_size, config.max_queue, config.batch_wait_ms / 1000
        )
        self._load = Load(
            config.max_queue + config.max_batch_size,
            _most_connections(),
            lambda: self._batcher.queued >= config.max_queue,
        )
        bounds = Bounds(config.max_queue, int(config.max_image_megapixels * 1e6))
        self._model = ServedModel(versions, self._batcher, bounds, self._memory)
        repository = Repository()
        repository.update(self._model)
        self._dataplane = ServedDataPlane(repository)
        app = create_application(self._dataplane)
        self._gate = Gate(app, self._max_bytes, self._memory, lambda: not self._model.ready)
        self._signal, self._grpc, self._refusing_calls = 0, None, False

    def run(self) -> int:
        """Serves until a signal comes; returns its number."""
        try:
            asyncio.run(self._serve())
        finally:
            for part in (self._batcher, self._model, self._versions):
                part.close()
        return self._signal

    async def _serve(self) -> None:
        self._ended = asyncio.Event()
        self._http = uvicorn.Server(self._uvicorn_config())
        self._interceptor = Interceptor(self._memory, lambda: self._refusing_calls)
        await self._start_grpc()
        watching = asyncio.create_task(self._versions.watch(self._config.poll_seconds))
        serving = asyncio.create_task(self._http.serve([self._bound]))
        while not self._http.started and not serving.done():
            await asyncio.sleep(0.005)
        if serving.done():
            serving.result()  # Raises the error that kept it from listening.
        for number in (signal.SIGINT, signal.SIGTERM):  # After uvicorn has set its own handlers.
            asyncio.get_running_loop().add_signal_handler(number, self._stop, number)
        self._announce("http", self._bound.getsockname()[1], " (page at /)")
        await self._ended.wait()
        watching.cancel()
        await asyncio.gather(self._end_http(serving), self._end_grpc())
        answered = self._gate.answered + self._load.refused + self._interceptor.answered
        report(f"stopped; {answered} requests were answered")

    def _uvicorn_config(self) -> uvicorn.Config:
        return uvicorn.Config(
            self._gate,
            http=partial(Connection, self._load),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=self._config.drain_seconds,
        )

    async def _start_grpc(self) -> None:
        host, port = self._config.host, self._config.grpc_port
        if port is not None:
            self._grpc, port = create_server(
                self._dataplane, self._interceptor, self._max_bytes, host, port
            )
            await self._grpc.start()
            self._announce("grpc", port)

    def _announce(self, scheme: str, port: int, more: str = "") -> None:
        bundle, host = self._versions.served, self._config.host
        host = f"[{host}]" if ":" in host else host
        address = f"{scheme}://{host}:{port}{more}"
        report(f"serving {bundle.name} version {bundle.version} at {address}")

    def _stop(self, number: int) -> None:
        """Begins the shutdown; a second signal cuts it short."""
        if self._model.ready:
            _stop_accepting(self._http, self._bound)
            self._signal = number
            self._model.stop()
            self._ended.set()
        else:
            self._http.force_exit = True
            if self._grpc is not None:
                self._hurry = asyncio.ensure_future(self._grpc.stop(0))

    async def _end_http(self, serving: asyncio.Task) -> None:
        """Answers the requests under way on open connections, then closes them."""
        await asyncio.sleep(_LAST_REQUESTS_SECONDS)
        self._http.should_exit = True
        await serving
        if late := list(self._http.server_state.tasks):  # They tell their clients so.
            for task in late:
                task.cancel()
            await asyncio.wait(late, timeout=1)

    async def _end_grpc(self) -> None:
        """Answers the calls under way.

        When it stops, gRPC cancels those that it has received and not handed over; so clients are
        told beforehand to send no more.
        """
        if self._grpc is not None:
            await asyncio.sleep(_LAST_REQUESTS_SECONDS)
            self._refusing_calls = True
            await asyncio.sleep(_LAST_REQUESTS_SECONDS)
            await self._grpc.stop(self._config.drain_seconds)


def _stop_accepting(server: uvicorn.Server, listener: socket.socket) -> None:
    """Closes the listener; connections stay open, even those not yet taken from the kernel."""
    loop = asyncio.get_running_loop()
    server.connecting = []  # Keeps the tasks alive.
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            protocol = partial(
                server.config.http_protocol_class,
                config=server.config,
                server_state=server.server_state,
                app_state={},
            )
            connecting = loop.connect_accepted_socket(protocol, connection)
            server.connecting.append(loop.create_task(connecting))
    for one in server.servers:
        one.close()
