"""What requests of both protocols are read as, and how each mistake is told."""

import json
import struct

import numpy as np
import pytest
from serving.fakes import base64_of, huge_png, picture

from supcon_tf.serving import answers, protocol, tensors
from supcon_tf.serving.faults import BadRequestError, NotFoundError, RequestError, TooLargeError
from supcon_tf.serving.instances import Bounds

BOUNDS = Bounds(images=4, pixels=1000)
PNG = picture()
PIXELS = [[[1, 2, 3], [4, 5, 6]]]


def v1(document, bounds=BOUNDS):
    return protocol.parse_v1(json.dumps(document).encode(), bounds)


def v2(inputs, binary=b"", **fields):
    header = json.dumps({"inputs": inputs, **fields}).encode()
    length = str(len(header)) if binary else None
    return tensors.parse_v2(header + binary, length, BOUNDS)


def images(data=None, shape=(1, 1, 2, 3), datatype="UINT8", **fields):
    described = {"name": "images", "shape": list(shape), "datatype": datatype, **fields}
    return [described if data is None else {**described, "data": data}]


def encoded(data=None, shape=(1,), **fields):
    described = {"name": "encoded", "shape": list(shape), "datatype": "BYTES", **fields}
    return [described if data is None else {**described, "data": data}]


def test_v1_takes_files_and_pixels_in_one_request():
    text = base64_of(PNG)
    broken = "\n".join(text[at : at + 76] for at in range(0, len(text), 76))  # As `base64` does.
    query = v1({"instances": [{"b64": text}, PIXELS, {"b64": broken}]})
    assert query.signature == "serving_default"
    assert query.instances[0] == query.instances[2] == PNG
    assert query.instances[1].dtype == np.uint8
    np.testing.assert_array_equal(query.instances[1], PIXELS)


@pytest.mark.parametrize("name", ["encoded", "images"])
def test_v1_takes_named_inputs_and_columns(name):
    """As TensorFlow Serving does: by row or by column, with or without the input's name."""
    values = [{"b64": base64_of(PNG)}, PIXELS]
    rows = {"instances": [{name: value} for value in values]}
    for document in (rows, {"inputs": {name: values}}, {"inputs": values}):
        query = v1(document)
        assert query.instances[0] == PNG
        np.testing.assert_array_equal(query.instances[1], PIXELS)
        assert query.columnar == ("inputs" in document)
        assert query.nbytes == len(PNG) + 6


def test_fractions_stay_fractions():
    query = v1({"instances": [[[[0.5, 2, 255]]]]})
    assert query.instances[0].dtype == np.float32
    np.testing.assert_array_equal(query.instances[0], [[[0.5, 2, 255]]])


BAD_V1 = {
    "not an object": ([1], "must be a JSON object. Received: a list of 1"),
    "no instances": (
        {"instance": []},
        "has no instances. Received: an object with the keys 'instance'",
    ),
    "both": ({"instances": [PIXELS], "inputs": [PIXELS]}, "both instances and inputs"),
    "inputs": ({"inputs": {"encoded": {"b64": ""}}}, "inputs must be a list"),
    "two named": (
        {"instances": [{"encoded": {"b64": ""}, "images": PIXELS}]},
        "an object with the keys 'encoded, images'",
    ),
    "another name": ({"inputs": {"x": [PIXELS]}}, "an object with the keys 'x'"),
    "named twice": ({"instances": [{"images": {"images": PIXELS}}]}, "the keys 'images'"),
    "no list": ({"instances": {"b64": ""}}, "instances must be a list"),
    "empty list": ({"instances": []}, "Give at least one image"),
    "a number": ({"instances": [3]}, 'instance 0 must be {"b64": "..."} or'),
    "another key": ({"instances": [{"png": ""}]}, "an object with the keys 'png'"),
    "no base64": ({"instances": [{"b64": "%%"}]}, "instance 0 is not base64"),
    "base64 that is no text": ({"instances": [{"b64": 7}]}, "a base64 string. Received: 7"),
    "no image": ({"instances": [{"b64": "AAAA"}]}, "instance 0 is no JPEG, PNG, BMP or GIF"),
    "no bytes": ({"instances": [{"b64": ""}]}, "Received: 0 bytes"),
    "huge": (
        {"instances": [{"b64": base64_of(huge_png())}]},
        "instance 0 has 100000 x 100000 pixels",
    ),
    "flat": ({"instances": [[1, 2, 3]]}, "[height, width, 3]. Received: [3]"),
    "grey": ({"instances": [[[1, 2], [3, 4]]]}, "[height, width, 3]. Received: [2, 2]"),
    "ragged": ({"instances": [[[[1, 2, 3]], [[1, 2]]]]}, "instance 0 is ragged"),
    "ragged below": ({"instances": [[[[1, 2, [3]]]]]}, "instance 0 is ragged"),
    "empty rows": ({"instances": [[[], []]]}, "Received: [2, 0]"),
    "text": ({"instances": [[[["1", 2, 3]]]]}, "numbers only. Received: '1'"),
    "truth": ({"instances": [[[[True, 2, 3]]]]}, "numbers only. Received: True"),
    "nothing": ({"instances": [[[[None, 2, 3]]]]}, "numbers only. Received: None"),
    "negative": ({"instances": [[[[-1, 2, 3]]]]}, "[0, 255]. Received: -1.0"),
    "above": ({"instances": [[[[1, 2, 256]]]]}, "[0, 255]. Received: 256.0"),
    "signature": (
        {"instances": [PIXELS], "signature_name": "explain"},
        "signature_name must be one of serving_default, serving_uint8",
    ),
    "signature that is no text": ({"instances": [PIXELS], "signature_name": [1]}, "a list of 1"),
}


@pytest.mark.parametrize("case", BAD_V1)
def test_each_mistake_in_v1_is_told(case):
    document, message = BAD_V1[case]
    with pytest.raises(BadRequestError) as raised:
        v1(document)
    assert message in raised.value.message
    assert "\n" not in raised.value.message
    assert len(raised.value.message) < 300


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b'{"instances": [[[[NaN, 1, 2]]]]}', b"[" * 100_000]
)
def test_what_is_no_json_is_told(body):
    with pytest.raises(BadRequestError, match="the body is not JSON"):
        protocol.parse_v1(body, BOUNDS)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" + "0" * 400])
def test_infinite_numbers_are_refused(number):
    body = f'{{"instances": [[[[{number}, 1, 2]]]]}}'.encode()
    with pytest.raises(BadRequestError, match="must hold finite numbers|not JSON"):
        protocol.parse_v1(body, BOUNDS)


def test_too_many_instances_or_pixels_are_refused():
    with pytest.raises(TooLargeError, match=r"5 instances; at most 4 .* Send them in several"):
        v1({"instances": [PIXELS] * 5})
    with pytest.raises(BadRequestError, match=r"40 x 26 pixels; .* 0.001 million"):
        v1({"instances": [np.zeros((26, 40, 3), int).tolist()]})


def test_long_text_among_numbers_takes_no_memory():
    """As an array of text, each number would be as wide as the text: 4 MB times 40,000."""
    row = ["x" * 1_000_000] + [0] * 40_000
    with pytest.raises(BadRequestError, match="of 1000000 characters"):
        v1({"instances": [[row]]})


def test_neighbors_of_a_model_without_an_index_are_not_found():
    body = json.dumps({"instances": [PIXELS], "signature_name": "neighbors"}).encode()
    assert protocol.parse_v1(body, BOUNDS).wants_neighbors
    with pytest.raises(NotFoundError, match="without an index"):
        protocol.parse_v1(body, BOUNDS, can_find_neighbors=False)


def test_v2_takes_json_flat_or_nested():
    flat = v2(images([1, 2, 3, 4, 5, 6]), id="a7")
    nested = v2(images([PIXELS], datatype="FP32"))
    assert flat.request_id == "a7"
    np.testing.assert_array_equal(flat.instances, [PIXELS])
    np.testing.assert_array_equal(nested.instances, [PIXELS])
    assert v2(encoded([base64_of(PNG)])).instances == [PNG]
    assert v2(encoded([base64_of(PNG)], shape=(1, 1))).instances == [PNG]


def test_v2_takes_binary_tensors():
    raw = struct.pack("<I", len(PNG)) + PNG
    query = v2(encoded(parameters={"binary_data_size": len(raw)}), raw)
    assert query.instances == [PNG]
    values = np.arange(6, dtype="<f4")
    query = v2(images(datatype="FP32", parameters={"binary_data_size": 24}), values.tobytes())
    np.testing.assert_array_equal(np.ravel(query.instances), values)


def test_v2_gives_the_outputs_wanted():
    query = v2(
        images([PIXELS]),
        parameters={"signature_name": "embed", "binary_data_output": True},
    )
    assert query.outputs == (("embeddings", True),)
    wanted = [{"name": "class_id", "parameters": {"binary_data": True}}, {"name": "class_name"}]
    query = v2(images([PIXELS]), outputs=wanted)
    assert query.outputs == (("class_id", True), ("class_name", False))


RAW = {"binary_data_size": 4}
BAD_V2 = {
    "no inputs": ((None,), {}, "inputs must be a list of one tensor. Received: None"),
    "two inputs": ((images([PIXELS]) * 2,), {}, "Received: a list of 2"),
    "no object": (([3],), {}, "an input must be an object. Received: 3"),
    "unknown input": (([{**images([PIXELS])[0], "name": "x"}],), {}, "Received: 'x'"),
    "datatype": ((images([PIXELS], datatype="INT64"),), {}, "UINT8 or FP32. Received: 'INT64'"),
    "list of datatypes": ((images([PIXELS], datatype=["UINT8"]),), {}, "Received: a list of 1"),
    "datatype of files": (([{**encoded([""])[0], "datatype": "FP32"}],), {}, "datatype BYTES"),
    "no shape": (([{"name": "images", "datatype": "UINT8", "data": []}],), {}, "Received: None"),
    "shape of text": ((images([1], shape=("1",)),), {}, "whole numbers"),
    "negative shape": ((images([1], shape=(-1, 1, 1, 3)),), {}, "whole numbers"),
    "truth as shape": ((images([1], shape=(True, 1, 1, 3)),), {}, "whole numbers"),
    "grey": ((images([1], shape=(1, 1, 1, 1)),), {}, "[images, height, width, 3]"),
    "no images": ((images([], shape=(0, 1, 1, 3)),), {}, "no instances"),
    "claims too much": (
        (images([1], shape=(1, 10**9, 10**9, 3)),),
        {},
        "each of images has 1000000000 x 1000000000 pixels",
    ),
    "too few": ((images([1, 2, 3]),), {}, "images has 3 numbers; the shape [1, 1, 2, 3] needs 6"),
    "nested otherwise": ((images([[[[1], [2], [3], [4], [5], [6]]]]),), {}, "lists of the shape"),
    "fractions": ((images([[[[0.5, 2, 3], [4, 5, 6]]]]),), {}, "declared UINT8 and holds"),
    "no data": ((images(),), {}, "data must be a list. Received: None"),
    "count of files": ((encoded([base64_of(PNG)], shape=(2,)),), {}, "has 1 images and the shape"),
    "shape of files": ((encoded([""], shape=(1, 2)),), {}, "the shape [images]"),
    "nested files": ((encoded([[base64_of(PNG)]]),), {}, "a base64 string. Received: a list of 1"),
    "missing binary": ((images(parameters=RAW),), {}, "at most the 0 bytes"),
    "negative binary": ((images(parameters={"binary_data_size": -1}), b"1"), {}, "Received: -1"),
    "spare binary": ((images([PIXELS]), b"1234"), {}, "4 bytes follow the last tensor"),
    "cut item": ((encoded(parameters={"binary_data_size": 3}), b"123"), {}, "ends within"),
    "long item": ((encoded(parameters=RAW), b"\xff\xff\xff\xff"), {}, "claims 4294967295 bytes"),
    "odd bytes": (
        (images(datatype="FP32", parameters={"binary_data_size": 5}), b"12345"),
        {},
        "no multiple of four",
    ),
    "NaN": (
        (
            images(datatype="FP32", parameters={"binary_data_size": 24}),
            np.float32([1, 2, np.nan, 4, 5, 6]).tobytes(),
        ),
        {},
        "finite numbers. Received: nan",
    ),
    "parameters": ((images([PIXELS]),), {"parameters": 3}, "parameters must be an object"),
    "id": ((images([PIXELS]),), {"id": 3}, "id must be a string"),
    "outputs": ((images([PIXELS]),), {"outputs": {"name": "x"}}, "outputs must be a list"),
    "unknown output": ((images([PIXELS]),), {"outputs": [{"name": "x"}]}, "Received: 'x'"),
    "output": ((images([PIXELS]),), {"outputs": ["class_id"]}, "an output must be an object"),
}


@pytest.mark.parametrize("case", BAD_V2)
def test_each_mistake_in_v2_is_told(case):
    arguments, fields, message = BAD_V2[case]
    with pytest.raises(RequestError) as raised:
        v2(*arguments, **fields)
    assert 400 <= raised.value.status < 500
    assert message in raised.value.message
    assert len(raised.value.message) < 300


@pytest.mark.parametrize("length", ["-1", "x", "9" * 30, "100000", "²", ""])
def test_a_wrong_json_length_is_told(length):
    with pytest.raises(BadRequestError, match="Inference-Header-Content-Length"):
        tensors.parse_v2(b"{}", length, BOUNDS)


ROWS = [
    {"class_name": name, "class_id": np.int32(index), "probabilities": np.float32([0.25, index])}
    for index, name in enumerate(["zéro", "one"])
]


def test_v2_answers_in_json_or_binary():
    query = protocol.Query("serving_default", [], "a7", (("class_name", False),))
    body, length = answers.encode_v2(query, ROWS, "digits", 3)
    assert length == len(body)
    assert json.loads(body) == {
        "model_name": "digits",
        "model_version": "3",
        "id": "a7",
        "outputs": [
            {"name": "class_name", "datatype": "BYTES", "shape": [2], "data": ["zéro", "one"]}
        ],
    }
    outputs = (("probabilities", True), ("class_id", False), ("class_name", True))
    body, length = answers.encode_v2(protocol.Query("", [], "", outputs), ROWS, "digits", 3)
    described = json.loads(body[:length])["outputs"]
    sizes = [output.get("parameters", {}).get("binary_data_size") for output in described]
    assert sizes == [16, None, 4 + 5 + 4 + 3]
    assert [output["shape"] for output in described] == [[2, 2], [2], [2]]
    assert described[1]["data"] == [0, 1]
    np.testing.assert_array_equal(
        np.frombuffer(body[length : length + 16], "<f4"), [0.25, 0, 0.25, 1]
    )
    assert body[length + 16 :] == b"\x05\0\0\0" + "zéro".encode() + b"\x03\0\0\0one"


def test_v1_answers_in_rows_or_columns_as_tensorflow_serving_does():
    names = ("class_id", "class_name", "probabilities", "embeddings")
    rows = [
        dict(zip(names, (np.int32(at), "a", np.float32([at, 1]), np.float32([at])), strict=True))
        for at in range(2)
    ]

    def answer(signature, columnar):
        query = protocol.Query(signature, [], columnar=columnar)
        return json.loads(answers.encode_v1(query, rows))

    assert answer("serving_default", False)["predictions"][1] == {
        "class_id": 1,
        "class_name": "a",
        "probabilities": [1.0, 1.0],
        "embeddings": [1.0],
    }
    assert answer("serving_default", True)["outputs"]["probabilities"] == [[0.0, 1.0], [1.0, 1.0]]
    assert answer("embed", False) == {"predictions": [[0.0], [1.0]]}  # One output has no name.
    assert answer("embed", True) == {"outputs": [[0.0], [1.0]]}


def test_the_length_of_an_answer_counts_every_output():
    row = {"embeddings": np.ones(1000, np.float32), "neighbor_class_names": ["a" * 50] * 20}
    row |= dict.fromkeys(("neighbor_ids", "neighbor_labels", "similarities"), 1)
    row |= {"out_of_distribution": np.float32(1)}
    assert 9000 < answers.estimate_bytes(protocol.Query("embed", []), [row] * 1) < 15_000
    assert answers.estimate_bytes(protocol.Query("neighbors", []), [row] * 3) > 3 * 1000


def test_numbers_survive_json_exactly():
    values = np.float32([0.1, 1 / 3, 1e-9, 0.99999994])
    query = protocol.Query("embed", [])
    found = json.loads(answers.encode_v1(query, [{"embeddings": values}]))
    np.testing.assert_array_equal(np.float32(found["predictions"][0]), values)
