"""Requests and answers of the V1 protocol, and the message for each mistake."""

import json

import numpy as np
import orjson
import pytest
from serving.fakes import FakeBundle, base64_of, huge_png, picture

from supcon_tf.serving import v1
from supcon_tf.serving.faults import NotFoundError, RequestError
from supcon_tf.serving.instances import Bounds
from supcon_tf.serving.outputs import SIGNATURES

BOUNDS = Bounds(images=4, pixels=1000)
PNG = picture()
PIXELS = [[[1, 2, 3], [4, 5, 6]]]


def read(document, bundle=None):
    return v1.read(json.dumps(document).encode(), bundle or FakeBundle(), BOUNDS)


def encoded(answer):
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def contents(query):
    return [instance.content for instance in query.instances]


def test_v1_takes_files_and_pixels_in_one_request():
    text = base64_of(PNG)
    broken = "\n".join(text[at : at + 76] for at in range(0, len(text), 76))  # As `base64` does.
    query = read({"instances": [{"b64": text}, PIXELS, {"b64": broken}]})
    assert query.signature == "serving_default"
    assert contents(query)[0] == contents(query)[2] == PNG
    assert contents(query)[1].dtype == np.uint8
    np.testing.assert_array_equal(contents(query)[1], PIXELS)


@pytest.mark.parametrize("name", ["encoded", "images"])
def test_v1_takes_named_inputs_and_columns(name):
    """As TensorFlow Serving does: by row or by column, with or without the input's name."""
    values = [{"b64": base64_of(PNG)}, PIXELS]
    named = {"instances": [{name: value} for value in values]}
    for document in (named, {"inputs": {name: values}}, {"inputs": values}):
        query = read(document)
        assert contents(query)[0] == PNG
        np.testing.assert_array_equal(contents(query)[1], PIXELS)
        rows = [dict.fromkeys(SIGNATURES["serving_default"], 1)]
        assert set(query.write(rows, None)) == {
            "outputs" if "inputs" in document else "predictions"
        }
        assert query.nbytes == len(PNG) + 6


def test_fractions_stay_fractions():
    query = read({"instances": [[[[0.5, 2, 255]]]]})
    assert contents(query)[0].dtype == np.float32
    np.testing.assert_array_equal(contents(query)[0], [[[0.5, 2, 255]]])


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
    "no image": (
        {"instances": [{"b64": "AAAA"}]},
        "instance 0 is not a JPEG, PNG, BMP, GIF or WebP",
    ),
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
    with pytest.raises(RequestError) as raised:
        read(document)
    assert message in raised.value.message
    assert "\n" not in raised.value.message
    assert len(raised.value.message) < 300


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b'{"instances": [[[[NaN, 1, 2]]]]}', b"[" * 100_000]
)
def test_what_is_no_json_is_told(body):
    with pytest.raises(RequestError, match="the body is not JSON"):
        v1.read(body, FakeBundle(), BOUNDS)


def test_an_image_in_place_of_json_is_told_where_it_belongs():
    with pytest.raises(RequestError, match=r"sent inside the JSON, encoded in base64\.$"):
        v1.read(b"\x89PNG\r\n\x1a\n\0", FakeBundle(), BOUNDS)
    with pytest.raises(RequestError, match="Received: an empty object"):
        v1.read(b"{}", FakeBundle(), BOUNDS)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" + "0" * 400])
def test_infinite_numbers_are_refused(number):
    body = f'{{"instances": [[[[{number}, 1, 2]]]]}}'.encode()
    with pytest.raises(RequestError, match="must hold finite numbers|not JSON"):
        v1.read(body, FakeBundle(), BOUNDS)


def test_too_many_instances_or_pixels_are_refused():
    with pytest.raises(
        RequestError, match=r"5 instances; at most 4 .* Send them in several"
    ) as raised:
        read({"instances": [PIXELS] * 5})
    assert raised.value.status == 413
    with pytest.raises(RequestError, match=r"40 x 26 pixels; .* 0.001 million"):
        read({"instances": [np.zeros((26, 40, 3), int).tolist()]})


def test_long_text_among_numbers_takes_no_memory():
    """As an array of text, each number would be as wide as the text: 4 MB times 40,000."""
    row = ["x" * 1_000_000] + [0] * 40_000
    with pytest.raises(RequestError, match="of 1000000 characters"):
        read({"instances": [[row]]})


def test_neighbors_of_a_model_without_an_index_are_not_found():
    document, bundle = {"instances": [PIXELS], "signature_name": "neighbors"}, FakeBundle()
    assert read(document, bundle).wants_neighbors
    bundle.num_neighbors = 0
    with pytest.raises(NotFoundError, match="without an index"):
        read(document, bundle)


def test_v1_answers_in_rows_or_columns_as_tensorflow_serving_does():
    names = ("class_id", "class_name", "probabilities", "embeddings")
    rows = [
        dict(zip(names, (np.int32(at), "a", np.float32([at, 1]), np.float32([at])), strict=True))
        for at in range(2)
    ]

    def answer(signature, columnar):
        return json.loads(encoded(v1.write(signature, columnar, rows, None)))

    assert answer("serving_default", False)["predictions"][1] == {
        "class_id": 1,
        "class_name": "a",
        "probabilities": [1.0, 1.0],
        "embeddings": [1.0],
    }
    assert answer("serving_default", True)["outputs"]["probabilities"] == [[0.0, 1.0], [1.0, 1.0]]
    assert answer("embed", False) == {"predictions": [[0.0], [1.0]]}  # One output has no name.
    assert answer("embed", True) == {"outputs": [[0.0], [1.0]]}


def test_numbers_survive_json_exactly():
    values = np.float32([0.1, 1 / 3, 1e-9, 0.99999994])
    found = json.loads(encoded(v1.write("embed", False, [{"embeddings": values}], None)))
    np.testing.assert_array_equal(np.float32(found["predictions"][0]), values)
