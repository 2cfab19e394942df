"""Encoders from keras.applications: each sees the pixels that it was trained for."""

import inspect
import zipfile

import keras
import numpy as np
import pytest
from networks.helpers import application, random_images

from supcon_tf import UserError, build_encoder
from supcon_tf.networks.application_names import application_name
from supcon_tf.networks.encoders import check_encoder

# One of each family, and the least size that it takes. The slow ones are those that share their
# preprocessing with a faster one; together they take half a minute.
_SLOW = pytest.mark.slow
_FAMILIES = [
    ("DenseNet121", "densenet", 32),
    ("MobileNet", "mobilenet", 32),
    ("MobileNetV3Small", "mobilenet_v3", 32),
    ("VGG16", "vgg16", 32),
    pytest.param("ConvNeXtTiny", "convnext", 32, marks=_SLOW),
    pytest.param("EfficientNetB0", "efficientnet", 32, marks=_SLOW),
    pytest.param("EfficientNetV2B0", "efficientnet_v2", 32, marks=_SLOW),
    pytest.param("InceptionResNetV2", "inception_resnet_v2", 75, marks=_SLOW),
    pytest.param("InceptionV3", "inception_v3", 75, marks=_SLOW),
    pytest.param("MobileNetV2", "mobilenet_v2", 32, marks=_SLOW),
    pytest.param("NASNetMobile", "nasnet", 32, marks=_SLOW),
    pytest.param("ResNet50", "resnet", 32, marks=_SLOW),
    pytest.param("ResNet50V2", "resnet_v2", 32, marks=_SLOW),
    pytest.param("VGG19", "vgg19", 32, marks=_SLOW),
    pytest.param("Xception", "xception", 71, marks=_SLOW),
]


@pytest.mark.parametrize(("name", "module", "size"), _FAMILIES)
def test_application_sees_what_it_expects(tmp_path, name, module, size):
    bare = application(name, size, pooling="avg")
    weights = str(tmp_path / "bare.weights.h5")
    bare.save_weights(weights)
    encoder = build_encoder(f"applications:{name}", size, weights=weights)
    images = random_images(size)
    preprocessed = getattr(keras.applications, module).preprocess_input(255 * images)
    # One call for both: the deeper networks take seconds for each.
    expected, unprocessed = np.split(bare(np.concatenate([preprocessed, images])), 2)
    features, reversed_channels = np.split(encoder(np.concatenate([images, images[..., ::-1]])), 2)
    tolerance = 1e-3 * np.abs(expected).max()
    np.testing.assert_allclose(features, expected, rtol=0, atol=tolerance)
    # The features do depend on the range and on the order of the channels.
    assert np.abs(unprocessed - expected).max() > 5 * tolerance
    assert np.abs(reversed_channels - expected).max() > 5 * tolerance
    assert encoder.input_shape == (None, size, size, 3)
    assert encoder.output_shape == bare.output_shape


@pytest.mark.parametrize(
    "name", ["VGG16", "MobileNetV3Small", pytest.param("ConvNeXtTiny", marks=_SLOW)]
)
def test_saved_application_loads_from_keras_alone(tmp_path, name):
    encoder = build_encoder(f"applications:{name}", 32)
    encoder.save(tmp_path / "encoder.keras")
    again = keras.saving.load_model(tmp_path / "encoder.keras", custom_objects={})
    images = random_images(32)
    np.testing.assert_array_equal(again(images), encoder(images))
    with zipfile.ZipFile(tmp_path / "encoder.keras") as archive:
        assert b"supcon_tf" not in archive.read("config.json")


def test_application_names_in_any_case_of_letters():
    encoder = build_encoder("applications:mobilenetv2", 32)
    assert encoder.name == "MobileNetV2"
    # Sandler et al. 2018 as Keras publishes it (3,538,984), without the classifier's 1280 x 1000
    # + 1000.
    assert encoder.count_params() == 3_538_984 - 1_281_000


def test_every_application_is_known():
    names = [name for name in dir(keras.applications) if name[0].isupper()]
    assert len(names) >= 38
    for name in names:
        check_encoder(f"applications:{name.upper()}")


def test_every_application_is_in_a_tested_family():
    tested = {getattr(family, "values", family)[1] for family in _FAMILIES}
    builders = [
        getattr(keras.applications, name) for name in dir(keras.applications) if name[0].isupper()
    ]
    assert {inspect.getmodule(builder).__name__.split(".")[-1] for builder in builders} == tested


def test_application_starts_from_random_weights():
    encoders = [build_encoder("applications:MobileNetV3Small", 32) for _ in range(2)]
    first, second = (encoder.trainable_weights for encoder in encoders)
    assert len(first) == len(second) > 100
    assert any(not np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_application_keeps_float32_ends_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        encoder = build_encoder("applications:VGG16", 32)
    finally:
        keras.config.set_dtype_policy("float32")
    images = random_images(32)
    assert encoder.get_layer("vgg16").output.dtype == "bfloat16"
    assert encoder(images).dtype == "float32"
    seen = keras.Model(encoder.input, encoder.get_layer("preprocess").output)(images)
    expected = keras.applications.vgg16.preprocess_input(255 * images)
    np.testing.assert_allclose(seen, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("MobileNetV2", 31, "images of 31 pixels: Input size must be at least 32x32. Received: "),
        ("MobileNetV3Small", 31, "at least 32x32. Received: image_size_px=31"),
        ("Xception", 70, "applications:Xception cannot .* 71x71. Received: image_size_px=70"),
        ("InceptionV3", 74, "at least 75x75. Received: image_size_px=74"),
        ("VGG16", 31, "at least 32x32"),
    ],
)
def test_refuses_images_too_small_for_an_application(name, size, message):
    with pytest.raises(UserError, match=message) as caught:
        build_encoder(f"applications:{name}", size)
    assert "\n" not in str(caught.value)


def test_every_application_is_known_by_name():
    models = [name for name in dir(keras.applications) if name[0].isupper()]
    assert len(models) > 30
    for name in models:
        assert application_name(f"applications:{name.upper()}") == name
