"""The addresses that are served over HTTP."""

from functools import partial
from pathlib import Path
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI, Request, Response
from kserve.errors import ModelNotReady, ServerNotReady
from kserve.protocol.rest.server import metrics_handler
from kserve.protocol.rest.v1_endpoints import register_v1_endpoints
from kserve.protocol.rest.v2_endpoints import V2Endpoints, register_v2_endpoints
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from supcon_tf.serving import answers, protocol, tensors
from supcon_tf.serving.faults import (
    BadRequestError,
    ForbiddenError,
    NotFoundError,
    RequestError,
    shown,
)
from supcon_tf.serving.model import Answer, Call, ServedDataPlane, ServedModel

PAGE = Path(__file__).with_name("page.html")
_JSON_LENGTH = "inference-header-content-length"
# The page itself says what it may load; that nobody frames it can only be said here.
_PAGE_HEADERS = {
    "content-security-policy": "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


class Routes:
    """What KServe does not serve, or not as it should.

    Args:
        model: answers.
        dataplane: KServe's way to it.
    """

    def __init__(self, model: ServedModel, dataplane: ServedDataPlane):
        self._model, self._dataplane = model, dataplane
        self._v2 = V2Endpoints(dataplane)

    def _check(self, model_name: str, model_version: str | None) -> None:
        self._dataplane.get_model_from_registry(model_name)
        self._model.check_version(model_version)

    async def page(self) -> Response:
        """The page for people."""
        content = await run_in_threadpool(PAGE.read_bytes)
        return Response(content, media_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)

    async def predict_v1(
        self, request: Request, model_name: str, model_version: str | None = None
    ) -> Response:
        """Predicts over the V1 protocol."""
        body = await request.body()
        call = Call(len(body), model_version, partial(protocol.parse_v1, body), _write_v1)
        return await self._infer(model_name, call)

    async def predict_v2(
        self, request: Request, model_name: str, model_version: str | None = None
    ) -> Response:
        """Predicts over the V2 protocol."""
        body = await request.body()
        read = partial(tensors.parse_v2, body, request.headers.get(_JSON_LENGTH))
        return await self._infer(model_name, Call(len(body), model_version, read, _write_v2))

    async def _infer(self, model_name: str, call: Call) -> Response:
        response, _ = await self._dataplane.infer(model_name, call)
        return response

    async def version_v1(self, model_name: str, model_version: str) -> Response:
        """Whether a version is served, in the V1 protocol."""
        self._check(model_name, model_version)
        if not await self._dataplane.model_ready(model_name):
            raise ModelNotReady(model_name)
        return _json({"name": model_name, "version": model_version, "ready": True})

    async def metadata_v1(self, model_name: str, model_version: str | None = None) -> Response:
        """What the model is, for people and for the page."""
        self._check(model_name, model_version)
        bundle = self._model.bundle
        signatures = [
            name for name in protocol.SIGNATURES if name != "neighbors" or bundle.num_neighbors
        ]
        return _json(
            {
                "model_spec": {"name": bundle.name, "version": str(bundle.version)},
                "metadata": {
                    "class_names": bundle.class_names,
                    "image_size_px": bundle.image_size_px,
                    "neighbors": bundle.num_neighbors,
                    "temperature": bundle.metadata.get("temperature"),
                    "preprocessing": bundle.metadata.get("preprocessing"),
                    "signatures": signatures,
                    "runtime": bundle.runtime,
                },
                "metrics": bundle.metrics,
                "refused_versions": {
                    str(version): message
                    for version, message in sorted(self._model.versions.refused.items())
                },
            }
        )

    async def thumbnail(self, model_name: str, row: str) -> Response:
        """A picture of the index."""
        self._check(model_name, None)
        if not (row.isascii() and row.isdigit() and len(row) < 10 and str(int(row)) == row):
            raise BadRequestError(f"a row must be a whole number. Received: {shown(row)}.")
        content = await run_in_threadpool(self._model.bundle.thumbnail, int(row))
        if content is None:
            raise NotFoundError(f"row {row} of {model_name} has no picture.")
        headers = {"x-content-type-options": "nosniff", "cache-control": "private, max-age=600"}
        return Response(content, media_type="image/jpeg", headers=headers)

    async def metadata_v2(self, model_name: str, model_version: str) -> Any:
        """What a version takes and gives, in the V2 protocol."""
        self._check(model_name, model_version)
        return await self._v2.model_metadata(model_name)

    async def ready_v2(self, model_name: str, model_version: str) -> Any:
        """Whether a version is served, in the V2 protocol."""
        self._check(model_name, model_version)
        return await self._v2.model_ready(model_name)

    async def repository(self, model_name: str) -> Response:
        """KServe would unload the model for anybody who asks."""
        raise ForbiddenError(
            "models are not loaded or unloaded by request. Put a version into the model's folder, "
            "or take it away."
        )

    async def explain(self, model_name: str) -> Response:
        """No explanations."""
        raise NotFoundError("this model explains nothing. Ask for signature_name neighbors.")

    def register(self, app: FastAPI) -> None:
        """Adds all of them to an application, before KServe's, as the first that fits answers."""
        router = APIRouter()
        model = "/models/{model_name}"
        version = f"{model}/versions/{{model_version}}"
        for path, endpoint, methods in (
            ("/", self.page, ["GET", "HEAD"]),
            ("/metrics", metrics_handler, ["GET"]),
            (f"/v1{version}:predict", self.predict_v1, ["POST"]),
            (f"/v1{model}:predict", self.predict_v1, ["POST"]),
            (f"/v1{model}:explain", self.explain, ["POST"]),
            (f"/v1{version}/metadata", self.metadata_v1, ["GET"]),
            (f"/v1{model}/metadata", self.metadata_v1, ["GET"]),
            (f"/v1{model}/thumbnails/{{row}}", self.thumbnail, ["GET"]),
            (f"/v1{version}", self.version_v1, ["GET"]),
            (f"/v2{version}/infer", self.predict_v2, ["POST"]),
            (f"/v2{model}/infer", self.predict_v2, ["POST"]),
            (f"/v2{version}/ready", self.ready_v2, ["GET"]),
            (f"/v2{version}", self.metadata_v2, ["GET"]),
            ("/v2/repository/models/{model_name}/load", self.repository, ["POST"]),
            ("/v2/repository/models/{model_name}/unload", self.repository, ["POST"]),
        ):
            router.add_api_route(path, endpoint, methods=methods, response_model=None)
        app.include_router(router)


def _write_v1(answer: Answer) -> Response:
    body = answers.encode_v1(answer.query, answer.rows)
    return Response(body, media_type="application/json")


def _write_v2(answer: Answer) -> Response:
    bundle = answer.bundle
    body, json_length = answers.encode_v2(answer.query, answer.rows, bundle.name, bundle.version)
    if json_length == len(body):
        return Response(body, media_type="application/json")
    headers = {_JSON_LENGTH: str(json_length)}
    return Response(body, media_type="application/octet-stream", headers=headers)


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, "application/json")


def _error(request: Request, status: int, message: str) -> Response:
    request.scope["supcon_error"] = message  # For the log.
    return _json({"error": message}, status, {"retry-after": "1"} if status == 503 else None)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        return _error(request, error.status, error.message)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        message = f"{error.detail}: {request.method} {shown(request.url.path)}."
        response = _error(request, error.status_code, message)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(ModelNotReady)
    @app.exception_handler(ServerNotReady)
    async def stopping(request: Request, error: Exception) -> Response:
        return _error(request, 503, "the server is about to stop.")


def create_application(model: ServedModel, dataplane: ServedDataPlane) -> FastAPI:
    """All routes, ours and KServe's.

    Args:
        model: answers.
        dataplane: KServe's way to it.
    """
    # No documentation pages, as FastAPI's load their scripts from elsewhere.
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    Routes(model, dataplane).register(app)
    register_v1_endpoints(app, dataplane, None)
    register_v2_endpoints(app, dataplane, None)
    _add_error_handlers(app)
    return app
