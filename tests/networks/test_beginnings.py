"""Weights to begin with: ImageNet's, those of a keras_hub preset, those of another run."""

import importlib.machinery
import importlib.util
import shutil
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.src.utils import file_utils
from networks.helpers import application, random_images

import supcon_tf
from supcon_tf import PretrainConfig, UserError, build_encoder
from supcon_tf.networks.copies import training_copy
from supcon_tf.networks.encoders import check_encoder
from supcon_tf.networks.initial import take_weights
from supcon_tf.stages.building import encoder_of
from supcon_tf.stages.run_directory import RunDirectory


def test_imagenet_weights_are_those_that_keras_downloads(tmp_path, monkeypatch):
    bare = application("MobileNetV2", 32)
    bare.save_weights(tmp_path / "published.weights.h5")
    asked = []

    def get_file(fname, origin, **arguments):
        asked.append(origin)
        return str(tmp_path / "published.weights.h5")

    monkeypatch.setattr(file_utils, "get_file", get_file)
    encoder = build_encoder("applications:MobileNetV2", 32, weights="imagenet")
    for ours, theirs in zip(encoder.get_weights(), bare.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(asked) == 1
    assert "no_top" in asked[0]


def test_without_a_network_the_line_says_where_the_file_can_be_put(monkeypatch):
    monkeypatch.setenv("KERAS_HOME", "/keras")

    def get_file(fname, origin, **arguments):
        raise Exception(f"URL fetch failure on {origin}: None -- [Errno -2] Name not known")

    monkeypatch.setattr(file_utils, "get_file", get_file)
    with pytest.raises(UserError) as caught:
        build_encoder("applications:MobileNetV3Small", 32, weights="imagenet")
    message = str(caught.value)
    assert message.startswith("the ImageNet weights of applications:MobileNetV3Small could not be")
    assert "Put weights_mobilenet_v3_small_224_1.0_float_no_top" in message
    assert message.endswith(" into /keras/models by hand, or pass its path as --encoder_weights.")
    assert "\n" not in message


def test_images_too_small_for_the_imagenet_weights_are_one_line(monkeypatch):
    monkeypatch.setattr(file_utils, "get_file", lambda *_, **__: pytest.fail("downloaded"))
    with pytest.raises(UserError, match="cannot be built for images of 31 pixels") as caught:
        build_encoder("applications:MobileNetV2", 31, weights="imagenet")
    assert "\n" not in str(caught.value)


@pytest.fixture
def hub(monkeypatch):
    """A keras_hub whose one backbone and scaling are known."""

    def backbone(preset, image_shape):
        if preset != "tiny":
            raise ValueError(f"Unknown preset identifier. Received: {preset}")
        images = keras.Input(image_shape)
        norm = keras.layers.BatchNormalization()(keras.layers.Conv2D(6, 3, strides=2)(images))
        found.made = type("Backbone", (keras.Model,), {})(images, norm)
        return found.made

    found = types.ModuleType("keras_hub")
    found.__spec__ = importlib.machinery.ModuleSpec("keras_hub", None)
    converter = types.SimpleNamespace(scale=[0.1, 0.2, 0.3], offset=[-1.0, 0.0, 2.0])
    found.models = types.SimpleNamespace(Backbone=types.SimpleNamespace(from_preset=backbone))
    found.layers = types.SimpleNamespace(
        ImageConverter=types.SimpleNamespace(from_preset=lambda preset: converter)
    )
    monkeypatch.setitem(sys.modules, "keras_hub", found)
    return found


def test_a_preset_sees_the_pixels_that_it_was_trained_for(hub, tmp_path):
    encoder = build_encoder("keras_hub:tiny", 8)
    images = random_images(8)
    seen = 255 * images * np.array([0.1, 0.2, 0.3]) + np.array([-1.0, 0.0, 2.0])
    expected = np.asarray(hub.made(seen.astype(np.float32))).mean(axis=(1, 2))
    np.testing.assert_allclose(encoder(images), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(training_copy(encoder)(images), expected, rtol=1e-4, atol=1e-5)
    encoder.save(tmp_path / "encoder.keras")
    again = keras.saving.load_model(tmp_path / "encoder.keras", custom_objects={})
    np.testing.assert_array_equal(again(images), encoder(images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("keras_hub:other", 8), "keras_hub:other cannot be loaded .* 8 pixels: Unknown preset"),
        (("keras_hub:", 8), "encoder must name a preset after keras_hub:"),
        (("keras_hub:tiny", 8, 0.5), "width_multiplier applies to resnet8.* Received: 0.5"),
        (("keras_hub:tiny", 8, 1.0, "a.h5"), "must be empty if the encoder is a preset"),
    ],
)
def test_a_preset_that_cannot_be_used_is_one_line(hub, arguments, message):
    with pytest.raises(UserError, match=message):
        build_encoder(*arguments)


def test_without_keras_hub_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package keras_hub. .*supcon_tf\[hub\]"):
        check_encoder("keras_hub:resnet_18_imagenet")


@pytest.fixture
def longer(finished_run, small_config, tmp_path):
    """A training that begins from the finished one."""
    return PretrainConfig(
        **{**small_config, "epochs": 20},
        initial_run=str(finished_run),
        run_dir=str(tmp_path / "longer"),
    )


def test_a_training_begins_from_the_encoder_of_another_run(longer, finished_run, digits):
    kept = keras.saving.load_model(finished_run / "encoder.keras", compile=False)
    for size in (8, 12):  # Weights do not depend on the size of the images.
        encoder = encoder_of(longer, size)
        for ours, theirs in zip(encoder.get_weights(), kept.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    with RunDirectory(longer.run_dir) as run:
        run.begin("pretrain", longer, digits.describe())
    manifest = RunDirectory(longer.run_dir)._read("manifest.json")["pretrain"]
    assert manifest["initial_run"]["path"] == str(finished_run)
    assert len(manifest["initial_run"]["encoder_sha256"]) == 64


def test_another_encoder_in_the_initial_run_is_noticed_on_resuming(longer, finished_run, digits):
    initial = Path(longer.run_dir).parent / "initial"
    shutil.copytree(finished_run, initial)
    config = longer.replace(initial_run=str(initial))
    with RunDirectory(config.run_dir) as run:
        run.begin("pretrain", config, digits.describe())
    with RunDirectory(config.run_dir) as run:
        run.begin("pretrain", config.replace(resume=True), digits.describe())
        shutil.copy(initial / "classifier.keras", initial / "encoder.keras")
        with pytest.raises(UserError, match="encoder of initial_run .*initial changed since"):
            run.begin("pretrain", config.replace(resume=True), digits.describe())


def test_a_training_ends_well_whose_initial_run_goes_meanwhile(longer, finished_run, capsys):
    initial = Path(longer.run_dir).parent / "initial"
    shutil.copytree(finished_run, initial)
    config = longer.replace(initial_run=str(initial), epochs=2, warmup_epochs=0)
    supcon_tf.pretrain(config, stop_when=lambda history: bool(shutil.rmtree(initial)))
    assert RunDirectory(config.run_dir).has_finished("pretrain")
    assert (Path(config.run_dir) / "pictures/embeddings.png").is_file()
    assert "no map of the untrained encoder: " in capsys.readouterr().err


def test_an_encoder_of_another_kind_takes_no_weights(finished_run):
    with pytest.raises(
        UserError, match="does not fit this encoder: .* parameters there, .* here. Pass"
    ):
        take_weights(build_encoder("resnet8", 8, 0.25), finished_run / "encoder.keras")


def test_more_epochs_of_a_finished_run_are_refused_with_the_way_to_have_them(finished_run, longer):
    config = longer.replace(initial_run="", run_dir=str(finished_run), resume=True)
    with pytest.raises(UserError, match="epochs was 10. Received: 20. The schedule") as caught:
        RunDirectory(str(finished_run)).check("pretrain", config)
    assert f"--initial_run={finished_run}" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_weights": "a.h5"}, "initial_run and encoder_weights are mutually exclusive"),
        ({"run_dir": "runs/a"}, "initial_run must not be run_dir itself"),
    ],
)
def test_initial_runs_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        PretrainConfig(initial_run="runs/a", **changes)
