import io
import json
import subprocess
import sys
import zipfile

import ai_edge_litert.interpreter as litert
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import write_images
from PIL import Image

import supcon_tf
from supcon_tf import ExportConfig, UserError, exporting, load_bundle
from supcon_tf.exporting.card import model_card
from supcon_tf.exporting.comparing import check_exports
from supcon_tf.exporting.layout import find_versions
from supcon_tf.exporting.tflite import read_metadata


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


OUTPUTS = {
    "class_id": ("int32", (5,)),
    "class_name": ("|S1", (5,)),
    "probabilities": ("float32", (5, 10)),
    "embeddings": ("float32", (5, 32)),
}
NEIGHBORS = {
    "neighbor_ids": ("int32", (5, 10)),
    "neighbor_labels": ("int32", (5, 10)),
    "neighbor_class_names": ("|S1", (5, 10)),
    "similarities": ("float32", (5, 10)),
    "out_of_distribution": ("float32", (5,)),
}
IMAGES, EMBEDDINGS = {"images": ("float32", (5, 8, 8, 3))}, {"embeddings": ("float32", (5, 32))}

# Input and outputs of each signature; an input is the name of an array of the fixture below.
SIGNATURES = {
    "serving_default": ("images", "floats", OUTPUTS),
    "serving_uint8": ("images", "pixels", OUTPUTS),
    "serving_bytes": ("encoded", "encoded", OUTPUTS),
    "embed": ("encoded", "encoded", EMBEDDINGS),
    "neighbors": ("encoded", "encoded", NEIGHBORS),
    "preprocess": ("encoded", "encoded", IMAGES),
    "scale": ("images", "floats", IMAGES),
    "classify": (
        "images",
        "ready",
        {key: OUTPUTS[key] for key in ("probabilities", "embeddings")},
    ),
    "nearest": ("embeddings", "unit", NEIGHBORS),
}
STRANGER = """
import json, sys
sys.modules["supcon_tf"] = None  # Importing it now fails.
import numpy as np, tensorflow as tf
bundle, calls, arrays, found = sys.argv[1:]
signatures, arrays = tf.saved_model.load(bundle).signatures, np.load(arrays)
outputs = {}
for label, signature, name, array in json.loads(calls):
    results = signatures[signature](**{name: tf.constant(arrays[array])})
    for key, value in results.items():
        value = value.numpy()
        value = value.astype(np.bytes_) if value.dtype == object else value
        outputs[f"{label}/{key}"] = value
np.savez(found, signatures=sorted(signatures), **outputs)
"""


@pytest.fixture(scope="module")
def served(exported, digits, tmp_path_factory):
    """What every signature gives in a process that cannot import this package."""
    encoded = [encoded.numpy() for encoded, _ in digits.test.records().take(5)]
    pixels = np.stack([tf.io.decode_image(one, channels=3) for one in encoded])
    noise = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    arrays = {
        "encoded": encoded,
        "pixels": pixels,
        "floats": pixels.astype(np.float32),
        "ready": np.random.default_rng(1).random((5, 8, 8, 3), np.float32),
        "unit": np.eye(5, 32, dtype=np.float32),
        "noise": [tf.io.encode_png(image).numpy() for image in noise],
        "training": [one.numpy() for one, _ in digits.train.records().skip(300).take(5)],
    }
    calls = [(name, name, *call[:2]) for name, call in SIGNATURES.items()]
    calls += [(name, "neighbors", "encoded", name) for name in ("noise", "training")]
    folder = tmp_path_factory.mktemp("stranger")
    np.savez(folder / "arrays.npz", **arrays)
    command = [sys.executable, "-I", "-c", STRANGER, str(exported[1] / "1"), json.dumps(calls)]
    command += [str(folder / "arrays.npz"), str(folder / "found.npz")]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    found = dict(np.load(folder / "found.npz"))
    assert set(found.pop("signatures")) == set(SIGNATURES)
    by_label = {label: {} for label, *_ in calls}
    for key, value in found.items():
        label, name = key.split("/")
        by_label[label][name] = value
    return by_label


@pytest.mark.parametrize("name", SIGNATURES)
def test_every_signature_in_a_fresh_process(served, name):
    expected = SIGNATURES[name][2]
    found = {key: (value.dtype, value.shape) for key, value in served[name].items()}
    assert found == expected


def test_signatures_agree_with_each_other_and_with_keras(served, exported, finished_run):
    by_bytes = served["serving_bytes"]
    names = [name.decode() for name in by_bytes["class_name"]]
    assert names == [str(index) for index in by_bytes["class_id"]]
    np.testing.assert_allclose(by_bytes["probabilities"].sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(by_bytes["embeddings"], axis=1), 1, rtol=1e-5)
    for name in ("serving_default", "serving_uint8"):
        for key in ("probabilities", "embeddings"):
            np.testing.assert_allclose(served[name][key], by_bytes[key], atol=1e-6)
    embedded = served["embed"]["embeddings"]
    np.testing.assert_allclose(embedded, by_bytes["embeddings"], atol=1e-6)
    np.testing.assert_array_equal(served["scale"]["images"], served["preprocess"]["images"])
    model = keras.saving.load_model(finished_run / "classifier.keras", compile=False)
    images = np.random.default_rng(1).random((5, 8, 8, 3), np.float32)
    expected = tf.nn.softmax(model(images)["logits"])
    np.testing.assert_allclose(served["classify"]["probabilities"], expected, atol=1e-5)
    nearest = load_bundle(exported[1] / "1").nearest(embedded)
    np.testing.assert_array_equal(served["neighbors"]["neighbor_ids"], nearest["neighbor_ids"])


def test_training_images_are_their_own_neighbours(served, digits):
    found = served["training"]
    np.testing.assert_array_equal(found["neighbor_ids"][:, 0], range(300, 305))
    np.testing.assert_allclose(found["similarities"][:, 0], 1, atol=1e-5)
    labels = digits.train.labels()[found["neighbor_ids"]]
    np.testing.assert_array_equal(found["neighbor_labels"], labels)
    names = np.array(digits.class_names, "S")[labels]
    np.testing.assert_array_equal(found["neighbor_class_names"], names)


def test_noise_is_more_out_of_distribution_than_digits(served):
    digits, noise = (served[name]["out_of_distribution"] for name in ("neighbors", "noise"))
    assert digits.mean() < 0.9 < noise.min()


def odd_images(height=37, width=50):
    """Encoded images of every kind that preprocessing might treat differently."""
    rng = np.random.default_rng(0)

    def saved(pixels, kind="PNG", mode=None, **options):
        buffer = io.BytesIO()
        image = Image.fromarray(pixels)
        (image.convert(mode) if mode else image).save(buffer, kind, **options)
        return buffer.getvalue()

    colour = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "colour": saved(colour),
        "grey": saved(colour[..., 0]),
        "RGBA": saved(np.dstack([colour, colour[..., :1]])),
        "palette": saved(colour, mode="P"),
        "16-bit": saved(rng.integers(0, 2**16, (height, width), dtype=np.uint16)),
        "JPEG": saved(colour, "JPEG"),
        "progressive": saved(colour, "JPEG", progressive=True),
        "rotated": saved(colour, "JPEG", exif=exif),
        "GIF": saved(colour, "GIF"),
        "BMP": saved(colour, "BMP"),
    }


def test_preprocessing_is_the_same_in_training_evaluation_and_serving(exported, tmp_path):
    sizes = {"odd": (37, 50), "pixel": (1, 1), "tall": (37, 2), "exact": (8, 8)}
    images = {
        f"{size}_{name}": content
        for size, shape in sizes.items()
        for name, content in odd_images(*shape).items()
    }
    photos = write_images(tmp_path / "photos", ["a", "b"], 4)
    for name, content in images.items():
        (photos / "a" / f"{name}.png").write_bytes(content)
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
    assert compared == len(images) == 40


def test_training_sees_the_pixels_that_are_served(exported, tmp_path):
    """Without augmentation, on images of every kind of the training size: nothing is resampled."""
    photos = tmp_path / "photos"
    for name, content in odd_images(8, 8).items():
        (photos / name).mkdir(parents=True)
        for copy in range(4):
            (photos / name / f"{copy}.png").write_bytes(content)
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
    assert len(served) == 20
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
        wanted = "uint8 from 0 to 255" if path.stem == "int8" else "float32 from 0 to 1"
        assert wanted in metadata["input"]
        assert metadata["class_names"] == list("0123456789")
        assert (metadata["image_size_px"], metadata["version"]) == (8, 1)
    with pytest.raises(UserError, match="is no TFLite model of a bundle"):
        read_metadata(exported[1] / "1/labels.txt")


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
    with pytest.raises(UserError, match="is no TFLite model of a bundle"):
        read_metadata(tmp_path / "x.tflite")


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
    assert all(name in card for name in ("pretrain: batch_size ", "classifier: learning_rate "))


def test_the_card_names_the_worst_classes(exported):
    bundle = load_bundle(exported[1] / "1")
    per_class = {str(digit): 0.9 for digit in range(10)} | {"7": 0.0, "3": None}
    metrics = {**bundle.metrics, "test": {**bundle.metrics["test"], "per_class": per_class}}
    assert "Lowest top-1 by class: 7 0.0 %, 0 90.0 %" in model_card(bundle.metadata, metrics)


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
    with pytest.raises(UserError, match="differs from its model by .*; nothing was exported"):
        supcon_tf.export(config)
    assert list(tmp_path.iterdir()) == []


def test_a_bad_small_model_is_left_out(tmp_path, capsys):
    (tmp_path / "tflite").mkdir()
    (tmp_path / "tflite/int8.tflite").write_text("bad")
    good = {"model_top1": 0.9, "top1": 0.9}
    scores = {"tflite_float16": good, "tflite_dynamic": good}
    scores["tflite_int8"] = {"model_top1": 0.9, "top1": 0.8}
    scores["saved_model"] = scores["tflite_float32"] = {"max_difference": 1e-6}
    check_exports(tmp_path, scores, 1e-4, 0.2)
    assert (tmp_path / "tflite/int8.tflite").exists()
    check_exports(tmp_path, scores, 1e-4, 0.01)
    assert not (tmp_path / "tflite/int8.tflite").exists()
    assert scores["tflite_int8"]["left_out"]
    assert "loses 0.100 of top-1, above max_tflite_loss=0.01" in capsys.readouterr().err


def test_a_run_without_classifier_or_with_a_bad_name_is_refused(finished_run, tmp_path):
    config = ExportConfig(run_dir=str(finished_run), name="../x", saved_models_dir=str(tmp_path))
    with pytest.raises(UserError, match="name must be letters.*Received: '../x'"):
        supcon_tf.export(config)
    with pytest.raises(UserError, match="no pretrained encoder"):
        supcon_tf.export(config.replace(run_dir=str(tmp_path), name="x"))
    assert list(tmp_path.iterdir()) == []
