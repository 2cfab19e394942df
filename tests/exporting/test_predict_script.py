"""Lines, files and progress that `supcon-tf predict` writes."""

import csv
import io
import json
import os
import sys

import numpy as np
import pytest
import tensorflow as tf
from exporting.model_servers import dogs, model_server, serving

from supcon_tf import UserError
from supcon_tf.cli import predict
from supcon_tf.config import PredictConfig


@pytest.fixture(scope="module")
def script_module():
    return predict


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
            script_module.main(config.replace(output=str(output)), ["none.png"])
    assert output.read_bytes().decode() == printed.out
    assert capsys.readouterr().out == ""
    assert os.listdir(output.parent) == ["table"]


def test_a_failure_on_the_way_leaves_what_is_printed_and_no_file(
    images, script_module, tmp_path, capsys
):
    def predictions(instances):
        return (404, {"error": "no model."}) if b"image 4" in instances else dogs(instances)

    with serving(model_server(predictions)) as address:
        config = PredictConfig(model=address, batch_size=1)
        with pytest.raises(UserError, match="no model"):
            script_module.main(config, images)
        assert len(capsys.readouterr().out.splitlines()) == 4
        with pytest.raises(UserError, match="no model"):
            script_module.main(config.replace(output=str(tmp_path / "new/table.tsv")), images)
    assert not (tmp_path / "new").exists()


def refusing(instances):
    bad = [number for number, one in enumerate(instances) if one in (b"image 0", b"image 3")]
    return (400, {"error": f"instance {bad[0]} is no image."}) if bad else dogs(instances)


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_bad_files_are_listed_and_the_others_written(kind, images, script_module, tmp_path, capsys):
    output, missing = tmp_path / "table", str(tmp_path / "none\n.png")
    with serving(model_server(refusing)) as address:
        config = PredictConfig(model=address, format=kind, output=str(output))
        with pytest.raises(SystemExit) as ended:
            script_module.main(config, [missing, *images])
    assert ended.value.code == 3
    reason = "the server answered 400: the image is no image."
    named = missing.replace("\n", "\\n")
    assert capsys.readouterr().err.splitlines() == [
        f"{named}: image not found. Check the path.",
        *(f"{images[number]}: {reason}" for number in (0, 3)),
        "3 of 6 could not be classified; they are named above.",
    ]
    good = [images[1], images[2], images[4]]
    with open(output, newline="") as file:
        if kind == "jsonl":
            found = {one["image"]: one for one in map(json.loads, file)}
            assert list(found) == [missing, *images]
            assert [path for path, one in found.items() if "classes" in one] == good
            assert found[images[3]] == {"image": images[3], "error": reason}
        else:
            rows = list(csv.reader(file, delimiter="\t" if kind == "tsv" else ","))
            header = [["image", "class_1", "probability_1"]] * (kind == "csv")
            digits = "0.7500" if kind == "tsv" else "0.750000"
            assert rows == [*header, *([path, "dog", digits] for path in good)]


@pytest.mark.parametrize("output", ["{tmp}", "/dev/null", "{tmp}/0.png"])
def test_an_output_that_is_no_table_is_refused(output, images, script_module, tmp_path):
    config = PredictConfig(model="nowhere", output=output.format(tmp=tmp_path))
    with pytest.raises(
        UserError, match="output must be a table, neither a folder nor named like an image"
    ):
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


@pytest.mark.slow
@pytest.mark.parametrize("model", ["", "tflite/float32.tflite"])
def test_libraries_say_nothing_between_the_lines(model, exported, scripts, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    whole = tf.io.encode_jpeg(noise).numpy()
    for name, length in (("whole", len(whole)), ("head", 30), ("half", len(whole) // 2)):
        (tmp_path / f"{name}.jpg").write_bytes(whole[:length])
    command = ["predict", f"--model={exported[1] / '1' / model}", str(tmp_path)]
    ((status, output, error),) = scripts([command])
    assert status == 3
    assert len(output.splitlines()) == 1
    assert [line.partition(":")[0] for line in error.splitlines()] == [
        str(tmp_path / "half.jpg"),
        str(tmp_path / "head.jpg"),
        "2 of 3 could not be classified; they are named above.",
    ]
