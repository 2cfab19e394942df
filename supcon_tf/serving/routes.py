"""The addresses that are served over HTTP.

KServe's own predict and infer handlers are not among them: they take JSON only under some content
types, read it with pydantic, and know neither versions nor image files as binary tensors.
"""

import re
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from kserve.errors import InvalidInput, ModelNotReady, ServerNotReady
from kserve.protocol.rest.server import metrics_handler
from kserve.protocol.rest.v1_endpoints import V1Endpoints
from kserve.protocol.rest.v2_endpoints import V2Endpoints
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from supcon_tf.serving import document, outputs, v1, v2
from supcon_tf.serving.faults import NotFoundError, RequestError, shown
from supcon_tf.serving.gate import App, error_response
from supcon_tf.serving.model import FixedModels, ServedDataPlane, ServedModel, asked_version
from supcon_tf.serving.query import Unread

_JSON_LENGTH = "inference-header-content-length"
# The page itself says what it may load; only a header can say that it may not be framed.
_PAGE_HEADERS = {
    "content-security-policy": "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}
_VERSIONED = re.compile("(/v[12]/models/[^/]+)/versions/([^/:]+)(.*)", re.DOTALL)


class Routes:
    """Handlers of what KServe does not serve, or does not serve as it should.

    Args:
        dataplane: KServe's way to the model.
    """

    def __init__(self, dataplane: ServedDataPlane):
        self._dataplane = dataplane

    async def page(self) -> Response:
        """Gives the web page."""
        content = document.page()
        return Response(content, media_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)

    async def predict_v1(self, request: Request, model_name: str) -> Response:
        """Predicts over the V1 protocol."""
        body = await request.body()
        payload = Unread(len(body), partial(v1.read, body))
        content, headers = await self._dataplane.infer(model_name, payload)
        return _json(content, headers)

    async def infer_v2(self, request: Request, model_name: str) -> Response:
        """Predicts over the V2 protocol."""
        body, length = await request.body(), request.headers.get(_JSON_LENGTH)
        payload = Unread(len(body), partial(v2.read_body, body, length, model_name))
        response, headers = await self._dataplane.infer(model_name, payload)
        content, json_length = response.to_rest()
        if json_length is None:
            return _json(content, headers)
        headers[_JSON_LENGTH] = str(json_length)
        return Response(content, media_type="application/octet-stream", headers=headers)

    async def explain(self) -> Response:
        """Refuses; KServe would answer 501.

        Raises:
            NotFoundError: always.
        """
        raise NotFoundError("this model gives no explanations. Request signature_name neighbors.")

    async def metadata_v1(self, model_name: str) -> Response:
        """Describes the model, for users and for the page."""
        model = self._model(model_name)
        bundle = model.versions.served
        refused = model.versions.refused.items()
        return _json(
            {
                "model_spec": {"name": bundle.name, "version": str(bundle.version)},
                "metadata": {
                    "class_names": bundle.class_names,
                    "multi_label": getattr(bundle, "multi_label", False),
                    "image_size_px": bundle.image_size_px,
                    "neighbors": bundle.num_neighbors,
                    "symbols": bundle.of_symbols,
                    "temperature": bundle.metadata.get("temperature"),
                    "preprocessing": bundle.metadata.get("preprocessing"),
                    "signatures": outputs.signatures_of(bundle),
                    "runtime": bundle.runtime,
                },
                "metrics": bundle.metrics,
                "refused_versions": {str(version): message for version, message in refused},
            }
        )

    async def thumbnail(self, model_name: str, row: str, version: str = "") -> Response:
        """Gives a picture from the index, of the version that `?version=` names."""
        if version:
            asked_version.set(version)
        bundle = self._model(model_name).versions.served
        if not (row.isascii() and row.isdigit() and len(row) < 10 and str(int(row)) == row):
            raise RequestError(f"a row must be a whole number. Received: {shown(row)}.")
        content = await run_in_threadpool(bundle.thumbnail, int(row))
        if content is None:
            raise NotFoundError(f"row {row} of {model_name} has no picture.")
        cached = "private, max-age=600" if version else "no-store"
        headers = {"x-content-type-options": "nosniff", "cache-control": cached}
        return Response(content, media_type="image/jpeg", headers=headers)

    def _model(self, name: str) -> ServedModel:
        return self._dataplane.get_model_from_registry(name)


def _json(content: Any, headers: dict[str, str] | None = None) -> Response:
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, media_type="application/json", headers=headers)


class Versioned:
    """ASGI middleware: takes `/versions/N` out of an address, as KServe's routes have none.

    Args:
        app: the layers within.
    """

    def __init__(self, app: App):
        self._app = app

    async def __call__(self, scope, receive, send) -> None:
        """Serves one request, as ASGI calls it."""
        found = _VERSIONED.fullmatch(scope["path"])
        asked_version.set(found[2] if found else "")
        if found:
            scope["path"] = found[1] + found[3]
        await self._app(scope, receive, send)


def _as_fault(error: Exception, request: Request) -> Exception:
    """An error of KServe or Starlette as one of ours."""
    if isinstance(error, HTTPException):
        message = f"{error.detail}: {request.method} {shown(request.url.path)}."
        return RequestError(message, error.status_code)
    if isinstance(error, ModelNotReady | ServerNotReady):
        return RequestError("the server is about to stop.", HTTPStatus.SERVICE_UNAVAILABLE)
    if isinstance(error, InvalidInput | NotImplementedError):
        return RequestError(str(error))
    return error


async def _answer_error(request: Request, error: Exception) -> Response:
    response = error_response(request.scope, _as_fault(error, request))
    response.headers.update(getattr(error, "headers", None) or {})  # Such as Allow.
    return response


_FAULTS = (
    *(RequestError, HTTPException, ModelNotReady, ServerNotReady),
    *(InvalidInput, NotImplementedError, Exception),
)


def _addresses(dataplane: ServedDataPlane) -> list[tuple[str, str, str, Callable]]:
    """Kind (as the metrics call it), method, path and handler; the first that fits answers."""
    ours, v1_routes = Routes(dataplane), V1Endpoints(dataplane)
    v2_routes = V2Endpoints(dataplane, FixedModels(dataplane.model_registry))
    return [
        ("page", "GET", "/", ours.page),
        ("page", "HEAD", "/", ours.page),
        ("metrics", "GET", "/metrics", metrics_handler),
        ("v1_predict", "POST", "/v1/models/{model_name}:predict", ours.predict_v1),
        ("v1_about", "POST", "/v1/models/{model_name}:explain", ours.explain),
        ("v1_about", "GET", "/v1/models", v1_routes.models),
        ("v1_about", "GET", "/v1/models/{model_name}", v1_routes.model_ready),
        ("v1_about", "GET", "/v1/models/{model_name}/metadata", ours.metadata_v1),
        ("thumbnail", "GET", "/v1/models/{model_name}/thumbnails/{row}", ours.thumbnail),
        ("v2_infer", "POST", "/v2/models/{model_name}/infer", ours.infer_v2),
        ("health", "GET", "/v2/health/live", v2_routes.live),
        ("health", "GET", "/v2/health/ready", v2_routes.ready),
        ("health", "GET", "/v2/models/{model_name}/ready", v2_routes.model_ready),
        ("v2_about", "GET", "/v2", v2_routes.metadata),
        ("v2_about", "GET", "/v2/models", v2_routes.models),
        ("v2_about", "GET", "/v2/models/{model_name}", v2_routes.model_metadata),
        ("v2_about", "POST", "/v2/repository/models/{model_name}/load", v2_routes.load),
        ("v2_about", "POST", "/v2/repository/models/{model_name}/unload", v2_routes.unload),
    ]


def create_application(dataplane: ServedDataPlane) -> FastAPI:
    """All routes, ours and KServe's.

    Args:
        dataplane: KServe's way to the model.
    """
    # No documentation pages, as FastAPI's load their scripts from elsewhere.
    app = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers=dict.fromkeys(_FAULTS, _answer_error),
    )
    app.add_middleware(Versioned)
    for kind, method, path, handler in _addresses(dataplane):
        app.add_api_route(path, handler, methods=[method], name=kind)
    return app
