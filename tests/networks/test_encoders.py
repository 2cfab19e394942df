"""Encoders by name: what is refused, what their files hold, weights to begin with."""

import zipfile

import h5py
import keras
import numpy as np
import pytest
from conftest import forbid
from networks.helpers import application, random_images

from supcon_tf import UserError, build_encoder
from supcon_tf.networks.encoders import ENCODERS, check_encoder


def test_saved_encoder_loads_from_keras_alone(tmp_path):
    encoder = build_encoder("resnet8", 8, 0.25)
    encoder.save(tmp_path / "encoder.keras")
    images = random_images(8)
    again = keras.saving.load_model(tmp_path / "encoder.keras", custom_objects={})
    np.testing.assert_array_equal(again(images), encoder(images))
    with zipfile.ZipFile(tmp_path / "encoder.keras") as archive:
        assert b"supcon_tf" not in archive.read("config.json")


def test_legacy_weights_file(tmp_path):
    # The format of Keras's published files; they are written without pooling.
    bare = application("MobileNetV2", 32)
    bare.save(tmp_path / "bare.h5")
    encoder = build_encoder("applications:MobileNetV2", 32, weights=str(tmp_path / "bare.h5"))
    for ours, theirs in zip(encoder.get_weights(), bare.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_of_a_residual_network(tmp_path):
    trained = build_encoder("resnet8", 8, 0.25)
    trained.save_weights(tmp_path / "a.weights.h5")
    encoder = build_encoder("resnet8", 8, 0.25, weights=str(tmp_path / "a.weights.h5"))
    images = random_images(8)
    np.testing.assert_array_equal(encoder(images), trained(images))
    # Convolutions do not depend on the image size.
    assert build_encoder("resnet8", 16, 0.25, str(tmp_path / "a.weights.h5")).get_weights()


@pytest.mark.parametrize(
    ("name", "size"), [("resnet14", 8), ("resnet18", 8), ("applications:MobileNetV2", 32)]
)
def test_weights_of_another_network(tmp_path, name, size):
    build_encoder("resnet8", 8).save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(UserError, match=f"weights must be {name}'s own.*Received: '.*a.weights"):
        build_encoder(name, size, weights=str(tmp_path / "a.weights.h5"))


def test_weights_that_lack_a_layer(tmp_path):
    path = str(tmp_path / "a.weights.h5")
    build_encoder("resnet8", 8).save_weights(path)
    with h5py.File(path, "a") as file:
        del file["layers/conv2d_3"]
    with pytest.raises(UserError, match="weights must be resnet8's own.*Received: '.*a.weights"):
        build_encoder("resnet8", 8, weights=path)


@pytest.mark.parametrize("name", ["a.weights.h5", "a.h5"])
def test_damaged_weights(tmp_path, name):
    (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(UserError, match=f"weights must be resnet8's own.*Received: '.*{name}'"):
        build_encoder("resnet8", 8, weights=str(tmp_path / name))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet9",), "encoder must be one of resnet8, .*Received: 'resnet9'"),
        (("",), "encoder must be one of .*a .keras file. Received: ''"),
        (
            ("applications:MobileNetV5",),
            "did you mean applications:MobileNetV2.* Received: 'applications:MobileNetV5'",
        ),
        (("applications:",), "no such model; choose one of https://keras.io/api/applications."),
        (("applications:imagenet_utils",), "no such model"),
        (("missing.keras",), "encoder not found. Received: 'missing.keras'"),
        (("applications:VGG16", 0.5), "width_multiplier applies to resnet8.*VGG16. Received: 0.5"),
        (("resnet8", 1.0, "a.ckpt"), "must be a .weights.h5 or .h5 file. Received: 'a.ckpt'"),
        (("resnet8", 1.0, "a.weights.h5"), "encoder_weights not found. Received: 'a.weights.h5'"),
        (("resnet8", 1.0, "imagenet"), "imagenet is for applications:NAME. Received: .*resnet8"),
    ],
)
def test_check_refuses(arguments, message):
    with pytest.raises(UserError, match=message):
        check_encoder(*arguments)
    name, *others = arguments
    with pytest.raises(UserError, match=message):
        build_encoder(name, 32, *others)


def test_check_refuses_settings_of_a_saved_encoder(tmp_path):
    path = tmp_path / "a.keras"
    build_encoder("resnet8", 8, 0.25).save(path)
    check_encoder(str(path))
    with pytest.raises(UserError, match=r"leave it at 1 for .*a.keras. Received: 2"):
        check_encoder(str(path), 2)
    with pytest.raises(UserError, match="weights must be empty .*Received: 'a.weights.h5'"):
        check_encoder(str(path), weights="a.weights.h5")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="damaged or not a .keras file. Received: '.*a.keras'"):
        check_encoder(str(path))


def test_check_accepts_our_own():
    for name in ENCODERS:
        check_encoder(name, width_multiplier=2.0)


@pytest.mark.parametrize("name", ["a.keras", "a.weights.h5"])
def test_a_file_that_may_not_be_read_is_not_damaged(tmp_path, monkeypatch, name):
    file = tmp_path / name
    file.touch()
    forbid(monkeypatch, file)
    encoder, weights = (str(file), "") if name.endswith(".keras") else ("resnet8", str(file))
    with pytest.raises(UserError, match=f"{name} cannot be read: Permission denied"):
        build_encoder(encoder, 8, 1.0, weights)
