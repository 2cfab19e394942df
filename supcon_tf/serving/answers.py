"""What a request is answered with: rows for V1, tensors for V2."""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from supcon_tf.serving.outputs import OUTPUTS, SIGNATURES
from supcon_tf.serving.protocol import Query

Row = dict[str, Any]
_NUMBER_BYTES = 12  # Of a number in JSON, about.


def rows_of(found: dict[str, Any], count: int) -> list[Row]:
    """Cuts what a bundle computed into one row an image.

    Args:
        found: name to array or list, each of `count` items.
        count: images.
    """
    return [{name: values[index] for name, values in found.items()} for index in range(count)]


def estimate_bytes(query: Query, rows: Sequence[Row]) -> int:
    """About how long an answer will be; all rows are about as long as the first.

    Args:
        query: what was asked for.
        rows: one an image, at least one.
    """
    values = [rows[0][name] for name in SIGNATURES[query.signature]]
    return len(rows) * sum(
        _NUMBER_BYTES * value.size if hasattr(value, "size") else len(str(value))
        for value in values
    )


def encode_v1(query: Query, rows: Sequence[Row]) -> bytes:
    """The body of a V1 answer, in the format of the request: rows or columns.

    Args:
        query: what was asked for.
        rows: one an image.

    Reference:
        TensorFlow Serving, "RESTful API", predict: the name of a single output is left out.
    """
    names = SIGNATURES[query.signature]
    if query.columnar:
        columns = {name: [row[name] for row in rows] for name in names}
        answer = {"outputs": columns if len(names) > 1 else columns[names[0]]}
    elif len(names) > 1:
        answer = {"predictions": [{name: row[name] for name in names} for row in rows]}
    else:
        answer = {"predictions": [row[names[0]] for row in rows]}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def tensor_of(name: str, rows: Sequence[Row]) -> np.ndarray:
    """An output of all images: an array; text as objects."""
    return np.array([row[name] for row in rows], OUTPUTS[name].dtype)


def raw_bytes(tensor: np.ndarray) -> bytes:
    """A tensor's content as V2 sends it: little-endian; each text preceded by its length."""
    if tensor.dtype != object:
        return tensor.tobytes()
    texts = [text.encode() for text in tensor.ravel()]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def encode_v2(query: Query, rows: Sequence[Row], name: str, version: int) -> tuple[bytes, int]:
    """The body of a V2 answer, and the length of its JSON.

    Args:
        query: what was asked for.
        rows: one an image.
        name: the model's.
        version: of the model that computed them.
    """
    outputs, contents = [], []
    for output, binary in query.outputs:
        tensor, datatype = tensor_of(output, rows), OUTPUTS[output].datatype
        described = {"name": output, "datatype": datatype, "shape": list(tensor.shape)}
        if binary:
            contents.append(raw_bytes(tensor))
            described["parameters"] = {"binary_data_size": len(contents[-1])}
        else:
            flat = tensor.ravel()
            described["data"] = flat.tolist() if flat.dtype == object else flat
        outputs.append(described)
    answer = {"model_name": name, "model_version": str(version), "outputs": outputs}
    if query.request_id:
        answer["id"] = query.request_id
    header = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([header, *contents]), len(header)
