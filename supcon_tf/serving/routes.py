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

from supcon_tf.serving import answers, outputs, protocol, tensors
from supcon_tf.serving.faults import (
    BadRequestError,
    ForbiddenError,
    NotFoundError,
    RequestError,
    error_answer,
    shown,
)
from supcon_tf.serving.model import Answer, Call, ServedDataPlane, ServedModel

PAGE = Path(__file__).with_name("page.html")
_JSON_LENGTH = "inference-header-content-length"
_VERSION = "x-model-version"  # V1's answers do not say it themselves.
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

    async def page(self) -> Response:
        """The page for people."""
        content = await run_in_threadpool(PAGE.read_bytes)
        return Response(content, media_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)

    async def predict_v1(
        self, request: Request, model_name: str, model_version: str | None = None
    ) -> Response:
        """Predicts over the V1 protocol."""
        read = partial(protocol.parse_v1, await request.body())
        return await self._infer(request, model_name, model_version, read, _write_v1)

    async def predict_v2(
        self, request: Request, model_name: str, model_version: str | None = None
    ) -> Response:
        """Predicts over the V2 protocol."""
        length = request.headers.get(_JSON_LENGTH)
        read = partial(tensors.parse_v2, await request.body(), length)
        return await self._infer(request, model_name, model_version, read, _write_v2)

    async def _infer(self, request, model_name, model_version, read, write) -> Response:
        share, size = request.scope["supcon_share"], len(await request.body())
        call = Call(size, model_version, read, write, share)
        response, _ = await self._dataplane.infer(model_name, call)
        return response

    async def version_v1(self, model_name: str, model_version: str) -> Response:
        """Whether a version is served, in the V1 protocol."""
        self._dataplane.check(model_name, model_version)
        if not await self._dataplane.model_ready(model_name):
            raise ModelNotReady(model_name)
        return _json({"name": model_name, "version": model_version, "ready": True})

    async def metadata_v1(self, model_name: str, model_version: str | None = None) -> Response:
        """What the model is, for people and for the page."""
        self._dataplane.check(model_name, model_version)
        bundle = self._model.bundle
        return _json(
            {
                "model_spec": {"name": bundle.name, "version": str(bundle.version)},
                "metadata": {
                    "class_names": bundle.class_names,
                    "image_size_px": bundle.image_size_px,
                    "neighbors": bundle.num_neighbors,
                    "temperature": bundle.metadata.get("temperature"),
                    "preprocessing": bundle.metadata.get("preprocessing"),
                    "signatures": outputs.signatures_of(bundle.num_neighbors),
                    "runtime": bundle.runtime,
                },
                "metrics": bundle.metrics,
                "refused_versions": {
                    str(version): message
                    for version, message in self._model.versions.refused.items()
                },
            }
        )

    async def thumbnail(self, model_name: str, row: str, version: str | None = None) -> Response:
        """A picture of the index, of the version that the address names behind `?version=`."""
        self._dataplane.check(model_name, version)
        if not (row.isascii() and row.isdigit() and len(row) < 10 and str(int(row)) == row):
            raise BadRequestError(f"a row must be a whole number. Received: {shown(row)}.")
        content = await run_in_threadpool(self._model.bundle.thumbnail, int(row))
        if content is None:
            raise NotFoundError(f"row {row} of {model_name} has no picture.")
        cached = "private, max-age=600" if version else "no-store"
        headers = {"x-content-type-options": "nosniff", "cache-control": cached}
        return Response(content, media_type="image/jpeg", headers=headers)

    async def metadata_v2(self, model_name: str, model_version: str) -> Any:
        """What a version takes and gives, in the V2 protocol."""
        self._dataplane.check(model_name, model_version)
        return await self._v2.model_metadata(model_name)

    async def ready_v2(self, model_name: str, model_version: str) -> Any:
        """Whether a version is served, in the V2 protocol."""
        self._dataplane.check(model_name, model_version)
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
    headers = {_VERSION: str(answer.bundle.version)}
    return Response(body, media_type="application/json", headers=headers)


def _write_v2(answer: Answer) -> Response:
    bundle = answer.bundle
    body, json_length = answers.encode_v2(answer.query, answer.rows, bundle.name, bundle.version)
    if json_length == len(body):
        return Response(body, media_type="application/json")
    headers = {_JSON_LENGTH: str(json_length)}
    return Response(body, media_type="application/octet-stream", headers=headers)


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


def _error(request: Request, status: int, message: str) -> Response:
    request.scope["supcon_error"] = message  # For the log.
    body, headers = error_answer(status, message)
    return Response(body, status, headers)


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
