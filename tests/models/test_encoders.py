import keras
import numpy as np
import pytest

from supcon_tf import UserError, build_encoder


@pytest.mark.parametrize(
    ("name", "parameters", "features"),
    [
        # He et al. 2016 as torchvision counts them, without the classifier's: 512 x 1000 + 1000
        # (18, 34) or 2048 x 1000 + 1000 off; batch norm's running statistics are not trainable.
        ("resnet18", 11_689_512 - 513_000, 512),
        ("resnet34", 21_797_672 - 513_000, 512),
        ("resnet50", 25_557_032 - 2_049_000, 2048),
        ("resnet101", 44_549_160 - 2_049_000, 2048),
    ],
)
def test_parameters_equal_the_published_ones(name, parameters, features):
    encoder = build_encoder(name, 224)
    trainable = sum(int(np.prod(weight.shape)) for weight in encoder.trainable_weights)
    assert trainable == parameters
    assert encoder.output_shape == (None, features)


def test_stems_differ_in_resolution():
    small, large = build_encoder("resnet18", 64), build_encoder("resnet18", 128)
    assert small.get_layer("stage4_block2_add").output.shape == (None, 8, 8, 512)
    assert large.get_layer("stage4_block2_add").output.shape == (None, 4, 4, 512)


def test_width_multiplier_scales_channels():
    assert build_encoder("resnet8", 8, 0.25).output_shape == (None, 16)
    assert build_encoder("resnet50", 32, 0.5).output_shape == (None, 1024)


def test_blocks_start_as_the_identity():
    encoder = build_encoder("resnet8", 8)
    inside = keras.Model(
        encoder.input,
        [encoder.get_layer("stem_relu").output, encoder.get_layer("stage1_block1_relu").output],
    )
    before, after = inside.predict(np.random.default_rng(0).random((2, 8, 8, 3)), verbose=0)
    np.testing.assert_array_equal(before, after)


def test_saved_encoder_loads_from_keras_alone(tmp_path, monkeypatch):
    encoder = build_encoder("resnet8", 8, 0.25)
    encoder.save(tmp_path / "encoder.keras")
    images = np.random.default_rng(0).random((2, 8, 8, 3))
    again = keras.saving.load_model(tmp_path / "encoder.keras", custom_objects={})
    np.testing.assert_array_equal(again(images), encoder(images))
    config = (tmp_path / "encoder.keras").read_bytes()
    assert b"supcon_tf" not in config


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("resnet9", 32, "encoder must be one of resnet8, .*Received: 'resnet9'"),
        ("resnet18", 7, "resnet18 needs images of 8 pixels or more. Received: image_size_px=7"),
        ("resnet8", 3, "needs images of 4 pixels"),
    ],
)
def test_refuses_wrong_encoders(name, size, message):
    with pytest.raises(UserError, match=message):
        build_encoder(name, size)
