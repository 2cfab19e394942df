"""KServe's ModelServer with listeners, an end and errors of its own.

Reference:
    kserve 0.21, `kserve/model_server.py`. Differs: listens where it is told to, ends requests
    before models, knows versions, and never loads or unloads a model by request.
"""

import asyncio
import logging
import signal
import socket
import sys
from typing import Any

import kserve
import uvicorn

from supcon_tf.config import ServeConfig
from supcon_tf.serving.batching import Batcher
from supcon_tf.serving.connections import Connection, HttpServer
from supcon_tf.serving.grpc_service import Servicer, StatusInterceptor, create_server
from supcon_tf.serving.instances import Bounds
from supcon_tf.serving.limits import HELD_REQUESTS, Held, Limits
from supcon_tf.serving.model import ServedDataPlane, ServedModel
from supcon_tf.serving.observing import Observer
from supcon_tf.serving.routes import create_application
from supcon_tf.serving.versions import Versions, report

_IDLE_SECONDS = 75  # Longer than the usual minute of proxies, which should be the ones to close.
_LAST_REQUESTS_SECONDS = 0.3  # For what is on its way on connections that are open.
_BACKLOG = 2048


def _configure_logging() -> None:
    """One line on stderr for each thing that went wrong, and none for what went well."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in ("kserve", "kserve.trace", "uvicorn", "supcon_tf.serving"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING)


class Server(kserve.ModelServer):
    """Serves one model.

    Args:
        config: settings.
        versions: has loaded a version.
        bound: socket for HTTP, as `bind` gives it.
    """

    def __init__(self, config: ServeConfig, versions: Versions, bound: socket.socket):
        _configure_logging()  # First, as KServe configures loggers that have no handler.
        port = bound.getsockname()[1]
        super().__init__(http_port=port, enable_grpc=False, enable_latency_logging=False)
        self._config, self._versions, self._bound = config, versions, bound
        self._signal, self._answered, self._refusing_calls = 0, 0, False
        self._ended: asyncio.Event | None = None
        self._batcher = Batcher(
            config.max_batch_size, config.max_queue, config.batch_wait_ms / 1000
        )
        bounds = Bounds(config.max_queue, int(config.max_image_megapixels * 1e6))
        self.model = ServedModel(versions, self._batcher, bounds)
        self.dataplane = ServedDataPlane(self.registered_models)
        self._max_bytes = int(config.max_request_mb * 1e6)
        self._held = Held(2 * HELD_REQUESTS * self._max_bytes)  # Bodies, and images made of them.

    def run(self) -> int:
        """Serves until a signal comes; its number is returned."""
        self.start([self.model])
        return self._signal

    def start(self, models: list[ServedModel]) -> None:
        """Serves until a signal comes."""
        self._register_and_check_atleast_one_model_is_ready(models)
        try:
            asyncio.run(self._serve())
        finally:
            for part in (self._batcher, self.model, self._versions):
                part.close()

    def stop(self, sig: int) -> None:
        """Begins the end; a second signal makes it short.

        Args:
            sig: number of the signal.
        """
        if self.dataplane.draining:
            self._http.force_exit = True
            if self._grpc_server is not None:
                self._hurry = asyncio.ensure_future(self._grpc_server.stop(0))
            return
        self._http.stop_accepting(self._bound)
        self._signal, self.dataplane.draining = sig, True
        self._ended.set()

    def register_signal_handler(self) -> None:
        """Has both signals end the server."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop, number)

    async def _serve(self) -> None:
        self._ended = asyncio.Event()
        self._http = HttpServer(self._uvicorn_config())
        self._grpc_server = await self._start_grpc()
        watching = asyncio.create_task(self._versions.watch(self._config.poll_seconds))
        serving = asyncio.create_task(self._http.serve([self._bound]))
        while not self._http.started and not serving.done():
            await asyncio.sleep(0.005)
        if serving.done():
            serving.result()  # Raises what kept it from listening.
        self.register_signal_handler()
        self._announce("http", self.http_port, " (page at /)")
        await self._ended.wait()
        watching.cancel()
        await asyncio.gather(self._end_http(serving), self._end_grpc())
        report(f"stopped; {self._answered} requests were answered")

    def _uvicorn_config(self) -> uvicorn.Config:
        app = create_application(self.model, self.dataplane)
        app = Limits(app, self._max_bytes, self._held)
        app = Observer(app, lambda: self.dataplane.draining, self._count)
        return uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=self._config.drain_seconds,
        )

    def _count(self) -> None:
        self._answered += 1

    def _announce(self, scheme: str, port: int, more: str = "") -> None:
        bundle, host = self._versions.served, self._config.host
        host = f"[{host}]" if ":" in host else host
        address = f"{scheme}://{host}:{port}{more}"
        report(f"serving {bundle.name} version {bundle.version} at {address}")

    async def _start_grpc(self) -> Any:
        if self._config.grpc_port is None:
            return None
        servicer = Servicer(self.dataplane, self._held)
        interceptor = StatusInterceptor(self._count, lambda: self._refusing_calls)
        host, port = self._config.host, self._config.grpc_port
        server, port = create_server(servicer, interceptor, self._max_bytes, host, port)
        await server.start()
        self._announce("grpc", port)
        return server

    async def _end_http(self, serving: asyncio.Task) -> None:
        """Answers what is under way on open connections, then closes them."""
        await asyncio.sleep(_LAST_REQUESTS_SECONDS)
        self._http.should_exit = True
        await serving
        if late := list(self._http.server_state.tasks):  # They say so to their clients.
            for task in late:
                task.cancel()
            await asyncio.wait(late, timeout=1)

    async def _end_grpc(self) -> None:
        """Answers the calls under way.

        gRPC cancels those that it has received and not handed over when it stops; so clients are
        told before to send no more.
        """
        if self._grpc_server is not None:
            await asyncio.sleep(_LAST_REQUESTS_SECONDS)
            self._refusing_calls = True
            await asyncio.sleep(_LAST_REQUESTS_SECONDS)
            await self._grpc_server.stop(self._config.drain_seconds)
