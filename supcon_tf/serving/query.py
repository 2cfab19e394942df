"""A request once it is read, and its answer, whatever the protocol."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from supcon_tf.serving.faults import RequestError, shown
from supcon_tf.serving.instances import Bounds, Instance

Row = dict[str, Any]  # Values of one image by the names of outputs.


@dataclasses.dataclass(frozen=True)
class Query:
    """Images, the outputs wanted for them, and the way to write these outputs.

    Args:
        signature: one of `outputs.SIGNATURES`.
        instances: one for each image.
        write: makes the answer from the rows, one per image, and the bundle that computed them.
    """

    signature: str
    instances: Sequence[Instance]
    write: Callable[[Sequence[Row], Any], Any]

    @property
    def nbytes(self) -> int:
        """Bytes of the instances."""
        return sum(instance.nbytes for instance in self.instances)

    @property
    def wants_neighbors(self) -> bool:
        """Whether the nearest training images are requested."""
        return self.signature == "neighbors"


@dataclasses.dataclass(frozen=True)
class Unread:
    """A request that is still to be read.

    Args:
        size: its bytes.
        read: makes a query from it, for a bundle and within bounds; raises `RequestError`.
    """

    size: int
    read: Callable[[Any, Bounds], Query]


def read_json(body: bytes) -> dict[str, Any]:
    """The object that a body holds.

    Raises:
        RequestError: if it is not JSON, or not an object.
    """
    try:
        document = orjson.loads(body)
    except ValueError as error:
        hint = " JSON has no NaN." if b"NaN" in body else ""
        if not body.lstrip().startswith((b"{", b"[")):
            hint = " An image is sent inside the JSON, encoded in base64."
        raise RequestError(
            f"the body is not JSON: {error}. Received: {shown(body)}.{hint}"
        ) from error
    if not isinstance(document, dict):
        raise RequestError(f"the body must be a JSON object. Received: {shown(document)}.")
    return document
