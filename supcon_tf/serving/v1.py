"""The V1 protocol, TensorFlow Serving's REST API, as queries."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from supcon_tf.serving import instances
from supcon_tf.serving.faults import RequestError, shown
from supcon_tf.serving.instances import Bounds, Instance
from supcon_tf.serving.outputs import SIGNATURES, check_signature
from supcon_tf.serving.query import Query, Row, read_json

_INPUTS = ("encoded", "images")


def read(body: bytes, bundle: Any, bounds: Bounds) -> Query:
    """Reads `{"instances": [...], "signature_name": ...}`, or `inputs` instead of `instances`.

    An instance is `{"b64": ...}` or pixels, by itself or as `{"encoded": ...}`, `{"images": ...}`.
    `inputs`, the columnar format, is `[...]`, `{"encoded": [...]}` or `{"images": [...]}`.

    Args:
        body: JSON.
        bundle: of the requested model.
        bounds: of the number of images and of their size.

    Raises:
        RequestError: if anything about it is wrong.

    Reference:
        TensorFlow Serving, "RESTful API", predict, row and column format.
    """
    document = read_json(body)
    signature = check_signature(document.get("signature_name"), bundle)
    given = [name for name in ("instances", "inputs") if name in document]
    if len(given) != 1:
        raise RequestError(
            f"the body has {'both instances and inputs' if given else 'no instances'}. "
            f'Received: {shown(document)}. Send {{"instances": [{{"b64": "..."}}]}}.'
        )
    columnar, values = given == ["inputs"], document[given[0]]
    values = _unnamed(values) if columnar else values
    if not isinstance(values, list):
        raise RequestError(f"{given[0]} must be a list. Received: {shown(values)}.")
    bounds.check_count(len(values))
    found = [
        _instance(value if columnar else _unnamed(value), f"instance {index}", bounds)
        for index, value in enumerate(values)
    ]
    return Query(signature, found, partial(write, signature, columnar))


def _unnamed(value: Any) -> Any:
    """The content of an object with one named input; anything else is returned as it is."""
    if isinstance(value, dict) and len(value) == 1 and not value.keys().isdisjoint(_INPUTS):
        return next(iter(value.values()))
    return value


def _instance(value: Any, where: str, bounds: Bounds) -> Instance:
    if isinstance(value, dict) and set(value) == {"b64"}:
        return instances.encoded(instances.decode_base64(value["b64"], where), where, bounds)
    if isinstance(value, list):
        pixels = instances.numbers(value, where)
        return Instance(pixels, instances.check_pixels(pixels.shape, where, bounds))
    raise RequestError(
        f'{where} must be {{"b64": "..."}} or [[[red, green, blue], ...], ...]. '
        f"Received: {shown(value)}."
    )


def write(signature: str, columnar: bool, rows: Sequence[Row], bundle: Any) -> dict[str, Any]:
    """An answer in the format of its request: rows or columns.

    Args:
        signature: of the request.
        columnar: whether the request gave `inputs`.
        rows: one per image.
        bundle: the one that computed them.

    Reference:
        TensorFlow Serving, "RESTful API", predict: the name of a single output is left out.
    """
    names = SIGNATURES[signature]
    if columnar:
        columns = {name: [row[name] for row in rows] for name in names}
        return {"outputs": columns if len(names) > 1 else columns[names[0]]}
    if len(names) > 1:
        return {"predictions": [{name: row[name] for name in names} for row in rows]}
    return {"predictions": [row[names[0]] for row in rows]}
