"""Prediction by a server: busy, broken, foreign and out of reach."""

import pytest
from exporting.model_servers import dogs, model_server, results, serving

from supcon_tf import UserError
from supcon_tf.config import PredictConfig
from supcon_tf.exporting import remote
from supcon_tf.exporting.prediction import predict


@pytest.fixture
def impatient(monkeypatch):
    """Asks again at once."""
    monkeypatch.setattr(remote, "_FIRST_WAITS", (0, 0))
    monkeypatch.setattr(remote, "_LATER_WAITS", (0, 0, 0))


def test_a_busy_or_broken_server_is_asked_again(images, impatient):
    trouble = [(503, {"error": "queue is full."}), None, (503, b"")]
    asked = []

    def predictions(instances):
        asked.append(instances)
        return trouble.pop() if trouble else dogs(instances)

    with serving(model_server(predictions)) as address:
        found = results(address, images)
    assert [one["classes"] for one in found] == [["dog"]] * 5
    assert len(asked) == 4
    assert all(one == [b"image %d" % number for number in range(5)] for one in asked)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((503, {"error": "queue is full."}), "answered 503: queue is full"),
        ((500, b"<html>"), "answered 500: Internal Server Error"),
        (None, "cannot be reached .*losed connection"),
    ],
)
def test_asking_again_has_an_end(answer, message, images, impatient):
    with (
        serving(model_server(lambda instances: answer)) as address,
        pytest.raises(UserError, match=message),
    ):
        results(address, images)


@pytest.mark.parametrize("status", [400, 413, 415, 422, 500])
def test_refused_images_are_named_and_the_others_answered(status, images):
    asked = []

    def predictions(instances):
        asked.append(len(instances))
        for number, one in enumerate(instances):
            if one in (b"image 0", b"image 3"):
                return status, {"error": f"instance {number} is no image."}
        return dogs(instances)

    with serving(model_server(predictions)) as address:
        found = results(address, images)
    assert [one["image"] for one in found] == images
    assert [one.get("classes") for one in found] == [None, ["dog"], ["dog"], None, ["dog"]]
    assert found[3]["error"] == f"the server answered {status}: the image is no image."
    assert asked == [5, 2, 1, 1, 3, 1, 2, 1, 1]


@pytest.mark.parametrize("status", [401, 403, 404, 429, 502])
def test_a_refusal_of_more_than_an_image_ends_it(status, images):
    with (
        serving(model_server(lambda instances: (status, {"error": "no entry."}))) as address,
        pytest.raises(UserError, match=f"answered {status}: no entry"),
    ):
        results(address, images)


PROBABILITIES = {
    "no JSON": (b"<html>", "holds no probabilities"),
    "no object": ([1, 2], "holds no probabilities"),
    "no predictions": ({"outputs": []}, "holds no probabilities"),
    "rows of another kind": ({"predictions": [[0.5, 0.5]]}, "holds no probabilities"),
    "text": (
        {"predictions": [{"class_name": "dog", "probabilities": ["a", "b"]}]},
        "holds no probabilities",
    ),
    "too few rows": ({"predictions": []}, r"probabilities \[0\] instead of \[1, 2\]"),
    "too many classes": (
        {"predictions": [{"class_name": "dog", "probabilities": [0, 1, 0]}]},
        r"\[1, 3\] instead of \[1, 2\]",
    ),
    "NaN": (
        {"predictions": [{"class_name": "dog", "probabilities": [0, float("nan")]}]},
        "not between 0 and 1",
    ),
    "other class names": (
        {"predictions": [{"class_name": "cow", "probabilities": [0, 1]}]},
        "changed during the request",
    ),
}


@pytest.mark.parametrize("case", PROBABILITIES)
def test_an_answer_that_makes_no_sense_is_refused(case, images):
    answer, message = PROBABILITIES[case]
    with (
        serving(model_server(lambda instances: (200, answer))) as address,
        pytest.raises(UserError, match=message),
    ):
        results(address, images[:1])


SERVERS = {
    "several models": (
        model_server(dogs, ["a", "b"]),
        "has 2 models \\(a, b\\). Give --model=http",
    ),
    "no model": (model_server(dogs, []), "lists no models"),
    "a web page": (lambda path, body: (200, b"<html>hello</html>"), "lists no models"),
    "no such path": (lambda path, body: (404, b""), "lists no models"),
    "a failure": (lambda path, body: (500, {"error": "no memory"}), "answered 500: no memory"),
    "no names": (model_server(dogs, class_names=[]), "names no classes"),
    "other names": (model_server(dogs, class_names=[1, 2]), "names no classes"),
    "starting": (lambda path, body: (503, {"error": "loading"}), "answered 503: loading"),
}


@pytest.mark.parametrize("case", SERVERS)
def test_what_is_no_server_of_one_model_is_refused(case, images, impatient):
    answer, message = SERVERS[case]
    with serving(answer) as address, pytest.raises(UserError, match=message):
        predict(PredictConfig(model=address), images)


def test_an_unknown_model_and_a_server_out_of_reach(images, impatient):
    message = "answered 404: no such path.*Received: --model=.*/cats"
    with serving(model_server(dogs)) as address, pytest.raises(UserError, match=message):
        predict(PredictConfig(model=f"{address}/v1/models/cats"), images)
    with pytest.raises(UserError, match=r"cannot be reached \(Connection refused\)"):
        predict(PredictConfig(model=address), images)
    with pytest.raises(UserError, match="cannot be reached"):
        predict(PredictConfig(model="http://"), images)
