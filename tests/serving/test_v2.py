"""Requests and answers of the V2 protocol over HTTP, and the message for each mistake."""

import json
import struct

import numpy as np
import pytest
from serving.fakes import FakeBundle, base64_of, picture

from supcon_tf.serving import _import_kserve
from supcon_tf.serving.faults import RequestError
from supcon_tf.serving.instances import Bounds

BOUNDS = Bounds(images=4, pixels=1000)
PNG = picture()
PIXELS = [[[1, 2, 3], [4, 5, 6]]]


@pytest.fixture(scope="module")
def v2():
    """The module, whose KServe would read pytest's command line while it is imported."""
    _import_kserve()
    from supcon_tf.serving import v2

    def read(inputs, binary=b"", json_length=None, **fields):
        header = json.dumps({"inputs": inputs, **fields}).encode()
        length = str(len(header)) if binary else json_length
        return v2.read_body(header + binary, length, "digits", FakeBundle(3), BOUNDS)

    return read


def contents(query):
    return [instance.content for instance in query.instances]


def answer(query):
    """The body of an answer with `ROWS`, or what JSON it holds; and the length of its JSON."""
    return query.write(ROWS, FakeBundle(3)).to_rest()


def images(data=None, shape=(1, 1, 2, 3), datatype="UINT8", **fields):
    described = {"name": "images", "shape": list(shape), "datatype": datatype, **fields}
    return [described if data is None else {**described, "data": data}]


def encoded(data=None, shape=(1,), **fields):
    described = {"name": "encoded", "shape": list(shape), "datatype": "BYTES", **fields}
    return [described if data is None else {**described, "data": data}]


def test_v2_takes_json_flat_or_nested(v2):
    flat = v2(images([1, 2, 3, 4, 5, 6]), id="a7")
    nested = v2(images([PIXELS], datatype="FP32"))
    assert answer(flat)[0]["id"] == "a7"
    np.testing.assert_array_equal(contents(flat), [PIXELS])
    np.testing.assert_array_equal(contents(nested), [PIXELS])
    assert contents(v2(encoded([base64_of(PNG)]))) == [PNG]
    assert contents(v2(encoded([base64_of(PNG)], shape=(1, 1)))) == [PNG]


def test_v2_takes_binary_tensors(v2):
    raw = struct.pack("<I", len(PNG)) + PNG
    query = v2(encoded(parameters={"binary_data_size": len(raw)}), raw)
    assert contents(query) == [PNG]
    values = np.arange(6, dtype="<f4")
    query = v2(images(datatype="FP32", parameters={"binary_data_size": 24}), values.tobytes())
    np.testing.assert_array_equal(np.ravel(contents(query)), values)


RAW = {"binary_data_size": 4}
BAD_V2 = {
    "no inputs": ((None,), {}, "inputs: Input should be a valid list. Received: None"),
    "two inputs": ((images([PIXELS]) * 2,), {}, "a request must have one input. Received: 2"),
    "no object": (([3],), {}, "inputs.0: Input should be a valid dictionary"),
    "unknown input": (([{**images([PIXELS])[0], "name": "x"}],), {}, "Received: 'x'"),
    "datatype": ((images([PIXELS], datatype="INT64"),), {}, "UINT8 or FP32. Received: 'INT64'"),
    "list of datatypes": (
        (images([PIXELS], datatype=["UINT8"]),),
        {},
        "valid string. Received: a list of 1",
    ),
    "datatype of files": (([{**encoded([""])[0], "datatype": "FP32"}],), {}, "datatype BYTES"),
    "no shape": (
        ([{"name": "images", "datatype": "UINT8", "data": []}],),
        {},
        "inputs.0.shape: Field required",
    ),
    "shape of text": (
        (images([1], shape=("x",)),),
        {},
        "inputs.0.shape.0: Input should be a valid integer",
    ),
    "negative shape": ((images([1], shape=(-1, 1, 1, 3)),), {}, "whole numbers"),
    "grey": ((images([1], shape=(1, 1, 1, 1)),), {}, "[height, width, 3]. Received: [1, 1, 1]"),
    "no images": ((images([], shape=(0, 1, 1, 3)),), {}, "no instances"),
    "claims too much": (
        (images([1], shape=(1, 10**9, 10**9, 3)),),
        {},
        "each image in images has 1000000000 x 1000000000 pixels",
    ),
    "too few": (
        (images([1, 2, 3]),),
        {},
        "images has 3 numbers in the shape [3]; it declares the shape [1, 1, 2, 3] of 6",
    ),
    "nested otherwise": (
        (images([[[[1], [2], [3], [4], [5], [6]]]]),),
        {},
        "in the shape [1, 1, 6, 1]; it declares",
    ),
    "fractions": ((images([[[[0.5, 2, 3], [4, 5, 6]]]]),), {}, "declared UINT8 and holds"),
    "no data": ((images(),), {}, "content of images does not fit its shape"),
    "count of files": ((encoded([base64_of(PNG)], shape=(2,)),), {}, "has 1 images and the shape"),
    "shape of files": ((encoded([""], shape=(1, 2)),), {}, "the shape [images]"),
    "nested files": ((encoded([[base64_of(PNG)]]),), {}, "a base64 string. Received: a list of 1"),
    "missing binary": ((images(parameters=RAW),), {}, "must be the 0 bytes that follow"),
    "negative binary": ((images(parameters={"binary_data_size": -1}), b"1"), {}, "Received: -1"),
    "spare binary": (
        (images([PIXELS]), b"1234"),
        {},
        "must be the 4 bytes that follow the JSON, and there",
    ),
    "cut item": (
        (encoded(parameters={"binary_data_size": 3}), b"123"),
        {},
        "content of encoded does not fit its shape [1]",
    ),
    "long item": (
        (encoded(parameters=RAW), b"\xff\xff\xff\xff"),
        {},
        "a buffer of at least 4294967299 bytes",
    ),
    "odd bytes": (
        (images(datatype="FP32", parameters={"binary_data_size": 5}), b"12345"),
        {},
        "content of images does not fit its shape",
    ),
    "NaN": (
        (
            images(datatype="FP32", parameters={"binary_data_size": 24}),
            np.float32([1, 2, np.nan, 4, 5, 6]).tobytes(),
        ),
        {},
        "finite numbers. Received: nan",
    ),
    "parameters": (
        (images([PIXELS]),),
        {"parameters": 3},
        "parameters: Input should be a valid dictionary",
    ),
    "id": ((images([PIXELS]),), {"id": 3}, "id: Input should be a valid string. Received: 3"),
    "outputs": (
        (images([PIXELS]),),
        {"outputs": {"name": "x"}},
        "outputs: Input should be a valid list",
    ),
    "unknown output": ((images([PIXELS]),), {"outputs": [{"name": "x"}]}, "Received: 'x'"),
    "output": (
        (images([PIXELS]),),
        {"outputs": ["class_id"]},
        "outputs.0: Input should be a valid dictionary",
    ),
}


@pytest.mark.parametrize("case", BAD_V2)
def test_each_mistake_in_v2_is_told(v2, case):
    arguments, fields, message = BAD_V2[case]
    with pytest.raises(RequestError) as raised:
        v2(*arguments, **fields)
    assert 400 <= raised.value.status < 500
    assert message in raised.value.message
    assert len(raised.value.message) < 300


@pytest.mark.parametrize("length", ["-1", "x", "9" * 30, "100000", "²", ""])
def test_a_wrong_json_length_is_told(v2, length):
    with pytest.raises(RequestError, match="Inference-Header-Content-Length"):
        v2(images([PIXELS]), json_length=length)


ROWS = [
    {
        "class_name": name,
        "class_id": np.int32(index),
        "probabilities": np.float32([0.25, index]),
        "embeddings": np.float32([index]),
    }
    for index, name in enumerate(["zéro", "one"])
]


def test_v2_answers_in_json(v2):
    query = v2(images([PIXELS]), id="a7", outputs=[{"name": "class_name"}])
    assert answer(query) == (
        {
            "model_name": "digits",
            "model_version": "3",
            "id": "a7",
            "outputs": [
                {"name": "class_name", "datatype": "BYTES", "shape": [2], "data": ["zéro", "one"]}
            ],
        },
        None,
    )
    found, _ = answer(v2(images([PIXELS]), parameters={"signature_name": "embed"}))
    assert [output["name"] for output in found["outputs"]] == ["embeddings"]


def test_v2_answers_in_binary(v2):
    binary = {"binary_data": True}
    wanted = [
        {"name": "probabilities", "parameters": binary},
        {"name": "class_id"},
        {"name": "class_name", "parameters": binary},
    ]
    body, length = answer(v2(images([PIXELS]), outputs=wanted))
    described = json.loads(body[:length])["outputs"]
    sizes = [output.get("parameters", {}).get("binary_data_size") for output in described]
    assert sizes == [16, None, 4 + 5 + 4 + 3]
    assert [output["shape"] for output in described] == [[2, 2], [2], [2]]
    assert described[1]["data"] == [0, 1]
    np.testing.assert_array_equal(
        np.frombuffer(body[length : length + 16], "<f4"), [0.25, 0, 0.25, 1]
    )
    assert body[length + 16 :] == b"\x05\0\0\0" + "zéro".encode() + b"\x03\0\0\0one"
    query = v2(images([PIXELS]), parameters={"binary_data_output": True})
    described = json.loads(answer(query)[0][: answer(query)[1]])["outputs"]
    assert all("binary_data_size" in output["parameters"] for output in described)
