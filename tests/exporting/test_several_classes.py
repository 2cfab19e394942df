"""A bundle of several classes per image: every format, its card, prediction, scores, refusals."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import COLORS, write_several

import supcon_tf
from supcon_tf import AddClassConfig, EvaluateConfig, PredictConfig, UserError, load_bundle
from supcon_tf.cli.predict import lines
from supcon_tf.exporting.index import build_index
from supcon_tf.exporting.servable import Head, Servable


@pytest.fixture(scope="module")
def bundle(several_exported):
    return load_bundle(several_exported)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("new")
    return write_several(folder, count=16, seed=9), sorted(folder.glob("*.png"))


def labels_of(images):
    """The classes of each image, as the table lists them."""
    table = Path(images[0].partition(":")[2])
    return [json.loads(line)["label"] for line in table.read_text().splitlines()]


def answer(probabilities):
    """The classes of 0.5 or more, or the best one alone."""
    shown = [name for name, share in zip(COLORS, probabilities, strict=True) if share >= 0.5]
    return "|".join(shown or [list(COLORS)[int(np.argmax(probabilities))]])


def test_every_format_gives_the_sigmoids_of_the_classifier(bundle, several_run):
    export = bundle.metrics["export"]
    assert export["failed"] == {}
    for name in {"saved_model", "tflite_float32", "onnx"} & export.keys():
        assert export[name]["max_difference"] < 1e-5
        assert export[name]["map"] == pytest.approx(export[name]["model_map"])
    assert export["calibration"]["temperature"] != 1
    assert export["calibration"]["nll"] <= export["calibration"]["nll_uncalibrated"] + 0.05
    classifier = tf.keras.models.load_model(several_run / "classifier.keras", compile=False)
    pixels = np.random.default_rng(0).random((4, 12, 12, 3)).astype(np.float32)
    logits = classifier(pixels)["logits"].numpy() / bundle.metadata["temperature"]
    found = bundle.classify(pixels)
    np.testing.assert_allclose(found["probabilities"], 1 / (1 + np.exp(-logits)), atol=1e-5)
    assert found["class_name"] == [answer(row) for row in found["probabilities"]]


def test_the_saved_model_names_the_same_classes(bundle, images):
    encoded = [path.read_bytes() for path in images[1]]
    found = bundle.model.signatures["serving_bytes"](encoded=tf.constant(encoded))
    names = [name.decode() for name in found["class_name"].numpy()]
    assert names == [answer(row) for row in found["probabilities"].numpy()]
    assert any("|" in name for name in names)
    np.testing.assert_array_equal(found["class_id"], np.argmax(found["probabilities"], axis=1))
    own = bundle.nearest(found["embeddings"].numpy())
    served = bundle.model.signatures["neighbors"](encoded=tf.constant(encoded))
    by_graph = served["neighbor_class_names"].numpy().astype(str)
    np.testing.assert_array_equal(by_graph, own["neighbor_class_names"])
    rows = bundle.index_images()
    for ids, neighbors in zip(own["neighbor_ids"], own["neighbor_class_names"], strict=True):
        assert [rows[row]["class"] for row in ids] == neighbors


def test_the_best_class_stands_alone_where_none_is_probable():
    logits = np.array([[2.0, -1.0, 0.0], [-3.0, -1.0, -2.0], [0.5, 0.4, 3.0]], np.float32)
    head = Head(np.eye(3, dtype=np.float32), np.zeros(3, np.float32), 1.0, multi_label=True)
    servable = Servable(lambda images: images, [], head, None, tuple(COLORS), 1)
    found = servable.outputs(tf.constant(logits))
    names = [name.decode() for name in found["class_name"].numpy()]
    assert names == ["blue|red", "green", "blue|green|red"]
    assert found["class_id"].numpy().tolist() == [0, 1, 2]


def test_an_index_has_a_label_for_each_set_of_classes():
    features = np.random.default_rng(0).normal(size=(5, 3))
    labels = np.array([[1, 0, 1], [0, 0, 0], [1, 0, 1], [0, 1, 0], [0, 0, 0]], bool)
    index = build_index(features, labels, 2, class_names=tuple(COLORS))
    assert [index.names[label] for label in index.labels] == [
        "blue|red",
        "",
        "blue|red",
        "green",
        "",
    ]


def test_the_card_says_that_an_image_has_several_classes(bundle):
    card = (bundle.path / "MODEL_CARD.md").read_text()
    assert "Names which of 3 classes an image shows: blue, green, red." in card
    assert "mean average precision" in card
    assert "top-1" not in card
    assert re.search(r"\| green +\| +\d+ \|", card)


FILES = {
    "bundle": "1",
    "tflite": "1/tflite/float32.tflite",
    "int8": "1/tflite/int8.tflite",
    "onnx": "1/model.onnx",
}


@pytest.mark.parametrize("file", FILES)
def test_predictions_are_the_classes_over_the_threshold(file, several_exported, images, bundle):
    model = str(several_exported / FILES[file])
    if file == "onnx" and not Path(model).exists():
        pytest.skip("the extra onnx is not installed")
    found = list(supcon_tf.predict(PredictConfig(model=model), list(map(str, images[1]))))
    truth, right = labels_of(images), 0
    for result, label in zip(found, truth, strict=True):
        assert result["multi_label"] is True
        shares = result["probabilities"]
        assert shares == sorted(shares, reverse=True)
        assert len(shares) == 1 or min(shares) >= 0.5
        right += sorted(result["classes"]) == label or (not label and shares[0] < 0.5)
    assert right >= 12
    at_least_two = PredictConfig(model=model, top_k=2)
    found = list(supcon_tf.predict(at_least_two, [str(images[1][0])]))
    assert len(found[0]["classes"]) == max(2, sum(p >= 0.5 for p in found[0]["probabilities"]))


def test_lines_have_as_many_classes_as_the_image():
    results = [
        {"image": "x", "classes": ["a", "b"], "probabilities": [0.9, 0.6], "multi_label": True},
        {"image": "y", "classes": ["b"], "probabilities": [0.2], "multi_label": True},
    ]
    assert list(lines(results, "tsv")) == ["x\ta\t0.9000\tb\t0.6000", "y\tb\t0.2000"]
    table = list(csv.reader(io.StringIO("\n".join(lines(results, "csv")))))
    assert table[0] == ["image", "classes", "probabilities"]
    assert table[1:] == [["x", "a|b", "0.900000|0.600000"], ["y", "b", "0.200000"]]
    first = json.loads(next(lines(results, "jsonl")))
    assert first == {"image": "x", "classes": ["a", "b"], "probabilities": [0.9, 0.6]}


def test_a_bundle_is_scored_on_a_table(several_exported, images, tmp_path, bundle):
    config = EvaluateConfig(
        model=str(several_exported), dataset=images[0], output_dir=str(tmp_path), bootstrap=20
    )
    found = supcon_tf.evaluate(config)
    assert found["images"] == 16
    assert found["mean_average_precision"] > 0.9
    assert found["intervals"].keys() >= {"micro_f1", "macro_f1", "mean_average_precision"}
    assert "knn_map" not in found
    pixels = np.stack([bundle.decode(path.read_bytes()) for path in images[1]])
    shares = bundle.classify(pixels)["probabilities"].astype(np.float64)
    labels = np.array([[name in label for name in COLORS] for label in labels_of(images)])
    nll = -np.mean(np.log(np.where(labels, shares, 1 - shares)))
    assert found["nll"] == pytest.approx(nll, rel=1e-3, abs=1e-6)
    assert (next(tmp_path.iterdir()) / "classes.csv").is_file()


def test_classes_cannot_be_added(several_exported, image_folder):
    with pytest.raises(
        UserError, match="classes can be added only to models of one class per image"
    ):
        supcon_tf.add_class(AddClassConfig(model=str(several_exported), images=str(image_folder)))
