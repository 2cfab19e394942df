import io
import json

import ai_edge_litert.interpreter as litert
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import write_images
from PIL import Image

import supcon_tf
from supcon_tf import ExportConfig, UserError, exporting, load_bundle
from supcon_tf.bundles import find_versions
from supcon_tf.exporting import _leave_out_bad_models
from supcon_tf.servable import Head, Index, Servable, of_keras
from supcon_tf.tflite import convert, read_metadata


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
        assert scores[name]["top1"] == scores[name]["keras_top1"]
    for name in ("tflite_float16", "tflite_dynamic", "tflite_int8"):
        assert abs(scores[name]["top1"] - scores[name]["keras_top1"]) <= 0.01
        assert scores[name]["max_difference"] > 0
    sizes = [scores[f"tflite_{name}"]["bytes"] for name in ("float32", "float16", "int8")]
    assert sizes[0] > 1.4 * sizes[1] > 1.4 * sizes[2]
    assert all(scores[name]["ms"] > 0 for name in ("saved_model", "tflite_int8"))


OUTPUTS = {
    "class_id": (tf.int32, [5]),
    "class_name": (tf.string, [5]),
    "probabilities": (tf.float32, [5, 10]),
    "embeddings": (tf.float32, [5, 32]),
}
NEIGHBORS = {
    "neighbor_ids": (tf.int32, [5, 10]),
    "neighbor_labels": (tf.int32, [5, 10]),
    "neighbor_class_names": (tf.string, [5, 10]),
    "similarities": (tf.float32, [5, 10]),
    "out_of_distribution": (tf.float32, [5]),
}


@pytest.fixture(scope="module")
def signatures(exported):
    model = tf.saved_model.load(str(exported[1] / "1"))
    yield model.signatures
    del model  # The variables live as long as it does.


@pytest.fixture(scope="module")
def encoded(digits):
    return tf.constant([encoded.numpy() for encoded, _ in digits.test.records().take(5)])


@pytest.fixture(scope="module")
def pixels(encoded):
    return tf.stack([tf.io.decode_image(one, channels=3) for one in encoded])


def test_what_the_signatures_give(signatures, encoded, pixels):
    images = tf.cast(pixels, tf.float32)
    results = {
        "serving_default": ({"images": images}, OUTPUTS),
        "serving_uint8": ({"images": pixels}, OUTPUTS),
        "serving_bytes": ({"encoded": encoded}, OUTPUTS),
        "embed": ({"encoded": encoded}, {"embeddings": OUTPUTS["embeddings"]}),
        "neighbors": ({"encoded": encoded}, NEIGHBORS),
        "preprocess": ({"encoded": encoded}, {"images": (tf.float32, [5, 8, 8, 3])}),
        "scale": ({"images": images}, {"images": (tf.float32, [5, 8, 8, 3])}),
    }
    for name, (arguments, expected) in results.items():
        found = signatures[name](**arguments)
        assert {key: (value.dtype, value.shape) for key, value in found.items()} == expected, name


def test_signatures_agree(signatures, encoded, pixels):
    served = signatures["serving_bytes"](encoded=encoded)
    names = [name.decode() for name in served["class_name"].numpy()]
    assert names == [str(index) for index in served["class_id"].numpy()]
    np.testing.assert_allclose(tf.reduce_sum(served["probabilities"], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(tf.norm(served["embeddings"], axis=1), 1, rtol=1e-5)
    for name, images in (("serving_uint8", pixels), ("serving_default", pixels)):
        images = images if name == "serving_uint8" else tf.cast(images, tf.float32)
        by_pixels = signatures[name](images=images)["probabilities"]
        np.testing.assert_allclose(by_pixels, served["probabilities"], atol=1e-6)
    embedded = signatures["embed"](encoded=encoded)["embeddings"]
    np.testing.assert_allclose(embedded, served["embeddings"], atol=1e-6)
    nearest = signatures["nearest"](embeddings=embedded)
    for key, value in signatures["neighbors"](encoded=encoded).items():
        np.testing.assert_array_equal(value, nearest[key])


def test_training_images_are_their_own_neighbours(signatures, digits):
    records = [encoded.numpy() for encoded, _ in digits.train.records().skip(300).take(4)]
    found = signatures["neighbors"](encoded=tf.constant(records))
    np.testing.assert_array_equal(found["neighbor_ids"][:, 0], [300, 301, 302, 303])
    np.testing.assert_allclose(found["similarities"][:, 0], 1, atol=1e-5)
    labels = digits.train.labels()[found["neighbor_ids"].numpy()]
    np.testing.assert_array_equal(found["neighbor_labels"], labels)


def test_noise_is_more_out_of_distribution_than_digits(signatures, encoded):
    noise = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    noise = tf.constant([tf.io.encode_png(image).numpy() for image in noise])
    scores = [signatures["neighbors"](encoded=x)["out_of_distribution"] for x in (encoded, noise)]
    assert np.mean(scores[0]) < 0.9 < np.min(scores[1])


def odd_images():
    """Encoded images of every kind that preprocessing might treat differently."""
    rng = np.random.default_rng(0)

    def saved(pixels, kind="PNG", mode=None, **options):
        buffer = io.BytesIO()
        image = Image.fromarray(pixels)
        (image.convert(mode) if mode else image).save(buffer, kind, **options)
        return buffer.getvalue()

    colour = rng.integers(0, 256, (37, 50, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "odd": saved(colour),
        "one pixel": saved(colour[:1, :1]),
        "tall": saved(colour[:, :2]),
        "exact": saved(colour[:8, :8]),
        "grey": saved(colour[..., 0]),
        "RGBA": saved(np.dstack([colour, colour[..., :1]])),
        "palette": saved(colour, mode="P"),
        "16-bit": saved(rng.integers(0, 2**16, (20, 31), dtype=np.uint16)),
        "JPEG": saved(colour, "JPEG"),
        "progressive": saved(colour, "JPEG", progressive=True),
        "rotated": saved(colour, "JPEG", exif=exif),
        "GIF": saved(colour, "GIF"),
        "BMP": saved(colour, "BMP"),
    }


def test_preprocessing_is_the_same_in_training_evaluation_and_serving(exported, tmp_path):
    images = odd_images()
    photos = write_images(tmp_path / "photos", ["a", "b"], 4)
    for name, content in images.items():
        (photos / "a" / f"odd_{name.replace(' ', '_')}.png").write_bytes(content)
    dataset = supcon_tf.open_dataset(f"folder:{photos}", image_size_px=8, holdout_fraction=0.3)
    bundle = load_bundle(exported[1] / "1")
    compared = 0
    for split in (dataset.train, dataset.test):
        records = list(split.records().as_numpy_iterator())
        (evaluated,) = (batch.numpy() for batch, _ in split.images(8, 100))
        served = bundle.model.signatures["preprocess"](
            encoded=tf.constant([encoded for encoded, _ in records])
        )["images"].numpy()
        assert served.tobytes() == evaluated.tobytes()
        for (encoded, _), image in zip(records, evaluated, strict=True):
            assert bundle.decode(encoded).tobytes() == image.tobytes()
            compared += encoded in images.values()
    assert compared == len(images)


def test_training_sees_the_pixels_that_are_served(exported, tmp_path):
    """Without augmentation, on images of the training size, which nothing resamples."""
    photos = tmp_path / "photos"
    for name, content in odd_images().items():
        pixels = supcon_tf.data.images.decode(tf.constant(content)).numpy()[:8, :8]
        if pixels.shape != (8, 8, 3):
            continue
        for copy in range(4):
            path = photos / name.replace(" ", "_") / f"{copy}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tf.io.encode_png(pixels).numpy())
    dataset = supcon_tf.open_dataset(f"folder:{photos}", image_size_px=8, holdout_fraction=0.5)
    stream = supcon_tf.training_views(
        dataset,
        augmentation=supcon_tf.Augmentation(aspect=1.0),
        num_views=1,
        batch_size=dataset.train.num_examples,
        epochs=1,
        seed=0,
    )
    (views,) = (views.numpy()[:, 0] for views, _ in stream)
    signatures = load_bundle(exported[1] / "1").model.signatures
    records = tf.constant([encoded for encoded, _ in dataset.train.records().as_numpy_iterator()])
    served = signatures["preprocess"](encoded=records)["images"].numpy()
    assert len(served) >= 16
    assert sorted(view.tobytes() for view in views) == sorted(one.tobytes() for one in served)


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
        metadata = read_metadata(path)
        assert metadata["precision"] == path.stem
        assert metadata["class_names"] == list("0123456789")
        assert (metadata["image_size_px"], metadata["version"]) == (8, 1)
    with pytest.raises(UserError, match="is no TFLite model of a bundle"):
        read_metadata(exported[1] / "1/labels.txt")


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
    assert "temperature was not fitted" in card
    assert f"{100 * scores['tflite_int8']['top1']:.1f} %" in card
    assert "| train |  1,347 |" in card


@pytest.mark.slow
def test_a_validation_set_calibrates_the_model(small_config, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting.tflite, "PRECISIONS", ("float32",))
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


def test_a_bundle_without_an_index(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting.tflite, "PRECISIONS", ("float32",))
    config = exported[2].replace(saved_models_dir=str(tmp_path), index_images=0)
    scores = supcon_tf.export(config)
    bundle = load_bundle(tmp_path / "digits/1")
    assert scores["index"] is None
    assert bundle.num_neighbors == 0
    assert "neighbors" not in bundle.model.signatures
    assert not (bundle.path / "index").exists()
    with pytest.raises(UserError, match="no index of neighbours"):
        bundle.nearest(np.zeros((1, 32), np.float32))
    assert "holds no training images" in (bundle.path / "MODEL_CARD.md").read_text()


def test_versions_are_never_overwritten(exported):
    _, folder, config = exported
    with pytest.raises(UserError, match="1 exists; a version is never overwritten"):
        supcon_tf.export(config.replace(version=1))
    assert find_versions(folder) == [1]


def test_a_difference_above_the_limit_leaves_nothing(exported, tmp_path, monkeypatch):
    _, _, config = exported
    monkeypatch.setattr(exporting.tflite, "PRECISIONS", ("float32",))
    config = config.replace(saved_models_dir=str(tmp_path), max_difference=1e-12)
    with pytest.raises(UserError, match="differs from Keras by .*; nothing was exported"):
        supcon_tf.export(config)
    assert list(tmp_path.iterdir()) == []


def test_a_bad_small_model_is_left_out(tmp_path, capsys):
    (tmp_path / "tflite").mkdir()
    (tmp_path / "tflite/int8.tflite").write_text("bad")
    good = {"keras_top1": 0.9, "top1": 0.9}
    scores = {"tflite_float16": good, "tflite_dynamic": good}
    scores["tflite_int8"] = {"keras_top1": 0.9, "top1": 0.8}
    _leave_out_bad_models(scores, ExportConfig(max_int8_loss=0.2), tmp_path)
    assert (tmp_path / "tflite/int8.tflite").exists()
    _leave_out_bad_models(scores, ExportConfig(), tmp_path)
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


def small_servable(**changes):
    """A servable of two features: the mean of the red and of the green channel."""
    image = keras.Input((4, 4, 3))
    encoder = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image))
    head = {"kernel": np.eye(3, dtype=np.float32)[:, :2], "bias": np.zeros(2, np.float32)}
    names = changes.pop("class_names", ["red", "green"])
    index = changes.pop("index", None)
    return of_keras(encoder, Head(**{**head, **changes}), index, names)


def test_temperature_divides_the_logits():
    features = tf.constant([[1.0, 3.0, 0.5]])
    found = small_servable(temperature=4.0).probabilities(features)
    np.testing.assert_allclose(found[0, 1], 1 / (1 + np.exp(-2 / 4)), rtol=1e-6)


def test_added_classes_leave_the_others_their_order():
    """One prototype a class; the third was added."""
    prototypes = np.eye(3, dtype=np.float32)
    servable = small_servable(
        prototypes=prototypes, prototype_scale=5.0, class_names=["red", "green", "blue"]
    )
    features = np.array([[0.2, 0.1, 2.0], [2.0, 0.5, 0.1]], np.float32)
    found = servable.probabilities(tf.constant(features)).numpy()
    shares = np.exp(5 * features / np.linalg.norm(features, axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    trained = np.exp(features[:, :2]) / np.exp(features[:, :2]).sum(axis=1, keepdims=True)
    expected = np.column_stack([(1 - shares[:, 2:]) * trained, shares[:, 2]])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(found.argmax(axis=1), [2, 0])


def test_rank_among_known_distances():
    angles = np.deg2rad([0, 10, 20, 90]).astype(np.float32)
    embeddings = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    index = Index(embeddings, np.array([0, 0, 1, 1]), np.float32([0.01, 0.1, 0.5, 0.9]), 2)
    found = small_servable(index=index).nearest(tf.constant(embeddings[[0, 3]]))
    np.testing.assert_array_equal(found["neighbor_ids"], [[0, 1], [3, 2]])
    np.testing.assert_array_equal(found["neighbor_class_names"], [[b"red"] * 2, [b"green"] * 2])
    expected = [[1, np.cos(np.deg2rad(10))], [1, np.cos(np.deg2rad(70))]]
    np.testing.assert_allclose(found["similarities"], expected, rtol=1e-5)
    # Distances to the second: 0.015 and 0.66.
    np.testing.assert_allclose(found["out_of_distribution"], [0.25, 0.75])


def test_operators_outside_the_builtin_set_are_refused_unless_asked_for(tmp_path):
    image = keras.Input((4, 4, 3))
    larger = keras.layers.UpSampling2D(2, interpolation="bicubic")(image)
    encoder = keras.Model(image, keras.layers.GlobalAveragePooling2D()(larger))
    head = Head(np.ones((3, 2), np.float32), np.zeros(2, np.float32))
    of_keras(encoder, head, None, ["a", "b"]).save(tmp_path)
    with pytest.raises(UserError, match=r"tf.ResizeBicubic.*Pass --tflite_select_ops"):
        convert(tmp_path, "float32")
    assert b"FlexResizeBicubic" in convert(tmp_path, "float32", select_ops=True)


def test_a_servable_is_saved_again_from_a_loaded_one(tmp_path):
    small_servable().save(tmp_path / "1")
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    head = Head(loaded.kernel.numpy(), loaded.bias.numpy(), temperature=2.0)
    again = Servable(loaded.encode, loaded.encoder_variables, head, None, ["red", "green"], 4)
    again.save(tmp_path / "2")
    images = tf.constant(np.random.default_rng(0).random((3, 4, 4, 3), np.float32))
    found = tf.saved_model.load(str(tmp_path / "2")).signatures["classify"](images=images)
    expected = small_servable(temperature=2.0).classify(images)["probabilities"]
    np.testing.assert_allclose(found["probabilities"], expected, rtol=1e-6)
