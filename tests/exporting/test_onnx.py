"""ONNX: what is written, what it computes, and what is said where its packages are missing.

The tests that write a model are skipped where the extra `onnx` is not installed.
"""

import hashlib
import importlib.util
import json
import shutil

import numpy as np
import pytest
from conftest import write_images

import supcon_tf
from supcon_tf import AddClassConfig, ExportConfig, PredictConfig, UserError, load_bundle
from supcon_tf.exporting.comparing import check_exports


@pytest.fixture(scope="module")
def onnx_export(exported, tmp_path_factory):
    """Scores and version directory of an export with an ONNX model."""
    for package in ("onnx", "onnxruntime", "tf2onnx"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("models")
    config = exported[2].replace(saved_models_dir=folder, formats="saved_model,onnx")
    return supcon_tf.export(config), folder / "digits/1"


@pytest.fixture
def digit_files(digits, tmp_path):
    for number, (encoded, _) in enumerate(digits.test.records().take(5)):
        (tmp_path / f"{number}.png").write_bytes(encoded.numpy())
    return [str(tmp_path / f"{number}.png") for number in range(5)]


def test_the_onnx_model_agrees_with_keras_in_a_fresh_process(onnx_export):
    scores, bundle = onnx_export
    found = scores["onnx"]
    assert found["max_difference"] < 1e-5
    assert found["top1"] == found["model_top1"]
    assert found["bytes"] == (bundle / "model.onnx").stat().st_size
    assert found["ms"] > 0
    assert scores["failed"] == {}
    assert "| onnx " in (bundle / "MODEL_CARD.md").read_text()


def test_the_onnx_model_says_what_it_is_and_what_it_takes(onnx_export):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(onnx_export[1] / "model.onnx"))
    (images,) = session.get_inputs()
    assert (images.name, images.type, images.shape[1:]) == ("images", "tensor(float)", [8, 8, 3])
    assert isinstance(images.shape[0], str)  # Any number of them.
    assert {one.name for one in session.get_outputs()} == {"probabilities", "embeddings"}
    described = session.get_modelmeta().custom_metadata_map
    assert json.loads(described["class_names"]) == list("0123456789")
    assert described["name"] == "digits"
    assert "float32 from 0 to 1" in described["input"]
    batch = np.random.default_rng(0).random((3, 8, 8, 3), np.float32)
    expected = load_bundle(onnx_export[1]).classify(batch)
    for name in ("probabilities", "embeddings"):
        (found,) = session.run([name], {"images": batch})
        np.testing.assert_allclose(found, expected[name], atol=1e-5)


def test_predictions_of_the_file_are_those_of_its_bundle(onnx_export, digit_files, tmp_path):
    _, bundle = onnx_export
    alone = tmp_path / "alone.onnx"
    alone.write_bytes((bundle / "model.onnx").read_bytes())
    expected = list(supcon_tf.predict(PredictConfig(model=bundle), digit_files))
    for model in (bundle / "model.onnx", alone):
        found = list(supcon_tf.predict(PredictConfig(model=model), digit_files))
        assert [one["classes"] for one in found] == [one["classes"] for one in expected]
        for one, other in zip(found, expected, strict=True):
            assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


def test_a_damaged_file_without_its_bundle_is_refused(onnx_export, digit_files, tmp_path):
    _, bundle = onnx_export
    content = (bundle / "model.onnx").read_bytes()
    middle = len(content) // 2  # Among the weights: it would compute something else.
    flipped = content[:middle] + bytes([content[middle] ^ 64]) + content[middle + 1 :]
    alone = tmp_path / "alone.onnx"
    for damaged in (flipped, content[:1000], content[:-1], content + b"\0", b""):
        alone.write_bytes(damaged)
        with pytest.raises(UserError, match="alone.onnx is damaged, or is not an ONNX model"):
            supcon_tf.predict(PredictConfig(model=alone), digit_files)


def test_onnx_itself_finds_the_digest_in_the_metadata(onnx_export):
    onnx = pytest.importorskip("onnx")
    content = (onnx_export[1] / "model.onnx").read_bytes()
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model)
    entry = model.metadata_props.pop()
    assert entry.key == "model_sha256"
    assert entry.value == hashlib.sha256(model.SerializeToString()).hexdigest()


@pytest.mark.slow
def test_added_classes_are_in_the_onnx_model_too(onnx_export, tmp_path):
    _, bundle = onnx_export
    shutil.copytree(bundle, tmp_path / "digits/1")
    write_images(tmp_path / "new", ["noise"], 10, size=(8, 8))
    config = AddClassConfig(model=tmp_path / "digits", images=tmp_path / "new", min_top1=0)
    scores = supcon_tf.add_class(config)
    assert scores["onnx"]["max_difference"] < 1e-5
    assert (tmp_path / "digits/2/model.onnx").is_file()


def test_a_changed_file_in_a_bundle_is_refused(tmp_path, digit_files):
    bundle = tmp_path / "1"
    bundle.mkdir()
    (bundle / "model.onnx").write_bytes(b"model")
    (bundle / "SHA256SUMS").write_text(f"{'0' * 64}  model.onnx\n")
    with pytest.raises(UserError, match="SHA-256 of model.onnx does not match"):
        supcon_tf.predict(PredictConfig(model=bundle / "model.onnx"), digit_files)


def test_an_onnx_model_that_differs_is_left_out(tmp_path, capsys):
    good = {"model_top1": 0.9, "top1": 0.9, "max_difference": 1e-6}
    for difference, kept in ((1e-4, True), (2e-4, False)):
        (tmp_path / "model.onnx").touch()
        scores = {"saved_model": {**good}, "onnx": {**good, "max_difference": difference}}
        check_exports(tmp_path, {**scores, "failed": {}}, 1e-4, 0.01)
        assert (tmp_path / "model.onnx").exists() == kept
    assert "left out onnx: differs from its model by 2.00e-04" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "tf2onnx"])
def test_a_missing_package_is_named_before_any_work(missing, tmp_path, monkeypatch):
    there = importlib.util.find_spec("json")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else there
    )
    config = ExportConfig(run_dir=tmp_path / "none", formats="saved_model,onnx")
    message = f"the format onnx needs the package {missing}.*pip install 'supcon_tf\\[onnx\\]'"
    with pytest.raises(UserError, match=message):
        supcon_tf.export(config)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="no pretrained encoder|not found|no run"):
        supcon_tf.export(config.replace(formats="saved_model"))


def test_prediction_without_onnx_runtime_names_it(tmp_path, digit_files, monkeypatch):
    (tmp_path / "m.onnx").write_bytes(b"model")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="m.onnx needs the package onnxruntime"):
        supcon_tf.predict(PredictConfig(model=tmp_path / "m.onnx"), digit_files)
