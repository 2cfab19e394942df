"""ASGI middleware: counts requests, writes a line for each that failed, and announces the end."""

import asyncio
import logging
from collections.abc import Callable

from supcon_tf.serving import measures
from supcon_tf.serving.faults import ModelFailedError, StoppingError
from supcon_tf.serving.limits import App, Message, Receive, Scope, Send, send_error

_KINDS = (
    ("/v1/", ":predict", "v1_predict"),
    ("/v2/", "/infer", "v2_infer"),
    ("/v2/health/", "", "health"),
    ("/v1/", "/ready", "health"),
    ("/v2/", "/ready", "health"),
    ("/metrics", "", "metrics"),
    ("/v1/", "", "v1_about"),
    ("/v2", "", "v2_about"),
)
_log = logging.getLogger("supcon_tf.serving")


def route_kind(path: str) -> str:
    """One of a few names for the route of an address, whatever a client invents."""
    if path == "/":
        return "page"
    if "/thumbnails/" in path:
        return "thumbnail"
    for start, end, kind in _KINDS:
        if path.startswith(start) and path.endswith(end):
            return kind
    return "other"


class Observer:
    """The outermost layer of the application.

    Args:
        app: the layers within.
        is_draining: whether connections should end with their answer.
        count: is called for each request that was answered.
    """

    def __init__(self, app: App, is_draining: Callable[[], bool], count: Callable[[], None]):
        self._app, self._is_draining, self._count = app, is_draining, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, as ASGI calls it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._is_draining():
                    message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except asyncio.CancelledError:  # The time to drain is over.
            if not status:
                await send_error(scope, observed, StoppingError("the server has stopped."))
        except Exception:
            _log.exception("%s %r failed", scope["method"], scope["path"][:200])
            if not status:
                failure = ModelFailedError("the server failed; its log says why.")
                await send_error(scope, observed, failure)
        if status:
            self._answered(scope, status)

    def _answered(self, scope: Scope, status: int) -> None:
        self._count()
        measures.REQUESTS.labels(route=route_kind(scope["path"]), status=str(status)).inc()
        if "supcon_error" in scope:
            client = (scope.get("client") or ("?",))[0]
            message = scope["supcon_error"].encode("unicode_escape").decode()
            path = scope["path"][:200]
            _log.warning("%s %s %r %d: %s", client, scope["method"], path, status, message)
