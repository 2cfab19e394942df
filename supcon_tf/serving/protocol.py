"""What a request asks for, and how the V1 protocol (TensorFlow Serving's REST API) says so."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import orjson

from supcon_tf.serving import instances
from supcon_tf.serving.faults import BadRequestError, NotFoundError, shown
from supcon_tf.serving.instances import Bounds, Instance

CLASSIFICATION = ("class_id", "class_name", "probabilities", "embeddings")
NEIGHBORS = (
    "neighbor_ids",
    "neighbor_labels",
    "neighbor_class_names",
    "similarities",
    "out_of_distribution",
)
# What a request may name, and what it is answered with. How the images come is seen from them.
SIGNATURES = {
    "serving_default": CLASSIFICATION,
    "serving_uint8": CLASSIFICATION,
    "serving_bytes": CLASSIFICATION,
    "embed": ("embeddings",),
    "neighbors": NEIGHBORS,
}


@dataclasses.dataclass(frozen=True)
class Query:
    """What a request asks for.

    Args:
        signature: one of `SIGNATURES`.
        instances: one for each image: bytes of a file, or pixels [H, W, 3].
        request_id: V2's id, which the answer repeats.
        outputs: names wanted, and whether each is wanted as binary data (V2).
        raw: whether the answer's tensors are wanted as raw contents (gRPC).
    """

    signature: str
    instances: Sequence[Instance]
    request_id: str = ""
    outputs: tuple[tuple[str, bool], ...] = ()
    raw: bool = False

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
    """Reads `{"instances": [...], "signature_name": ...}`.

    Args:
        body: JSON.
        bounds: of the number of images and of their size.
        can_find_neighbors: whether the model has an index.

    Raises:
        RequestError: if anything about it is wrong.

    Reference:
        TensorFlow Serving, "RESTful API", predict, row format.
    """
    document = read_json(body)
    signature = read_signature(document.get("signature_name"), can_find_neighbors)
    if "instances" not in document:
        raise BadRequestError(
            f"the body has no instances. Received: {shown(document)}. "
            'Send {"instances": [{"b64": "..."}]}.'
        )
    values = document["instances"]
    if not isinstance(values, list):
        raise BadRequestError(f"instances must be a list. Received: {shown(values)}.")
    bounds.check_count(len(values))
    found = [
        instances.from_json(value, f"instance {index}", bounds)
        for index, value in enumerate(values)
    ]
    return Query(signature, found)
