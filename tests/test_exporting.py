import json
import shutil

import ai_edge_litert.interpreter as litert
import numpy as np
import pytest
import tensorflow as tf

import supcon_tf
from supcon_tf import ExportConfig, UserError
from supcon_tf.config import PredictConfig
from supcon_tf.exporting import _leave_out_bad_int8, versions


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved_models")
    config = ExportConfig(run_dir=str(finished_run), saved_models_dir=str(folder), name="digits")
    return supcon_tf.export(config), folder / "digits", config


def test_bundle_has_the_serving_layout(exported):
    _, folder, _ = exported
    assert versions(folder) == [1]
    found = {path.name for path in (folder / "1").iterdir()}
    wanted = "saved_model.pb variables tflite labels.txt metadata.json metrics.json"
    assert set(wanted.split()) <= found
    assert not list(folder.glob(".writing*"))
    assert (folder / "1/labels.txt").read_text().split() == list("0123456789")


def test_every_export_agrees_with_keras_in_a_fresh_process(exported):
    scores, _, _ = exported
    assert scores["images"] == 450
    assert scores["saved_model"]["max_difference"] < 1e-5
    assert scores["tflite_float32"]["max_difference"] < 1e-5
    for name in ("saved_model", "tflite_float32"):
        assert scores[name]["top1"] == scores[name]["keras_top1"]
    int8 = scores["tflite_int8"]
    assert abs(int8["top1"] - int8["keras_top1"]) <= 0.01
    assert int8["max_difference"] > 0
    assert int8["bytes"] < 0.5 * scores["tflite_float32"]["bytes"]


def test_signatures(exported, digits):
    _, folder, _ = exported
    signatures = tf.saved_model.load(str(folder / "1")).signatures
    encoded = tf.constant([encoded.numpy() for encoded, _ in digits.test.records().take(5)])
    served = signatures["serving_bytes"](encoded=encoded)
    assert {name: (value.dtype, value.shape) for name, value in served.items()} == {
        "class_id": (tf.int32, [5]),
        "class_name": (tf.string, [5]),
        "probabilities": (tf.float32, [5, 10]),
        "features": (tf.float32, [5, 32]),
    }
    names = [name.decode() for name in served["class_name"].numpy()]
    assert names == [str(index) for index in served["class_id"].numpy()]
    np.testing.assert_allclose(tf.reduce_sum(served["probabilities"], axis=1), 1, rtol=1e-5)
    raw = tf.stack([tf.io.decode_image(one, channels=3) for one in encoded])
    by_pixels = signatures["serving_default"](images=raw)["probabilities"]
    np.testing.assert_allclose(by_pixels, served["probabilities"], atol=1e-6)
    large = tf.zeros([2, 37, 50, 3], tf.uint8)
    assert signatures["serving_default"](images=large)["class_id"].shape == [2]


def test_int8_model_takes_and_gives_uint8(exported):
    _, folder, _ = exported
    interpreter = litert.Interpreter(model_path=str(folder / "1/tflite/int8.tflite"))
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert source["dtype"] == target["dtype"] == np.uint8
    # The pixel itself: scale 1/255 and no offset.
    np.testing.assert_allclose(source["quantization"], (1 / 255, 0), rtol=1e-3)


def test_metadata_tells_how_it_was_made(exported):
    _, folder, _ = exported
    metadata = json.loads((folder / "1/metadata.json").read_text())
    assert (metadata["name"], metadata["version"]) == ("digits", 1)
    assert metadata["settings"]["pretrain"]["method"] == "supcon_out"
    assert metadata["training"]["pretrain"]["dataset"]["train"]["examples"] == 1347
    metrics = json.loads((folder / "1/metrics.json").read_text())
    assert metrics["export"]["tflite_int8"]["top1"] > 0.5


def test_a_damaged_bundle_is_named(exported, digits, tmp_path):
    _, folder, _ = exported
    image = tmp_path / "digit.png"
    image.write_bytes(next(iter(digits.test.records()))[0].numpy())
    bundle = tmp_path / "model" / "1"
    shutil.copytree(folder / "1", bundle)
    config = PredictConfig(model=str(bundle.parent))
    assert len(list(supcon_tf.predict(config, [str(image)]))) == 1
    (bundle / "labels.txt").write_text("0\n1\n")
    with pytest.raises(UserError, match=r"is damaged \(labels.txt\). Export it again"):
        supcon_tf.predict(config, [str(image)])
    (bundle / "saved_model.pb").write_bytes(b"")
    with pytest.raises(UserError, match="is damaged .*Export it again"):
        supcon_tf.predict(config, [str(image)])


def test_versions_are_never_overwritten(exported):
    _, folder, config = exported
    with pytest.raises(UserError, match="1 exists; a version is never overwritten"):
        supcon_tf.export(config.replace(version=1))
    assert versions(folder) == [1]


def test_a_difference_above_the_limit_leaves_nothing(exported, tmp_path):
    _, _, config = exported
    config = config.replace(saved_models_dir=str(tmp_path), max_difference=1e-12)
    with pytest.raises(UserError, match="differs from Keras by .*; nothing was exported"):
        supcon_tf.export(config)


def test_a_bad_int8_model_is_left_out(tmp_path, capsys):
    (tmp_path / "tflite").mkdir()
    (tmp_path / "tflite/int8.tflite").write_text("bad")
    scores = {"tflite_int8": {"keras_top1": 0.9, "top1": 0.8}}
    _leave_out_bad_int8(scores, ExportConfig(max_int8_loss=0.2), tmp_path)
    assert (tmp_path / "tflite/int8.tflite").exists()
    _leave_out_bad_int8(scores, ExportConfig(), tmp_path)
    assert not (tmp_path / "tflite/int8.tflite").exists()
    assert scores["tflite_int8"]["left_out"]
    assert "loses 0.100 of top-1, above max_int8_loss=0.05" in capsys.readouterr().err


def test_a_run_without_classifier_or_with_a_bad_name_is_refused(finished_run, tmp_path):
    config = ExportConfig(run_dir=str(finished_run), name="../x", saved_models_dir=str(tmp_path))
    with pytest.raises(UserError, match="name must be letters.*Received: '../x'"):
        supcon_tf.export(config)
    with pytest.raises(UserError, match="no pretrained encoder"):
        supcon_tf.export(config.replace(run_dir=str(tmp_path), name="x"))
    assert list(tmp_path.iterdir()) == []
