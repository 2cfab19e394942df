"""Encoders from .keras files: features as they are, maps pooled, anything else refused."""

import zipfile

import keras
import numpy as np
import pytest
from keras import layers
from networks.helpers import random_images

from supcon_tf import UserError, build_encoder


def _save(path, inputs, outputs):
    keras.Model(inputs, outputs).save(path)
    return str(path)


def test_saved_features_as_they_are(tmp_path):
    trained = build_encoder("resnet8", 8, 0.25)
    trained.save(tmp_path / "a.keras")
    encoder = build_encoder(str(tmp_path / "a.keras"), 8)
    images = random_images(8)
    np.testing.assert_array_equal(encoder(images), trained(images))
    assert [layer.name for layer in encoder.layers] == [layer.name for layer in trained.layers]
    encoder.save(tmp_path / "again.keras")
    again = build_encoder(str(tmp_path / "again.keras"), 8)
    np.testing.assert_array_equal(again(images), trained(images))


def test_saved_after_training_with_an_optimizer(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(2)])
    model.compile("adam", "mse")
    model.fit(random_images(8), np.zeros((2, 2)), verbose=0)
    model.save(tmp_path / "a.keras")
    encoder = build_encoder(str(tmp_path / "a.keras"), 8)
    images = random_images(8)
    np.testing.assert_array_equal(encoder(images), model(images))
    assert len(encoder.weights) == 2


def test_saved_feature_map_is_pooled(tmp_path):
    images = keras.Input((None, None, 3))
    path = _save(tmp_path / "a.keras", images, layers.Conv2D(5, 3, strides=2)(images))
    encoder = build_encoder(path, 9)
    assert encoder.input_shape == (None, 9, 9, 3)
    assert encoder.output_shape == (None, 5)
    batch = random_images(9)
    maps = keras.saving.load_model(path)(batch).numpy()
    assert maps.shape == (2, 4, 4, 5)
    np.testing.assert_allclose(encoder(batch), maps.mean(axis=(1, 2)), rtol=1e-5, atol=1e-7)
    encoder.save(tmp_path / "again.keras")
    again = build_encoder(str(tmp_path / "again.keras"), 9)
    np.testing.assert_array_equal(again(batch), encoder(batch))


@pytest.mark.parametrize("kind", ["list", "dictionary"])
def test_saved_with_its_input_in_a(kind, tmp_path):
    images = keras.Input((4, 4, 3), name="photo")
    inputs = [images] if kind == "list" else {"photo": images}
    path = _save(tmp_path / "a.keras", inputs, layers.Flatten()(images))
    batch = random_images(4)
    encoder = build_encoder(path, 4)
    np.testing.assert_array_equal(encoder(batch), batch.reshape(2, -1))


def test_saved_in_half_precision(tmp_path):
    images = keras.Input((4, 4, 3))
    output = layers.Dense(3, dtype="mixed_bfloat16")(layers.Flatten()(images))
    encoder = build_encoder(_save(tmp_path / "a.keras", images, output), 4)
    assert output.dtype == "bfloat16"
    assert encoder.output.dtype == "float32"
    assert encoder(random_images(4)).dtype == "float32"


@pytest.mark.parametrize(
    ("inputs", "received"),
    [
        (keras.Input((16, 16, 3)), "float32 (None, 16, 16, 3)"),
        (keras.Input((8, 16, 3)), "float32 (None, 8, 16, 3)"),
        (keras.Input((8, 8, 1)), "float32 (None, 8, 8, 1)"),
        (keras.Input((192,)), "float32 (None, 192)"),
        (keras.Input((8, 8, 3), dtype="uint8"), "uint8 (None, 8, 8, 3)"),
        (keras.Input(batch_shape=(4, 8, 8, 3)), "float32 (4, 8, 8, 3)"),
    ],
)
def test_refuses_saved_models_with_another_input(tmp_path, inputs, received):
    path = _save(tmp_path / "a.keras", inputs, layers.Flatten(dtype="float32")(inputs))
    with pytest.raises(UserError) as caught:
        build_encoder(path, 8)
    message = str(caught.value)
    assert f"{path} must have one input, float [None, 8, 8, 3]" in message
    assert message.endswith(f"Received: ['{received}'].")


def test_refuses_saved_models_with_two_inputs(tmp_path):
    inputs = [keras.Input((8, 8, 3)) for _ in range(2)]
    path = _save(tmp_path / "a.keras", inputs, layers.Flatten()(layers.Add()(inputs)))
    with pytest.raises(UserError, match="must have one input.*8, 3.', 'float32 .None, 8, 8, 3"):
        build_encoder(path, 8)


@pytest.mark.parametrize(
    ("outputs", "received"),
    [
        (lambda x: {"features": layers.Flatten()(x)}, "{'features': 'float32 (None, 192)'}"),
        (lambda x: [layers.Flatten()(x), x], "['float32 (None, 192)', 'float32 (None, 8, 8, 3)']"),
        (lambda x: layers.Reshape((64, 3))(x), "float32 (None, 64, 3)"),
        (lambda x: keras.ops.cast(layers.Flatten()(x), "int32"), "int32 (None, 192)"),
    ],
)
def test_refuses_saved_models_with_another_output(tmp_path, outputs, received):
    inputs = keras.Input((8, 8, 3))
    path = _save(tmp_path / "a.keras", inputs, outputs(inputs))
    with pytest.raises(UserError) as caught:
        build_encoder(path, 8)
    message = str(caught.value)
    assert f"{path} must have one output, float [B, F] or [B, H, W, C]" in message
    assert message.endswith(f"Received: {received}.")


def test_refuses_a_python_lambda(tmp_path):
    images = keras.Input((8, 8, 3))
    flat = layers.Flatten()(layers.Lambda(lambda x: 2 * x)(images))
    path = _save(tmp_path / "a.keras", images, flat)
    with pytest.raises(UserError, match="cannot be loaded.*Python lambda. Received: '.*a.keras'"):
        build_encoder(path, 8)


def test_refuses_a_size_too_small_for_a_saved_model(tmp_path):
    images = keras.Input((None, None, 3))
    path = _save(tmp_path / "a.keras", images, layers.Conv2D(5, 9)(images))
    # Keras 3.12 lets a convolution put out nothing; later ones raise.
    with pytest.raises(UserError, match="cannot take images of 8 pixels: |must have one output"):
        build_encoder(path, 8)


@pytest.mark.parametrize("dropped", ["config.json", "model.weights.h5"])
def test_refuses_incomplete_files(tmp_path, dropped):
    build_encoder("resnet8", 8, 0.25).save(tmp_path / "whole.keras")
    path = str(tmp_path / "a.keras")
    with zipfile.ZipFile(tmp_path / "whole.keras") as whole, zipfile.ZipFile(path, "w") as part:
        for member in whole.namelist():
            if member != dropped:
                part.writestr(member, whole.read(member))
    with pytest.raises(UserError, match="the encoder cannot be loaded from .*Received: '.*a.keras"):
        build_encoder(path, 8)
