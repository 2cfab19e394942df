"""What a request is answered with: rows for V1, tensors for V2."""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from supcon_tf.serving.protocol import SIGNATURES, Query

Row = dict[str, Any]
DATATYPES = {
    "class_id": "INT32",
    "class_name": "BYTES",
    "probabilities": "FP32",
    "embeddings": "FP32",
    "neighbor_ids": "INT32",
    "neighbor_labels": "INT32",
    "neighbor_class_names": "BYTES",
    "similarities": "FP32",
    "out_of_distribution": "FP32",
}
_DTYPES = {"INT32": np.dtype("<i4"), "FP32": np.dtype("<f4"), "BYTES": np.dtype(object)}


def rows_of(found: dict[str, Any], count: int) -> list[Row]:
    """Cuts what a bundle computed into one row an image.

    Args:
        found: name to array or list, each of `count` items.
        count: images.
    """
    return [{name: values[index] for name, values in found.items()} for index in range(count)]


def encode_v1(query: Query, rows: Sequence[Row]) -> bytes:
    """The body of a V1 answer.

    Args:
        query: what was asked for.
        rows: one an image.
    """
    names = SIGNATURES[query.signature]
    predictions = [{name: row[name] for name in names} for row in rows]
    return orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)


def tensor_of(name: str, rows: Sequence[Row]) -> np.ndarray:
    """An output of all images: an array of `DATATYPES[name]`; text as objects."""
    return np.array([row[name] for row in rows], _DTYPES[DATATYPES[name]])


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
        tensor = tensor_of(output, rows)
        described = {"name": output, "datatype": DATATYPES[output], "shape": list(tensor.shape)}
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
