"""What a request asks for, and how the V1 protocol (TensorFlow Serving's REST API) says so."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import orjson

from supcon_tf.serving import instances
from supcon_tf.serving.faults import BadRequestError, NotFoundError, shown
from supcon_tf.serving.instances import Bounds, Instance
from supcon_tf.serving.outputs import SIGNATURES


@dataclasses.dataclass(frozen=True)
class Query:
    """What a request asks for.

    Args:
        signature: one of `SIGNATURES`.
        instances: one for each image: bytes of a file, or pixels [H, W, 3].
        request_id: V2's id, which the answer repeats.
        outputs: names wanted, and whether each is wanted as binary data (V2).
        raw: whether the answer's tensors are wanted as raw contents (gRPC).
        columnar: whether the answer is wanted by output, not by image (V1).
    """

    signature: str
    instances: Sequence[Instance]
    request_id: str = ""
    outputs: tuple[tuple[str, bool], ...] = ()
    raw: bool = False
    columnar: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the instances."""
        return sum(
            len(instance) if isinstance(instance, bytes) else instance.nbytes
            for instance in self.instances
        )

    @property
    def wants_neighbors(self) -> bool:
        """Whether the nearest training images are asked for."""
        return self.signature == "neighbors"


def read_json(body: bytes) -> dict[str, Any]:
    """The object that a body holds.

    Raises:
        BadRequestError: if it is not JSON, or no object.
    """
    try:
        document = orjson.loads(body)
    except ValueError as error:
        hint = " JSON has no NaN." if b"NaN" in body else ""
        raise BadRequestError(
            f"the body is not JSON: {error}. Received: {shown(body)}.{hint}"
        ) from error
    if not isinstance(document, dict):
        raise BadRequestError(f"the body must be a JSON object. Received: {shown(document)}.")
    return document


def read_signature(name: Any, can_find_neighbors: bool) -> str:
    """The signature that a request names, or the default.

    Raises:
        BadRequestError: if it is unknown.
        NotFoundError: if neighbours are asked for, and the model has no index.
    """
    name = "serving_default" if name is None else name
    if not isinstance(name, str) or name not in SIGNATURES:
        known = ", ".join(SIGNATURES)
        raise BadRequestError(f"signature_name must be one of {known}. Received: {shown(name)}.")
    if name == "neighbors" and not can_find_neighbors:
        raise NotFoundError("this model was exported without an index; it has no neighbors.")
    return name


def check_output(name: Any, signature: str) -> str:
    """Returns the name of an output that a signature has.

    Raises:
        BadRequestError: if it has no such output.
    """
    known = SIGNATURES[signature]
    if not isinstance(name, str) or name not in known:
        raise BadRequestError(
            f"{signature} has the outputs {', '.join(known)}. Received: {shown(name)}."
        )
    return name


def parse_v1(body: bytes, bounds: Bounds, can_find_neighbors: bool = True) -> Query:
    """Reads `{"instances": [...], "signature_name": ...}`, or `inputs` instead of `instances`.

    An instance is `{"b64": ...}` or pixels, by itself or as `{"encoded": ...}`, `{"images": ...}`.
    `inputs`, the columnar format, is `[...]`, `{"encoded": [...]}` or `{"images": [...]}`.

    Args:
        body: JSON.
        bounds: of the number of images and of their size.
        can_find_neighbors: whether the model has an index.

    Raises:
        RequestError: if anything about it is wrong.

    Reference:
        TensorFlow Serving, "RESTful API", predict, row and column format.
    """
    document = read_json(body)
    signature = read_signature(document.get("signature_name"), can_find_neighbors)
    given = [name for name in ("instances", "inputs") if name in document]
    if len(given) != 1:
        raise BadRequestError(
            f"the body has {'both instances and inputs' if given else 'no instances'}. "
            f'Received: {shown(document)}. Send {{"instances": [{{"b64": "..."}}]}}.'
        )
    columnar, values = given == ["inputs"], document[given[0]]
    values = instances.unnamed(values) if columnar else values
    if not isinstance(values, list):
        raise BadRequestError(f"{given[0]} must be a list. Received: {shown(values)}.")
    bounds.check_count(len(values))
    found = []
    for index, value in enumerate(values):
        value = value if columnar else instances.unnamed(value)
        found.append(instances.from_json(value, f"instance {index}", bounds))
    return Query(signature, found, columnar=columnar)
