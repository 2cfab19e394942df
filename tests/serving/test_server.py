"""The server as its clients meet it: three protocols, every kind of bad input, and its page."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serving.fakes import FILES, PIXELS, TRUNCATED, base64_of, check_rows, huge_png, picture

PREDICT, INFER = "/v1/models/digits:predict", "/v2/models/digits/infer"


@pytest.fixture(scope="module")
def instances():
    return [{"b64": base64_of(content)} for content in FILES.values()] + [PIXELS.tolist()]


def test_v1_gives_what_the_bundle_gives(server, instances, expected):
    status, answer = server.predict(*instances)
    assert status == 200
    assert set(answer["predictions"][0]) == {
        "class_id",
        "class_name",
        "probabilities",
        "embeddings",
    }
    check_rows(answer["predictions"], expected)
    status, answer = server.predict(*instances, signature_name="neighbors")
    assert set(answer["predictions"][0]) == {
        "neighbor_ids",
        "neighbor_labels",
        "neighbor_class_names",
        "similarities",
        "out_of_distribution",
    }
    check_rows(answer["predictions"], expected)
    path = "/v1/models/digits/versions/1:predict"
    status, answer = server.ask(path, {"instances": instances, "signature_name": "embed"})
    check_rows([{"embeddings": row} for row in answer["predictions"]], expected)
    status, answer = server.ask(PREDICT, {"inputs": {"encoded": instances}})
    assert set(answer["outputs"]) == {"class_id", "class_name", "probabilities", "embeddings"}
    for name, values in answer["outputs"].items():
        check_rows([{name: value} for value in values], {name: expected[name]})


def test_v2_gives_what_the_bundle_gives(server, expected):
    data = [base64_of(content) for content in FILES.values()]
    tensor = {"name": "encoded", "datatype": "BYTES", "shape": [len(data)], "data": data}
    status, answer = server.ask(INFER, {"id": "7", "inputs": [tensor]})
    assert status == 200
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("digits", "1", "7")
    outputs = {
        output["name"]: np.reshape(output["data"], output["shape"]) for output in answer["outputs"]
    }
    for name, values in outputs.items():
        check_rows([{name: value} for value in values], {name: expected[name][:-1]})


def test_v2_gives_binary_tensors(server, expected):
    header = json.dumps(
        {
            "inputs": [
                {
                    "name": "images",
                    "datatype": "UINT8",
                    "shape": [1, *PIXELS.shape],
                    "parameters": {"binary_data_size": PIXELS.size},
                }
            ],
            "outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}],
        }
    ).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))}
    with server.connect() as connection:
        connection.request("POST", INFER, header + PIXELS.tobytes(), headers)
        answer = connection.getresponse()
        length = int(answer.headers["Inference-Header-Content-Length"])
        content = answer.read()
    assert json.loads(content[:length])["outputs"][0]["shape"] == [1, 10]
    values = np.frombuffer(content[length:], "<f4")
    np.testing.assert_allclose(values, expected["probabilities"][-1], rtol=1e-4, atol=1e-5)


def test_many_clients_get_their_own_answers(server, bundle):
    files = [picture(seed=seed, size=(10 + seed, 12)) for seed in range(16)]
    images = np.stack([bundle.decode(content) for content in files])
    expected = bundle.classify(images)["probabilities"]

    def client(start):
        with server.connect() as connection:
            for at in [(start + step) % 16 for step in range(16)]:
                body = {"b64": base64_of(files[at])}
                status, answer = server.predict(body, connection=connection)
                assert status == 200
                found = answer["predictions"][0]["probabilities"]
                np.testing.assert_allclose(found, expected[at], rtol=1e-4, atol=1e-5)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(client, range(16)))
    assert "supcon_queue_images 0.0" in server.ask("/metrics")[1].decode()


PNG = base64_of(FILES["png"])
BAD_V1 = {
    "not JSON": (b"instances", 400, "the body is not JSON"),
    "no body": (b"", 400, "the body is not JSON"),
    "NaN": (b'{"instances": [[[[NaN, 1, 2]]]]}', 400, "JSON has no NaN"),
    "infinite": (b'{"instances": [[[[1e999, 1, 2]]]]}', 400, "number is infinity"),
    "no instances": ({"instance": []}, 400, "has no instances"),
    "empty list": ({"instances": []}, 400, "at least one image"),
    "wrong shape": ({"instances": [[1, 2, 3]]}, 400, "[height, width, 3]"),
    "ragged": ({"instances": [[[[1, 2, 3]], [[1]]]]}, 400, "ragged"),
    "no image": (
        {"instances": [{"b64": PNG}, {"b64": base64_of(b"x" * 99)}]},
        400,
        "instance 1 is not a",
    ),
    "truncated JPEG": (
        {"instances": [{"b64": base64_of(TRUNCATED)}]},
        400,
        "instance 0: the bytes are not a whole",
    ),
    "truncated PNG": (
        {"instances": [{"b64": base64_of(FILES["png"][:200])}]},
        400,
        "instance 0: the bytes are not a whole",
    ),
    "huge": ({"instances": [{"b64": base64_of(huge_png())}]}, 400, "100000 x 100000 pixels"),
    "large": ({"instances": [{"b64": base64_of(huge_png(3000, 2000))}]}, 400, "most 5 million"),
    "signature": ({"instances": [{"b64": PNG}], "signature_name": "x"}, 400, "Received: 'x'"),
    "many": ({"instances": [{"b64": PNG}] * 65}, 413, "65 instances; at most 64"),
    "too large": (b" " * 2_000_001, 413, "larger than 2 MB (max_request_mb)"),
}


@pytest.mark.parametrize("case", BAD_V1)
def test_v1_refuses_bad_input_with_one_sentence(server, case):
    body, status, message = BAD_V1[case]
    before = len(server.lines)
    found, answer = server.ask(PREDICT, body)
    assert found == status, answer
    assert message in answer["error"]
    assert set(answer) == {"error"}
    server.wait_for(lambda: len(server.lines) > before)
    time.sleep(0.02)
    assert len(server.lines) - before == 1  # No traceback.
    assert f" {status}: " in server.lines[-1]


def tensor(**changes):
    base = {"name": "images", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, 2, 3]}
    return {"inputs": [{**base, **changes}]}


BAD_V2 = {
    "not JSON": (b"x", 400, "the body is not JSON"),
    "no inputs": ({}, 400, "inputs: Field required"),
    "inputs": ({"inputs": 3}, 400, "inputs: Input should be a valid list. Received: 3"),
    "claims too much": (tensor(shape=[1, 9**9, 9**9, 3]), 400, "pixels"),
    "too few": (tensor(shape=[1, 2, 2, 3]), 400, "declares the shape [1, 2, 2, 3] of 12"),
    "datatype": (tensor(datatype="FP16"), 400, "Received: 'FP16'"),
    "level": (tensor(data=[1, 2, 300]), 400, "[0, 255]. Received: 300.0"),
    "no image": (
        tensor(name="encoded", datatype="BYTES", shape=[1], data=["AAAA"]),
        400,
        "not a JPEG",
    ),
    "signature": ({**tensor(), "parameters": {"signature_name": 3}}, 400, "Received: 3"),
    "too large": (b" " * 2_000_001, 413, "larger than 2 MB"),
}


@pytest.mark.parametrize("case", BAD_V2)
def test_v2_refuses_bad_input_with_one_sentence(server, case):
    body, status, message = BAD_V2[case]
    found, answer = server.ask(INFER, body)
    assert found == status, answer
    assert message in answer["error"]


ADDRESSES = {
    ("GET", "/v1/models/other"): 404,
    ("GET", "/v1/models/digits/versions/2"): 404,
    ("GET", "/v1/models/digits/versions/../../../etc/passwd"): 404,
    ("GET", "/v1/models/..%2f..%2fetc/metadata"): 404,
    ("POST", "/v1/models/other:predict"): 404,
    ("POST", "/v1/models/digits/versions/01:predict"): 404,
    ("POST", "/v1/models/digits/versions/%00:predict"): 404,
    ("POST", "/v1/models/digits:explain"): 404,
    ("POST", "/v2/models/other/infer"): 404,
    ("POST", "/v2/models/digits/versions/2/infer"): 404,
    ("GET", "/v2/models/digits/versions/2"): 404,
    ("GET", "/v2/models/digits/versions/2/ready"): 404,
    ("GET", "/v2/models/other"): 404,
    ("POST", "/v2/repository/models/digits/unload"): 403,
    ("POST", "/v2/repository/models/digits/load"): 403,
    ("GET", "/v1/models/digits/thumbnails/1000000"): 404,
    ("GET", "/v1/models/digits/thumbnails/0?version=2"): 404,
    ("GET", "/v1/models/digits/thumbnails/0?version=01"): 404,
    ("GET", "/v1/models/digits/thumbnails/-1"): 400,
    ("GET", "/v1/models/digits/thumbnails/1e3"): 400,
    ("GET", "/v1/models/digits/thumbnails/%D9%A3"): 400,
    ("GET", "/v1/models/digits/thumbnails/01"): 400,
    ("GET", "/v1/models/digits/thumbnails/..%2f..%2fmetadata"): 404,
    ("DELETE", "/v1/models/digits"): 405,
    ("GET", "/v1/models/digits:predict"): 404,
    ("PUT", "/v2/models/digits/infer"): 405,
    ("TRACE", "/"): 405,
    ("OPTIONS", "*"): 404,
    ("GET", "/docs"): 404,
}


@pytest.mark.parametrize(("method", "path"), ADDRESSES)
def test_other_addresses_are_refused(server, method, path):
    status, answer = server.ask(path, b"{}" if method == "POST" else None, method=method)
    assert status == ADDRESSES[method, path], answer
    assert set(answer) == {"error"}


def test_it_tells_about_itself(server, bundle):
    assert server.ask("/v1/models") == (200, {"models": ["digits"]})
    assert server.ask("/v1/models/digits") == (200, {"name": "digits", "ready": True})
    assert server.ask("/v1/models/digits/versions/1")[0] == 200
    assert server.ask("/v2/health/live") == (200, {"live": True})
    assert server.ask("/v2/health/ready") == (200, {"ready": True})
    assert server.ask("/v2/models/digits/versions/1/ready")[0] == 200
    status, about = server.ask("/v1/models/digits/metadata")
    assert status == 200
    assert about["model_spec"] == {"name": "digits", "version": "1"}
    assert tuple(about["metadata"]["class_names"]) == bundle.class_names
    assert about["metadata"]["image_size_px"] == bundle.image_size_px
    assert about["metadata"]["neighbors"] == bundle.num_neighbors
    assert about["metadata"]["symbols"] is True
    assert about["metrics"] == bundle.metrics
    assert about["refused_versions"] == {}
    shapes = {
        tensor["name"]: tensor["shape"] for tensor in server.ask("/v2/models/digits")[1]["outputs"]
    }
    assert shapes["probabilities"] == [-1, 10]
    assert shapes["similarities"] == [-1, bundle.num_neighbors]


def test_the_page_and_its_pictures(server, bundle):
    status, content = server.ask("/")
    assert status == 200
    assert content.startswith(b"<!doctype html>")
    assert server.ask("/", method="HEAD") == (200, b"")
    for version, cached in (("?version=1", "private, max-age=600"), ("", "no-store")):
        with server.connect() as connection:
            connection.request("GET", f"/v1/models/digits/thumbnails/0{version}")
            answer = connection.getresponse()
            assert answer.read() == bundle.thumbnail(0)
            assert answer.headers["Cache-Control"] == cached


def test_v1_answers_name_the_version(server):
    with server.connect() as connection:
        connection.request("POST", PREDICT, json.dumps({"instances": [{"b64": PNG}]}))
        assert connection.getresponse().headers["X-Model-Version"] == "1"


def test_metrics_have_no_names_that_clients_invent(server):
    server.ask("/v1/models/invented-by-a-client:predict", {})
    server.predict({"b64": PNG})
    text = server.ask("/metrics")[1].decode()
    assert 'supcon_model_version{model_name="digits"} 1.0' in text
    assert 'request_predict_seconds_count{model_name="digits"}' in text
    assert re.search(r'supcon_requests_total\{route="v1_predict",status="200"\} \d', text)
    assert re.search(r"supcon_batch_images_count \d", text)
    assert "invented" not in text


def test_no_bad_request_is_an_error_in_the_log(server):
    assert not [line for line in server.lines if "Traceback" in line or " ERROR " in line]
