import json
import re
import zipfile

import ai_edge_litert.interpreter as litert
import keras
import numpy as np
import pytest
import tensorflow as tf

import supcon_tf
from supcon_tf import ExportConfig, UserError, load_bundle
from supcon_tf.exporting import comparing
from supcon_tf.exporting.card import model_card
from supcon_tf.exporting.comparing import check_exports
from supcon_tf.exporting.layout import find_versions
from supcon_tf.exporting.tflite import PRECISIONS, read_metadata


def test_bundle_has_the_serving_layout(exported):
    _, folder, _ = exported
    assert find_versions(folder) == [1]
    found = {path.name for path in (folder / "1").iterdir()}
    wanted = "saved_model.pb variables tflite index labels.txt metadata.json metrics.json"
    assert {*wanted.split(), "MODEL_CARD.md", "SHA256SUMS"} <= found
    assert not list(folder.glob(".writing*"))
    assert (folder / "1/labels.txt").read_text().split() == list("0123456789")


def test_every_export_agrees_with_keras_in_a_fresh_process(exported):
    scores, _, _ = exported
    assert scores["images"] == 450
    assert scores["saved_model"]["max_difference"] < 1e-5
    assert scores["tflite_float32"]["max_difference"] < 1e-5
    for name in ("saved_model", "tflite_float32"):
        assert scores[name]["top1"] == scores[name]["model_top1"]
    for name in ("tflite_float16", "tflite_dynamic", "tflite_int8"):
        assert abs(scores[name]["top1"] - scores[name]["model_top1"]) <= 0.01
        assert scores[name]["max_difference"] > 0
    sizes = [scores[f"tflite_{name}"]["bytes"] for name in ("float32", "float16", "int8")]
    assert sizes[0] > 1.4 * sizes[1] > 1.4 * sizes[2]
    assert all(scores[name]["ms"] > 0 for name in ("saved_model", "tflite_int8"))


def test_int8_model_takes_and_gives_uint8(exported):
    _, folder, _ = exported
    interpreter = litert.Interpreter(model_path=str(folder / "1/tflite/int8.tflite"))
    run = interpreter.get_signature_runner("classify")
    source, outputs = run.get_input_details()["images"], run.get_output_details()
    assert source["dtype"] == np.uint8
    assert {name: detail["dtype"] for name, detail in outputs.items()} == {
        "probabilities": np.uint8,
        "embeddings": np.uint8,
    }
    # The pixel itself: scale 1/255 and no offset.
    np.testing.assert_allclose(source["quantization"], (1 / 255, 0), rtol=1e-3)


def test_tflite_models_say_what_they_are(exported):
    for path in (exported[1] / "1/tflite").iterdir():
        metadata = read_metadata(path, path.read_bytes())
        assert metadata["precision"] == path.stem
        wanted = "uint8 from 0 to 255" if path.stem == "int8" else "float32 from 0 to 1"
        assert wanted in metadata["input"]
        assert metadata["class_names"] == list("0123456789")
        assert (metadata["image_size_px"], metadata["version"]) == (8, 1)


@pytest.mark.parametrize(
    "content",
    ["5", "null", '["class_names", "image_size_px"]', "[" * 200_000]
    + [
        json.dumps({"class_names": names, "image_size_px": size})
        for names, size in [("0123", 8), ([1, 2], 8), ([], 8), (["a", "b"], "8"), (["a"], 8.0)]
    ]
    + [" " * (2**24 + 1) + "{}"],
)
def test_odd_metadata_of_a_tflite_model_is_refused(tmp_path, content):
    with zipfile.ZipFile(tmp_path / "x.tflite", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("supcon_tf.json", content)
    with pytest.raises(
        UserError, match="x.tflite is damaged, or is not a TFLite model of a bundle"
    ):
        read_metadata(tmp_path / "x.tflite", (tmp_path / "x.tflite").read_bytes())


def test_metadata_tells_how_it_was_made(exported):
    _, folder, _ = exported
    metadata = json.loads((folder / "1/metadata.json").read_text())
    assert (metadata["name"], metadata["version"], metadata["neighbors"]) == ("digits", 1, 10)
    assert metadata["settings"]["pretrain"]["method"] == "supcon_out"
    assert metadata["training"]["pretrain"]["dataset"]["train"]["examples"] == 1347
    metrics = json.loads((folder / "1/metrics.json").read_text())
    assert metrics["export"]["tflite_int8"]["top1"] > 0.5
    assert 0 <= metrics["export"]["index"]["held_out_above_0.95"] < 0.5


def test_the_card_is_for_people(exported):
    scores, folder, _ = exported
    card = (folder / "1/MODEL_CARD.md").read_text()
    headings = ("What it does", "Data", "Recipe", "Scores", "Calibration", "Limits")
    assert all(f"\n## {heading}\n" in card for heading in headings)
    assert "temperature is 1, not fitted" in card
    assert f"{100 * scores['tflite_int8']['top1']:.1f} %" in card
    assert "| training |  1,347 |" in card
    assert all(name in card for name in ("pretrain: batch_size ", "classifier: learning_rate "))


def test_the_card_names_the_worst_classes(exported):
    bundle = load_bundle(exported[1] / "1")
    per_class = {str(digit): 0.9 for digit in range(10)} | {"7": 0.0, "3": None}
    test = {**bundle.metrics["test"], "per_class": per_class}
    metrics = {**bundle.metrics, "test": {**test, "classes": {"7": {"support": 4}}}}
    assert "Lowest top-1 by class: '7' 0.0 % of 4, '0' 90.0 %" in model_card(
        bundle.metadata, metrics
    )


@pytest.mark.slow
def test_a_validation_set_calibrates_the_model(small_config, tmp_path):
    run_dir = str(tmp_path / "run")
    supcon_tf.pretrain(
        supcon_tf.PretrainConfig(
            **{**small_config, "epochs": 2}, run_dir=run_dir, validation_fraction=0.2
        )
    )
    supcon_tf.train_classifier(supcon_tf.ClassifierConfig(run_dir=run_dir, epochs=30))
    config = ExportConfig(
        run_dir=run_dir,
        saved_models_dir=str(tmp_path / "models"),
        name="m",
        index_images=200,
        thumbnails=False,
        neighbors=3,
        formats="saved_model,tflite_float32",
    )
    scores = supcon_tf.export(config)
    calibration = scores["calibration"]
    assert calibration["fitted_on"] == "validation"
    assert calibration["temperature"] != 1
    assert calibration["nll"] < calibration["nll_uncalibrated"]
    bundle = load_bundle(tmp_path / "models/m/1")
    assert bundle.metadata["temperature"] == calibration["temperature"]
    assert (len(bundle.index_images()), bundle.num_neighbors) == (200, 3)
    assert bundle.thumbnail(0) is None
    assert scores["index"]["images"] == 200
    # The Keras classifier's logits over the temperature.
    model = keras.saving.load_model(tmp_path / "run/classifier.keras", compile=False)
    images = np.random.default_rng(0).random((3, 8, 8, 3), np.float32)
    expected = tf.nn.softmax(model(images)["logits"] / calibration["temperature"])
    np.testing.assert_allclose(bundle.classify(images)["probabilities"], expected, atol=1e-5)


def test_a_bundle_without_an_index_after_one_with_more_classes(exported, tmp_path, capsys):
    older = tmp_path / "digits/1"
    older.mkdir(parents=True)
    (older / "labels.txt").write_text("\n".join([*"0123456789", "a comma, a"]) + "\n", "utf-8")
    config = exported[2].replace(
        saved_models_dir=str(tmp_path), index_images=0, formats="saved_model"
    )
    scores = supcon_tf.export(config)
    said = "lacks classes of version 1, which servers will then no longer predict: 'a comma, a'. "
    assert said in capsys.readouterr().err
    bundle = load_bundle(tmp_path / "digits")
    assert bundle.path.name == "2"
    assert scores["index"] is None
    assert bundle.num_neighbors == 0
    assert "neighbors" not in bundle.model.signatures
    assert not (bundle.path / "index").exists()
    assert not (bundle.path / "held_out.npz").exists()
    assert not (bundle.path / "tflite").exists()
    with pytest.raises(UserError, match="no index of neighbours"):
        bundle.nearest(np.zeros((1, 32), np.float32))
    assert "holds no training images" in (bundle.path / "MODEL_CARD.md").read_text()


def test_versions_are_never_overwritten(exported):
    _, folder, config = exported
    with pytest.raises(UserError, match="1 exists; a version is never overwritten"):
        supcon_tf.export(config.replace(version=1))
    assert find_versions(folder) == [1]


@pytest.mark.parametrize("difference", [1.01e-4, float("nan")])
def test_a_saved_model_that_differs_is_refused(difference, tmp_path):
    scores = {"failed": {}, "saved_model": {"max_difference": difference}}
    with pytest.raises(UserError, match="SavedModel differs from its model by .* Nothing was exp"):
        check_exports(tmp_path, scores, 1e-4, 0.01)
    scores["saved_model"]["max_difference"] = 1e-4
    check_exports(tmp_path, scores, 1e-4, 0.01)


@pytest.mark.parametrize(
    ("name", "found", "said"),
    [
        ("float32", {"max_difference": 0.0401}, "differs from its model by 4.01e-02, above max_d"),
        ("float32", {"max_difference": float("nan")}, "differs from its model by nan"),
        ("int8", {"top1": 0.8}, "loses 0.100 of top-1, above max_tflite_loss=0.01"),
    ],
)
def test_a_bad_tflite_model_is_left_out(name, found, said, tmp_path, capsys):
    (tmp_path / "tflite").mkdir()
    good = {"model_top1": 0.9, "top1": 0.9, "max_difference": 1e-6}
    scores = {f"tflite_{precision}": {**good} for precision in PRECISIONS}
    for precision in PRECISIONS:
        (tmp_path / f"tflite/{precision}.tflite").write_text("model")
    scores |= {"saved_model": {**good}, "failed": {}}
    check_exports(tmp_path, scores, 1e-4, 0.01)
    scores[f"tflite_{name}"] |= found
    check_exports(tmp_path, scores, 1e-4, 0.2)
    assert (tmp_path / f"tflite/{name}.tflite").exists() == (name == "int8")
    (tmp_path / f"tflite/{name}.tflite").touch()
    capsys.readouterr()
    check_exports(tmp_path, scores, 1e-4, 0.01)
    left = {path.stem for path in (tmp_path / "tflite").iterdir()}
    assert left == {*PRECISIONS} - {name}
    assert scores[f"tflite_{name}"]["left_out"]
    assert f"left out tflite_{name}: " in (printed := capsys.readouterr().err)
    assert said in printed


@pytest.fixture
def crashing(monkeypatch, tmp_path):
    """Makes the process that checks a format kill itself, as LiteRT does over some models."""

    def crash(name, *, raising=""):
        """Raises an error for the format `raising`, and kills itself at the end of `name`."""
        lines = [
            "import os, runpy, signal, sys",
            f"if {raising!r} in sys.argv: raise RuntimeError('no operator')",
            f"runpy.run_path({str(comparing._RELOAD)!r}, run_name='__main__')",
            f"if {name!r} in sys.argv: os.kill(os.getpid(), signal.SIGABRT)",
        ]
        program = tmp_path / "crashing.py"
        program.write_text("\n".join(lines))
        monkeypatch.setattr(comparing, "_RELOAD", program)

    return crash


@pytest.mark.slow
def test_formats_whose_check_crashes_are_left_out(exported, tmp_path, crashing, capsys):
    formats = "saved_model,tflite_float16,tflite_int8,tflite_float32"
    config = exported[2].replace(saved_models_dir=str(tmp_path / "models"), formats=formats)
    crashing("tflite_int8", raising="tflite_float32")
    scores = supcon_tf.export(config)
    printed = capsys.readouterr().err
    bundle = load_bundle(tmp_path / "models/digits/1", "float16")
    card = (bundle.path / "MODEL_CARD.md").read_text()
    for name, said in (
        ("tflite_int8", "was killed by signal 6 "),
        ("tflite_float32", "could not be run .RuntimeError: no operator"),
    ):
        assert re.search(said, scores["failed"].pop(name))
        assert re.search(f"left out {name}: .*{said}", printed)
        assert re.search(f"Left out: {name.replace('_', ' ')}, as .*{said}", card)
    assert scores["failed"] == {}
    assert re.search(r"leave tflite_\w+, tflite_\w+ out of --formats to save time", printed)
    assert [path.name for path in (bundle.path / "tflite").iterdir()] == ["float16.tflite"]
    assert scores["saved_model"]["max_difference"] < 1e-5


def test_nothing_is_exported_where_the_saved_model_crashes(exported, tmp_path, crashing):
    crashing("saved_model")
    config = exported[2].replace(saved_models_dir=str(tmp_path / "models"), formats="saved_model")
    with pytest.raises(UserError, match="cannot be reloaded: .*signal 6 .*; nothing was exported"):
        supcon_tf.export(config)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    "formats",
    ["", "tflite_int8", "saved_model,int8", "saved_model,saved_model", "saved_model,,tflite_int8"],
)
def test_formats_are_names_with_commas_between(formats):
    with pytest.raises(UserError, match=f"formats must be saved_model and any of .*'{formats}'"):
        ExportConfig(formats=formats)


def test_a_run_without_classifier_or_with_a_bad_name_is_refused(finished_run, tmp_path):
    config = ExportConfig(run_dir=str(finished_run), name="../x", saved_models_dir=str(tmp_path))
    with pytest.raises(UserError, match="name must be letters.*Received: '../x'"):
        supcon_tf.export(config)
    with pytest.raises(UserError, match="no pretrained encoder"):
        supcon_tf.export(config.replace(run_dir=str(tmp_path), name="x"))
    assert list(tmp_path.iterdir()) == []
