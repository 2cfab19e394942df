"""The model, its repository and its data plane as KServe knows them."""

import asyncio
import contextvars
import dataclasses
import gc
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import Any

import kserve
from kserve import InferRequest
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

from supcon_tf.serving import outputs, v2
from supcon_tf.serving.batching import Batcher
from supcon_tf.serving.faults import NotFoundError, RequestError, shown
from supcon_tf.serving.gate import Memory
from supcon_tf.serving.instances import Bounds
from supcon_tf.serving.query import Query, Row, Unread
from supcon_tf.serving.versions import Versions

VERSION_HEADER = "x-model-version"  # V1's answers do not say it themselves.
_INLINE_BYTES = 2**15  # Reading less takes less time than handing it to a thread.
# The version that a request names; "" for whichever is served. KServe itself knows no versions.
asked_version = contextvars.ContextVar("asked_version", default="")


@dataclasses.dataclass(frozen=True)
class _Computed:
    query: Query
    bundle: Any
    rows: Sequence[Row] = ()


class ServedModel(kserve.Model):
    """KServe calls, and times, its three phases; it is ready until the server begins to end.

    Args:
        versions: knows the bundle to use.
        batcher: computes.
        bounds: of each request.
        memory: of all requests.
    """

    def __init__(self, versions: Versions, batcher: Batcher, bounds: Bounds, memory: Memory):
        super().__init__(versions.served.name, return_response_headers=True)
        self.versions, self._batcher = versions, batcher
        self._bounds, self._memory = bounds, memory
        # One thread, so that the lists of at most one large JSON document are in memory.
        self._reader = ThreadPoolExecutor(1, "read")
        self.ready = True

    def load(self) -> bool:
        """Loads nothing: versions are loaded as their folders appear."""
        return self.ready

    async def preprocess(self, payload: Unread | InferRequest, headers: Any = None) -> _Computed:
        """Reads the request; gRPC's comes in KServe's own form."""
        bundle = self.versions.served
        if isinstance(payload, InferRequest):
            query = v2.read(payload, bundle, self._bounds)
        elif payload.size <= _INLINE_BYTES:
            query = payload.read(bundle, self._bounds)
        else:
            read = partial(_without_collector, payload.read, bundle, self._bounds)
            query = await asyncio.get_running_loop().run_in_executor(self._reader, read)
        return _Computed(query, bundle)

    async def predict(self, payload: _Computed, headers: Any = None, response_headers: Any = None):
        """Classifies the images."""
        query = payload.query
        with self._memory.share() as take:
            take(query.nbytes)
            rows = await self._batcher.run(payload.bundle, query.instances, query.wants_neighbors)
        return dataclasses.replace(payload, rows=rows)

    async def postprocess(self, result: _Computed, headers: Any = None, response_headers=None):
        """Makes the answer."""
        response_headers[VERSION_HEADER] = str(result.bundle.version)
        return result.query.write(result.rows, result.bundle)

    def get_input_types(self) -> list[dict[str, Any]]:
        """Inputs of the V2 protocol; a request gives one of them."""
        return [
            {"name": "encoded", "datatype": "BYTES", "shape": [-1]},
            {"name": "images", "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
        ]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Outputs of the V2 protocol."""
        return outputs.describe(self.versions.served)

    def close(self) -> None:
        """Ends the thread once it is idle."""
        self._reader.shutdown(wait=False)


def _without_collector(read: Callable[..., Query], *arguments: Any) -> Query:
    """Reads a large document, which makes millions of objects for a moment.

    The collector would look at all of them several times meanwhile, and an error would keep them
    alive; both would hold up every other request.
    """
    gc.disable()
    try:
        return read(*arguments)
    except RequestError as error:
        error.__context__ = error.__cause__ = None
        raise error.with_traceback(None) from None
    finally:
        gc.enable()


class Repository(kserve.ModelRepository):
    """One model, found under its name and the version that is served."""

    def get_model(self, name: str) -> ServedModel:
        """The model of that name.

        Raises:
            NotFoundError: if there is none, or the request names a different version.
        """
        if name not in self.models:
            known = ", ".join(self.models)
            hint = " Predictions are requested with POST." if name.endswith(":predict") else ""
            raise NotFoundError(f"no model {shown(name)} here; this server serves {known}.{hint}")
        model, asked = self.models[name], asked_version.get()
        served = str(model.versions.served.version)
        if asked not in ("", served):
            raise NotFoundError(
                f"version {shown(asked)} of {name} is not served here; {served} is."
            )
        return model


class FixedModels(ModelRepositoryExtension):
    """Refusal to load or unload by request; KServe would unload the model for anybody."""

    async def load(self, model_name: str) -> None:
        """Refuses.

        Raises:
            RequestError: always.
        """
        raise RequestError(
            "models are not loaded or unloaded by request. Put a version into the model's folder, "
            "or take it away.",
            HTTPStatus.FORBIDDEN,
        )

    unload = load


class ServedDataPlane(DataPlane):
    """KServe's way to the model, with readiness and metadata of its own."""

    async def ready(self) -> bool:
        """Whether new requests are wanted."""
        return all(model.ready for model in self.model_registry.get_models().values())

    def metadata(self) -> dict[str, Any]:
        """Describes the server."""
        return {**super().metadata(), "extensions": ["binary_tensor_data"]}

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        """Describes the model in the V2 protocol.

        Raises:
            NotFoundError: if there is none.
        """
        described = await super().model_metadata(model_name)
        bundle = self.get_model_from_registry(model_name).versions.served
        tensorflow = bundle.runtime == "saved_model"
        platform = "tensorflow_savedmodel" if tensorflow else f"tflite_{bundle.runtime}"
        return {**described, "versions": [str(bundle.version)], "platform": platform}
