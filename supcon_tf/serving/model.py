"""The model as KServe knows it: reads a request, has it computed, writes the answer."""

import asyncio
import dataclasses
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import kserve
from kserve.protocol.dataplane import DataPlane

from supcon_tf.serving import answers, outputs, protocol
from supcon_tf.serving.batching import Batcher
from supcon_tf.serving.faults import NotFoundError, RequestError, shown
from supcon_tf.serving.instances import Bounds
from supcon_tf.serving.limits import Share
from supcon_tf.serving.versions import Versions

_INLINE_BYTES = 2**15  # Reading or writing less takes less time than handing it to a thread.
Reader = Callable[[Bounds, bool], protocol.Query]
Writer = Callable[["Answer"], Any]


@dataclasses.dataclass(frozen=True)
class Call:
    """One request for a prediction, whatever the protocol.

    Args:
        size: bytes of it.
        version: as it names it; "" or None for whichever is served.
        read: makes a `Query` of it.
        write: makes the body of the answer, from a finished `Answer`.
        share: counts what it holds in memory.
    """

    size: int
    version: str | None
    read: Reader
    write: Writer
    share: Share


@dataclasses.dataclass(frozen=True)
class Answer:
    """What was asked for and computed, and by which bundle."""

    call: Call
    query: protocol.Query
    bundle: Any
    rows: list[answers.Row] = dataclasses.field(default_factory=list)


class ServedModel(kserve.Model):
    """What answers requests: KServe calls, and times, its three phases.

    Args:
        versions: knows the bundle to use.
        batcher: computes.
        bounds: of each request.
    """

    def __init__(self, versions: Versions, batcher: Batcher, bounds: Bounds):
        super().__init__(versions.served.name)
        self.versions, self._batcher, self._bounds = versions, batcher, bounds
        # One thread, so that the lists of one large JSON document at most are in memory.
        self._reader = ThreadPoolExecutor(1, "read")
        self._writer = ThreadPoolExecutor(1, "write")
        self.ready = True

    @property
    def bundle(self) -> Any:
        """The bundle that answers new requests."""
        return self.versions.served

    def check_version(self, version: str | None) -> None:
        """Lets pass what is served.

        Args:
            version: as a request names it; "" or None for whichever is served.

        Raises:
            NotFoundError: if it is another one.
        """
        served = str(self.bundle.version)
        if version and version != served:
            raise NotFoundError(
                f"version {shown(version)} of {self.name} is not served here; {served} is."
            )

    def load(self) -> bool:
        """Nothing: versions are loaded as their folders appear."""
        return self.ready

    async def preprocess(self, payload: Call, headers: Any = None) -> Answer:
        """Reads the request."""
        self.check_version(payload.version)
        bundle = self.bundle
        arguments = (self._bounds, bundle.num_neighbors > 0)
        if payload.size <= _INLINE_BYTES:
            query = payload.read(*arguments)
        else:
            loop = asyncio.get_running_loop()
            query = await loop.run_in_executor(self._reader, _of_large, payload.read, *arguments)
        payload.share.take(query.nbytes)
        return Answer(payload, query, bundle)

    async def predict(self, payload: Answer, headers: Any = None, response_headers: Any = None):
        """Has the images classified."""
        query = payload.query
        rows = await self._batcher.run(payload.bundle, query.instances, query.wants_neighbors)
        return dataclasses.replace(payload, rows=rows)

    async def postprocess(self, result: Answer, headers: Any = None, response_headers: Any = None):
        """Writes the answer."""
        write = result.call.write
        if answers.estimate_bytes(result.query, result.rows) <= _INLINE_BYTES:
            return write(result)
        return await asyncio.get_running_loop().run_in_executor(self._writer, write, result)

    def get_input_types(self) -> list[dict[str, Any]]:
        """Inputs of the V2 protocol; a request gives one of them."""
        return [
            {"name": "encoded", "datatype": "BYTES", "shape": [-1]},
            {"name": "images", "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
        ]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Outputs of the V2 protocol."""
        return outputs.describe(len(self.bundle.class_names), self.bundle.num_neighbors)

    def close(self) -> None:
        """Ends the threads once they are idle."""
        self._reader.shutdown(wait=False)
        self._writer.shutdown(wait=False)


def _of_large(function: Callable, *arguments: Any) -> Any:
    """Calls a function that makes millions of objects of a large document, and frees them here.

    The collector would look at all of them several times meanwhile, and an error would keep them
    until the event loop drops it; both would hold up every other request for seconds.
    """
    gc.disable()
    try:
        return function(*arguments)
    except RequestError as error:
        error.__context__ = error.__cause__ = None
        raise error.with_traceback(None) from None
    finally:
        gc.enable()


class ServedDataPlane(DataPlane):
    """KServe's way to the model, with an end that it announces and with one clear error."""

    draining = False

    def check(self, name: str, version: str | None = None) -> None:
        """Lets pass what is served.

        Args:
            name: of a model.
            version: "" or None for whichever is served.

        Raises:
            NotFoundError: if it is another one.
        """
        self.get_model_from_registry(name).check_version(version)

    def get_model_from_registry(self, name: str):
        """The model of that name.

        Raises:
            NotFoundError: if there is none.
        """
        known = list(self.model_registry.get_models())
        if name not in known:
            raise NotFoundError(
                f"no model {shown(name)} here; this server serves {', '.join(known)}."
            )
        return super().get_model_from_registry(name)

    async def get_model(self, name: str):
        """The model of that name.

        Raises:
            NotFoundError: if there is none.
        """
        return self.get_model_from_registry(name)

    async def model_ready(self, model_name: str, disable_predictor_health_check: bool = False):
        """Whether new requests to the model are wanted.

        Raises:
            NotFoundError: if there is none.
        """
        self.check(model_name)
        return not self.draining

    async def ready(self) -> bool:
        """Whether new requests are wanted."""
        return not self.draining

    def metadata(self) -> dict[str, Any]:
        """Of the server."""
        return {**super().metadata(), "extensions": ["binary_tensor_data"]}

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        """Of the model, in the V2 protocol.

        Raises:
            NotFoundError: if there is none.
        """
        bundle = self.get_model_from_registry(model_name).bundle
        return {
            **await super().model_metadata(model_name),
            "versions": [str(bundle.version)],
            "platform": "tensorflow_savedmodel"
            if bundle.runtime == "saved_model"
            else f"tflite_{bundle.runtime}",
        }
