"""Prediction from a bundle, a TFLite file and a server: what goes in, comes out, and fails."""

import base64
import contextlib
import csv
import importlib
import io
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from conftest import ROOT, write_images

from supcon_tf import UserError
from supcon_tf.config import PredictConfig
from supcon_tf.exporting import prediction, remote
from supcon_tf.exporting.bundle import load_bundle
from supcon_tf.exporting.prediction import find_images, predict


@pytest.fixture(scope="module")
def bundle(exported):
    """A version directory."""
    return exported[1] / "1"


@pytest.fixture(scope="module")
def digit_files(digits, tmp_path_factory):
    """Thirty digits as PNG files."""
    folder = tmp_path_factory.mktemp("digits")
    for number, (encoded, _) in enumerate(digits.test.records().take(30)):
        (folder / f"{number:02d}.png").write_bytes(encoded.numpy())
    return folder


@contextlib.contextmanager
def serving(answer):
    """A server in this process.

    Args:
        answer: called with the path and the body (None for a GET); gives status and content, bytes
            or what becomes JSON; or None, and the connection is closed without an answer.

    Yields:
        its address.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self._answer(None)

        def do_POST(self):
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body):
            found = answer(self.path, body)
            if found is None:
                self.close_connection = True
                return
            status, content = found
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def model_server(predictions, models=("digits",), class_names=("cat", "dog")):
    """Answers for `serving`: the metadata, and what `predictions(instances)` gives."""

    def answer(path, body):
        if path == "/v1/models":
            return 200, {"models": list(models)}
        if path == "/v1/models/digits/metadata":
            return 200, {"metadata": {"class_names": list(class_names)}}
        if path == "/v1/models/digits:predict":
            return predictions([base64.b64decode(one["b64"]) for one in body["instances"]])
        return 404, {"error": f"no such path: {path}."}

    return answer


def dogs(instances):
    """Every image is a dog."""
    row = {"class_name": "dog", "probabilities": [0.25, 0.75]}
    return 200, {"predictions": [row] * len(instances)}


@pytest.fixture
def images(tmp_path):
    """Five files that only a server looks into."""
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(b"image %d" % number)
    return [str(tmp_path / f"{number}.png") for number in range(5)]


@pytest.fixture
def impatient(monkeypatch):
    """Asks again at once."""
    monkeypatch.setattr(remote, "_FIRST_WAITS", (0, 0))
    monkeypatch.setattr(remote, "_LATER_WAITS", (0, 0, 0))


def results(model, images, **settings):
    return list(predict(PredictConfig(model=str(model), **settings), [str(one) for one in images]))


# --- The kinds of model -----------------------------------------------------------------------


def answers_of(bundle):
    """The V1 protocol over a bundle."""

    def predictions(instances):
        found = bundle.classify(np.stack([bundle.decode(encoded) for encoded in instances]))
        rows = zip(found["class_name"], found["probabilities"].tolist(), strict=True)
        return 200, {"predictions": [{"class_name": n, "probabilities": p} for n, p in rows]}

    return model_server(predictions, class_names=bundle.class_names)


def test_a_bundle_a_tflite_file_and_a_server_agree(bundle, digit_files, digits):
    expected = results(bundle, [digit_files], top_k=3)
    assert [os.path.basename(one["image"]) for one in expected] == sorted(os.listdir(digit_files))
    labels = [str(label.numpy()) for _, label in digits.test.records().take(30)]
    assert np.mean([one["classes"][0] == y for one, y in zip(expected, labels, strict=True)]) > 0.8
    with serving(answers_of(load_bundle(bundle))) as address:
        models = {
            bundle.parent: 1e-6,
            bundle / "tflite/float32.tflite": 1e-4,
            bundle / "tflite/int8.tflite": 0.15,
            address: 1e-6,
            f"{address}/v1/models/digits/": 1e-6,
        }
        for model, tolerance in models.items():
            found = results(model, [digit_files], top_k=3, batch_size=7)
            same = [a["classes"] == b["classes"] for a, b in zip(found, expected, strict=True)]
            assert all(same) or tolerance > 0.1, model
            for one, other in zip(found, expected, strict=True):
                assert one["image"] == other["image"]
                assert one["probabilities"][0] == pytest.approx(
                    other["probabilities"][0], abs=tolerance
                ), model


def test_a_tflite_file_works_away_from_its_bundle_and_a_changed_one_in_it_does_not(
    bundle, digit_files, tmp_path
):
    alone = tmp_path / "alone.tflite"
    content = (bundle / "tflite/float32.tflite").read_bytes()
    alone.write_bytes(content)
    assert results(alone, [digit_files / "00.png"]) == results(
        bundle / "tflite/float32.tflite", [digit_files / "00.png"]
    )
    inside = tmp_path / "1" / "tflite" / "float32.tflite"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(content)
    (tmp_path / "1" / "SHA256SUMS").write_text(f"{'0' * 64}  tflite/float32.tflite\n")
    with pytest.raises(UserError, match="has another SHA-256"):
        results(inside, [digit_files])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.tflite", None, "model not found. Received: '.*none.tflite'"),
        ("other.tflite", b"TFL3", "holds no class names"),
        ("none", None, "model not found"),
    ],
)
def test_a_model_that_is_none_is_named(name, content, message, tmp_path, digit_files):
    if content:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        predict(PredictConfig(model=str(tmp_path / name)), [str(digit_files)])


def test_an_address_without_its_scheme_is_recognized(digit_files):
    with pytest.raises(UserError, match="For a server give http://127.0.0.1:9"):
        predict(PredictConfig(model="127.0.0.1:9"), [str(digit_files)])


@pytest.mark.parametrize("model", ["", "tflite/float32.tflite"])
def test_an_unreadable_image_stops_after_the_batches_before_it(
    model, bundle, digit_files, tmp_path
):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    files = [str(digit_files / "00.png"), str(digit_files / "01.png"), str(tmp_path / "bad.png")]
    found = predict(PredictConfig(model=str(bundle / model), batch_size=2), files)
    assert [next(found)["image"], next(found)["image"]] == files[:2]
    with pytest.raises(UserError, match="cannot read image .*bad.png: the bytes are no whole"):
        next(found)


def test_a_batch_is_bounded_in_images_and_in_bytes(images, monkeypatch):
    sizes = []

    def predictions(instances):
        sizes.append(len(instances))
        return dogs(instances)

    with serving(model_server(predictions)) as address:
        results(address, images, batch_size=3)
        monkeypatch.setattr(prediction, "_MAX_BATCH_BYTES", 17)  # Two of them have 14.
        results(address, images, batch_size=3)
        monkeypatch.setattr(prediction, "_MAX_BATCH_BYTES", 3)  # One alone is larger.
        results(address, images)
    assert sizes == [3, 2, 2, 2, 1, 1, 1, 1, 1, 1]


def test_files_are_found_before_the_model_is_loaded_and_read_batch_by_batch(images):
    with pytest.raises(UserError, match="image not found"):
        predict(PredictConfig(model="nowhere"), [*images, "none.png"])
    with serving(model_server(dogs)) as address:
        found = predict(PredictConfig(model=address, batch_size=2), images)
        os.remove(images[4])
        assert [one["image"] for one in (next(found), next(found))] == images[:2]
        with pytest.raises(UserError, match="cannot read image .*4.png: No such file"):
            list(found)


def test_equal_probabilities_keep_the_order_of_the_classes(images):
    def predictions(instances):
        return 200, {"predictions": [{"class_name": "b", "probabilities": [0.1, 0.3, 0.3, 0.3]}]}

    with serving(model_server(predictions, class_names="abcd")) as address:
        (one,) = results(address, images[:1], top_k=9)
    assert one["classes"] == ["b", "c", "d", "a"]


# --- Images in --------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = "a.png b.JPG notes.txt deep/c.gif deep/er/d.bmp deep/.hidden.png .trash/e.png x[1].png"
    for name in names.split():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "folder.png").mkdir()


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (["b.JPG", "a.png"], "b.JPG a.png"),
        (["notes.txt"], "notes.txt"),  # Named as it is, whatever it is called.
        (["deep"], "deep/c.gif deep/er/d.bmp"),
        (["."], "a.png b.JPG deep/c.gif deep/er/d.bmp x[1].png"),
        (["*"], "a.png b.JPG x[1].png"),
        (["**/*.[bg]*"], "deep/c.gif deep/er/d.bmp"),
        (["x[1].png"], "x[1].png"),  # A file before a pattern.
        (["deep/c.gif", "deep", "./deep/../deep/er/d.bmp", "**"], None),
    ],
)
def test_files_folders_and_patterns(images, found, tree):
    expected = found or "deep/c.gif deep/er/d.bmp a.png b.JPG x[1].png"
    if images == ["."]:
        images = [os.getcwd()]
        expected = " ".join(os.path.join(os.getcwd(), name) for name in expected.split())
    assert find_images(images) == expected.split()


def test_a_file_is_taken_once_but_a_link_to_it_is_another(tree):
    os.symlink("deep", "linked")
    os.symlink("a.png", "z.png")
    assert find_images(["deep", "linked/c.gif", "a.png", "z.png"]) == [
        *("deep/c.gif", "deep/er/d.bmp", "a.png", "z.png")
    ]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("", "path is empty"),
        ("none.png", "image not found. Received: 'none.png'"),
        ("none*.png", r"matches the pattern. Received: 'none\*.png'"),
        ("folder.png", "folder has no image .* Received: folder.png"),
        ("*.txt", "no image .* matches the pattern"),
    ],
)
def test_what_names_no_image_is_refused(image, message, tree):
    with pytest.raises(UserError, match=message):
        find_images(["a.png", image])


# --- The server -------------------------------------------------------------------------------


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
        (None, "is out of reach .*losed connection"),
    ],
)
def test_asking_again_has_an_end(answer, message, images, impatient):
    with (
        serving(model_server(lambda instances: answer)) as address,
        pytest.raises(UserError, match=message),
    ):
        results(address, images)


def test_a_refused_image_is_named(images):
    def predictions(instances):
        if b"image 3" in instances:
            return 400, {"error": f"instance {instances.index(b'image 3')} is no image."}
        return dogs(instances)

    with serving(model_server(predictions)) as address:
        found = predict(PredictConfig(model=address, batch_size=2), images)
        assert [next(found)["image"], next(found)["image"]] == images[:2]
        with pytest.raises(UserError, match="classify .*/3.png: .* 400: instance 0 is no image"):
            next(found)


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
        "has changed meanwhile",
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
    with pytest.raises(UserError, match=r"out of reach \(Connection refused\)"):
        predict(PredictConfig(model=address), images)
    with pytest.raises(UserError, match="out of reach"):
        predict(PredictConfig(model="http://"), images)


# --- What is written --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script_module(import_script):
    return import_script("predict")
    try:
        return importlib.import_module("predict")
    finally:
        sys.path.remove(str(ROOT / "scripts"))


ODD_NAMES = ["plain.png", "tab\t.png", "two\nlines\r.png", 'a "quote", b.png', "back\\n.png"]
ODD_NAMES += ["é\u2028\x1b[31m.png", os.fsdecode(b"\xff\xfe.png"), "\ud800.png"]


@pytest.fixture
def odd():
    shares = [0.75, 0.25]
    return [{"image": i, "classes": ["a\tb", "c,d"], "probabilities": shares} for i in ODD_NAMES]


def readable(name):
    return name.replace(os.fsdecode(b"\xff\xfe"), "\\xff\\xfe").replace("\ud800", "\\ud800")


def test_csv_of_odd_names_can_be_read_again(odd, script_module):
    text = "".join(f"{line}\n" for line in script_module.lines(odd, "csv"))
    header, *rows = csv.reader(io.StringIO(text.encode().decode(), newline=""))
    assert header == ["image", "class_1", "probability_1", "class_2", "probability_2"]
    assert rows == [[readable(i), "a\tb", "0.750000", "c,d", "0.250000"] for i in ODD_NAMES]


def test_json_of_odd_names_can_be_read_again(odd, script_module):
    found = [json.loads(line.encode("ascii")) for line in script_module.lines(odd, "jsonl")]
    assert found == [{**one, "image": readable(one["image"])} for one in odd]


def test_tsv_of_odd_names_is_one_line_each(odd, script_module):
    found = list(script_module.lines(odd, "tsv"))
    names = ["plain.png", "tab\\t.png", "two\\nlines\\r.png", 'a "quote", b.png', "back\\\\n.png"]
    names += ["é\\u2028\\x1b[31m.png", "\\xff\\xfe.png", "\\ud800.png"]
    assert found == [f"{name}\ta\\tb\t0.7500\tc,d\t0.2500" for name in names]


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_a_file_is_written_whole_or_not_at_all(kind, images, script_module, tmp_path, capsys):
    output = tmp_path / "new" / "table"
    with serving(model_server(dogs)) as address:
        config = PredictConfig(model=address, format=kind, batch_size=2)
        script_module.main(config, images)
        printed = capsys.readouterr()
        assert printed.err == ""
        script_module.main(config.replace(output=str(output)), images)
        assert output.read_bytes().decode() == printed.out
        assert len(printed.out.splitlines()) == 5 + (kind == "csv")
        assert "dog" in printed.out.splitlines()[-1]
        with pytest.raises(UserError):
            script_module.main(config.replace(output=str(output)), [*images, "none.png"])
    assert output.read_bytes().decode() == printed.out
    assert capsys.readouterr().out == ""
    assert os.listdir(output.parent) == ["table"]


def test_a_failure_on_the_way_leaves_what_is_printed_and_no_file(
    images, script_module, tmp_path, capsys
):
    def predictions(instances):
        return (400, {"error": "no image."}) if b"image 4" in instances else dogs(instances)

    with serving(model_server(predictions)) as address:
        config = PredictConfig(model=address, batch_size=1)
        with pytest.raises(UserError, match="4.png"):
            script_module.main(config, images)
        assert len(capsys.readouterr().out.splitlines()) == 4
        with pytest.raises(UserError, match="4.png"):
            script_module.main(config.replace(output=str(tmp_path / "new/table.tsv")), images)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("output", ["{tmp}", "/dev/null", "{tmp}/0.png"])
def test_an_output_that_is_no_table_is_refused(output, images, script_module, tmp_path):
    config = PredictConfig(model="nowhere", output=output.format(tmp=tmp_path))
    with pytest.raises(UserError, match="output must be a file to write a table to"):
        script_module.main(config, images)
    assert os.path.exists("/dev/null")
    assert not os.path.isfile("/dev/null")


def test_a_terminal_shows_progress_apart_from_the_results(
    images, script_module, capsys, monkeypatch
):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with serving(model_server(dogs)) as address:
        script_module.main(PredictConfig(model=address), images)
    assert "5/5" in sys.stderr.getvalue()
    assert capsys.readouterr().out == "".join(f"{image}\tdog\t0.7500\n" for image in images)


def test_an_image_of_another_size_and_kind_is_prepared_alike(bundle, tmp_path):
    write_images(tmp_path, ["grey"], 1, mode="L", size=(31, 20))
    write_images(tmp_path, ["alpha"], 1, mode="RGBA", size=(13, 40))
    expected = results(bundle, [tmp_path])
    found = results(bundle / "tflite/float32.tflite", [tmp_path])
    for one, other in zip(found, expected, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
