import inspect
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from supcon_tf import UserError, build_encoder
from supcon_tf.networks.encoders import ENCODERS, check_encoder

_RNG = np.random.default_rng(0)


def _images(size):
    return _RNG.random((2, size, size, 3), dtype="float32")


def _save(path, inputs, outputs):
    keras.Model(inputs, outputs).save(path)
    return str(path)


def _application(name, size, **arguments):
    return getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), **{"include_top": False, **arguments}
    )


def test_saved_encoder_loads_from_keras_alone(tmp_path):
    encoder = build_encoder("resnet8", 8, 0.25)
    encoder.save(tmp_path / "encoder.keras")
    images = _images(8)
    again = keras.saving.load_model(tmp_path / "encoder.keras", custom_objects={})
    np.testing.assert_array_equal(again(images), encoder(images))
    with zipfile.ZipFile(tmp_path / "encoder.keras") as archive:
        assert b"supcon_tf" not in archive.read("config.json")


# One of each family, and the least size that it takes. The slow ones are those that share their
# preprocessing with a faster one; together they take half a minute.
_SLOW = pytest.mark.slow
_FAMILIES = [
    ("DenseNet121", "densenet", 32),
    ("MobileNet", "mobilenet", 32),
    ("MobileNetV2", "mobilenet_v2", 32),
    ("MobileNetV3Small", "mobilenet_v3", 32),
    ("VGG16", "vgg16", 32),
    pytest.param("ConvNeXtTiny", "convnext", 32, marks=_SLOW),
    pytest.param("EfficientNetB0", "efficientnet", 32, marks=_SLOW),
    pytest.param("EfficientNetV2B0", "efficientnet_v2", 32, marks=_SLOW),
    pytest.param("InceptionResNetV2", "inception_resnet_v2", 75, marks=_SLOW),
    pytest.param("InceptionV3", "inception_v3", 75, marks=_SLOW),
    pytest.param("NASNetMobile", "nasnet", 32, marks=_SLOW),
    pytest.param("ResNet50", "resnet", 32, marks=_SLOW),
    pytest.param("ResNet50V2", "resnet_v2", 32, marks=_SLOW),
    pytest.param("VGG19", "vgg19", 32, marks=_SLOW),
    pytest.param("Xception", "xception", 71, marks=_SLOW),
]


@pytest.mark.parametrize(("name", "module", "size"), _FAMILIES)
def test_application_sees_what_it_expects(tmp_path, name, module, size):
    bare = _application(name, size, pooling="avg")
    weights = str(tmp_path / "bare.weights.h5")
    bare.save_weights(weights)
    encoder = build_encoder(f"applications:{name}", size, weights=weights)
    images = _images(size)
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


@pytest.mark.parametrize("name", ["VGG16", "ConvNeXtTiny", "MobileNetV3Small"])
def test_saved_application_loads_from_keras_alone(tmp_path, name):
    encoder = build_encoder(f"applications:{name}", 32)
    encoder.save(tmp_path / "encoder.keras")
    again = keras.saving.load_model(tmp_path / "encoder.keras", custom_objects={})
    images = _images(32)
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
    images = _images(32)
    assert encoder.get_layer("vgg16").output.dtype == "bfloat16"
    assert encoder(images).dtype == "float32"
    seen = keras.Model(encoder.input, encoder.get_layer("preprocess").output)(images)
    expected = keras.applications.vgg16.preprocess_input(255 * images)
    np.testing.assert_allclose(seen, expected, atol=1e-4)


def test_legacy_weights_file(tmp_path):
    # The format of Keras's published files; they are written without pooling.
    bare = _application("MobileNetV2", 32)
    bare.save(tmp_path / "bare.h5")
    encoder = build_encoder("applications:MobileNetV2", 32, weights=str(tmp_path / "bare.h5"))
    for ours, theirs in zip(encoder.get_weights(), bare.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_of_a_residual_network(tmp_path):
    trained = build_encoder("resnet8", 8, 0.25)
    trained.save_weights(tmp_path / "a.weights.h5")
    encoder = build_encoder("resnet8", 8, 0.25, weights=str(tmp_path / "a.weights.h5"))
    images = _images(8)
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


def test_saved_features_as_they_are(tmp_path):
    trained = build_encoder("resnet8", 8, 0.25)
    trained.save(tmp_path / "a.keras")
    encoder = build_encoder(str(tmp_path / "a.keras"), 8)
    images = _images(8)
    np.testing.assert_array_equal(encoder(images), trained(images))
    assert [layer.name for layer in encoder.layers] == [layer.name for layer in trained.layers]
    encoder.save(tmp_path / "again.keras")
    again = build_encoder(str(tmp_path / "again.keras"), 8)
    np.testing.assert_array_equal(again(images), trained(images))


def test_saved_after_training_with_an_optimizer(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(2)])
    model.compile("adam", "mse")
    model.fit(_images(8), np.zeros((2, 2)), verbose=0)
    model.save(tmp_path / "a.keras")
    encoder = build_encoder(str(tmp_path / "a.keras"), 8)
    images = _images(8)
    np.testing.assert_array_equal(encoder(images), model(images))
    assert len(encoder.weights) == 2


def test_saved_feature_map_is_pooled(tmp_path):
    images = keras.Input((None, None, 3))
    path = _save(tmp_path / "a.keras", images, layers.Conv2D(5, 3, strides=2)(images))
    encoder = build_encoder(path, 9)
    assert encoder.input_shape == (None, 9, 9, 3)
    assert encoder.output_shape == (None, 5)
    batch = _images(9)
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
    batch = _images(4)
    encoder = build_encoder(path, 4)
    np.testing.assert_array_equal(encoder(batch), batch.reshape(2, -1))


def test_saved_in_half_precision(tmp_path):
    images = keras.Input((4, 4, 3))
    output = layers.Dense(3, dtype="mixed_bfloat16")(layers.Flatten()(images))
    encoder = build_encoder(_save(tmp_path / "a.keras", images, output), 4)
    assert output.dtype == "bfloat16"
    assert encoder.output.dtype == "float32"
    assert encoder(_images(4)).dtype == "float32"


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
        (("missing.keras",), "no such encoder file.*Received: 'missing.keras'"),
        (("applications:VGG16", 0.5), "width_multiplier applies to resnet8.*VGG16. Received: 0.5"),
        (("resnet8", 1.0, "a.ckpt"), "must be a .weights.h5 or .h5 file. Received: 'a.ckpt'"),
        (("resnet8", 1.0, "a.weights.h5"), "no such weights file.*Received: 'a.weights.h5'"),
        (("applications:VGG16", 1.0, "imagenet"), "weights must be .*Received: 'imagenet'"),
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
