import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

import supcon_tf
from supcon_tf import AddClassConfig, UserError, load_bundle
from supcon_tf.data.digits import load_images
from supcon_tf.exporting.calibration import fit_scale
from supcon_tf.exporting.layout import find_versions, write_sums


def write_class(folder, digit, count, turn=1):
    """Digits turned by a quarter: a class that the model has not seen."""
    images, labels = load_images()
    folder.mkdir(parents=True)
    for number, image in enumerate(images[labels == digit][:count]):
        turned = np.rot90(image, turn)
        (folder / f"{number:03d}.png").write_bytes(tf.io.encode_png(turned).numpy())


@pytest.fixture(scope="module")
def model(exported, tmp_path_factory):
    """`<saved_models>/digits` of its own, with one version."""
    folder = tmp_path_factory.mktemp("models") / "digits"
    shutil.copytree(exported[1] / "1", folder / "1")
    return folder


@pytest.fixture(scope="module")
def added(model, tmp_path_factory):
    images = tmp_path_factory.mktemp("new")
    write_class(images / "turned 4", 4, 20)
    write_class(images / "turned 7", 7, 20)
    return supcon_tf.add_class(AddClassConfig(model=str(model), images=str(images))), images


def test_old_and_new_classes_are_recognized(added, model):
    scores, _ = added
    assert scores["path"] == str(model / "2")
    assert scores["learned_from"] == {"turned 4": 14, "turned 7": 14}
    assert (scores["old_images"], scores["new_images"]) == (450, 12)
    assert scores["new_top1"] >= 0.8
    assert scores["old_top1"] >= scores["old_top1_before"] - 0.05
    assert np.mean(list(scores["per_class"].values())) == pytest.approx(scores["new_top1"])
    assert scores["held_out"] == {"turned 4": 6, "turned 7": 6}


def test_scores_are_those_of_the_bundle_that_was_written(added, model, digits):
    scores, images = added
    bundle = load_bundle(model / "2")
    records = list(digits.test.records().as_numpy_iterator())
    found = bundle.classify(np.stack([bundle.decode(encoded) for encoded, _ in records]))
    right = found["class_id"] == [label for _, label in records]
    assert np.mean(right) == pytest.approx(scores["old_top1"])
    files = sorted((images / "turned 4").iterdir())
    new = bundle.classify(np.stack([bundle.decode(file.read_bytes()) for file in files]))
    assert np.mean([name == "turned 4" for name in new["class_name"]]) > 0.7
    np.testing.assert_allclose(new["probabilities"].sum(axis=1), 1, rtol=1e-5)


def test_the_trained_classes_keep_their_order(added, model, digits):
    """Where nothing is new, the trained classifier decides."""
    before, after = load_bundle(model / "1"), load_bundle(model / "2")
    encoded = [encoded.numpy() for encoded, _ in digits.test.records().take(50)]
    images = np.stack([before.decode(one) for one in encoded])
    old = before.classify(images)["probabilities"]
    new = after.classify(images)["probabilities"][:, :10]
    np.testing.assert_allclose(new / new.sum(axis=1, keepdims=True), old, atol=1e-5)


def test_the_new_version_says_what_it_is(added, model):
    bundle = load_bundle(model / "2")
    assert bundle.class_names == (*"0123456789", "turned 4", "turned 7")
    assert [added["from_version"] for added in bundle.metadata["added"]] == [1]
    assert (bundle.name, bundle.version) == ("digits", 2)
    rows = bundle.index_images()
    assert len(rows) == 1347 + 28
    assert rows[-1]["class"] == "turned 7"
    assert rows[-1]["id"].startswith("turned 7/")
    assert bundle.thumbnail(1347 + 27) is not None
    card = (model / "2/MODEL_CARD.md").read_text()
    assert "## Added classes" in card
    assert re.search(r"\| +turned 7, from 14 images \| +6 \|", card)
    assert re.search(r"\| old classes +\| +450 \|", card)
    assert "that were not used to form the class (`--holdout_fraction`)" in card
    metrics = json.loads((model / "2/metrics.json").read_text())
    assert metrics["added"]["saved_model"]["max_difference"] < 1e-5
    assert metrics["added"]["saved_model"]["top1"] == metrics["added"]["new_top1"]
    assert metrics["added"]["index"]["images"] == 1347 + 28
    before = json.loads((model / "1/metrics.json").read_text())
    assert metrics["export"] == before["export"]
    assert {path.stem for path in (model / "2/tflite").iterdir()} == {
        "float32",
        "float16",
        "dynamic",
    }


def test_new_images_are_neighbours(added, model):
    _, images = added
    bundle = load_bundle(model / "2")
    one = sorted((images / "turned 7").iterdir())
    embeddings = bundle.classify(np.stack([bundle.decode(file.read_bytes()) for file in one]))
    near = bundle.nearest(embeddings["embeddings"])
    assert np.mean(near["neighbor_labels"] == 11) > 0.5
    assert near["neighbor_ids"].max() >= 1347


@pytest.mark.slow
def test_classes_are_added_to_added_ones(added, model, tmp_path):
    write_class(tmp_path / "upside down 4", 4, 20, turn=2)
    config = AddClassConfig(model=str(model), images=str(tmp_path), min_top1=0)
    scores = supcon_tf.add_class(config)
    assert scores["path"] == str(model / "3")
    assert scores["old_images"] == 462
    bundle = load_bundle(model / "3")
    assert [added["from_version"] for added in bundle.metadata["added"]] == [1, 2]
    card = (model / "3/MODEL_CARD.md").read_text()
    assert all(f"| {name} " in card for name in ("turned 4", "turned 7", "upside down 4"))
    assert bundle.class_names[-3:] == ("turned 4", "turned 7", "upside down 4")
    sizes = [(model / version / "saved_model.pb").stat().st_size for version in "23"]
    assert sizes[1] < 1.1 * sizes[0]  # The earlier graph is not carried along.


def test_the_scale_makes_the_classes_most_likely():
    """Three directions with noise; the likelihood is worse to either side."""
    from scipy.special import log_softmax

    rng = np.random.default_rng(0)
    prototypes = np.eye(3, 16)

    def near(labels):
        rows = prototypes[labels] + rng.normal(0, 0.25, (len(labels), 16))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    labels = np.repeat([0, 1], 300)
    gallery, new = near(labels), near(np.full(200, 2))
    scale = fit_scale(prototypes, gallery, labels, new, np.full(200, 2))

    def likelihood(scale):
        every, targets = (
            np.concatenate([gallery[:200], gallery[300:500], new]),
            np.repeat([0, 1, 2], 200),
        )
        found = log_softmax(scale * every @ prototypes.T, axis=1)
        return found[np.arange(600), targets].mean() + found.mean() / 600

    assert likelihood(scale) > max(likelihood(scale / 1.3), likelihood(scale * 1.3))


def test_the_scale_stays_moderate_where_few_images_are_all_right():
    """Both classes on their prototypes: softmax(scale)[other] is 1 / (2 N + 2) of N images."""
    prototypes = np.eye(2, 5)
    gallery, new = prototypes[[0, 0, 0]], prototypes[[1, 1, 1, 1]]
    scale = fit_scale(prototypes, gallery, np.zeros(3, int), new, np.ones(4, int))
    np.testing.assert_allclose(scale, np.log(15), rtol=1e-3)


def refused(message, **settings):
    with pytest.raises(UserError, match=message):
        supcon_tf.add_class(AddClassConfig(**settings))


def test_bad_input_is_refused_before_anything_is_written(model, exported, tmp_path):
    versions = find_versions(model)
    refused("no model given", images=str(tmp_path))
    refused("images must be a folder.*Received: 'nowhere'", model=str(model), images="nowhere")
    refused("no class subfolders", model=str(model), images=str(tmp_path))
    write_class(tmp_path / "few" / "x", 1, 2)
    refused("class 'x' .* has 2 images", model=str(model), images=str(tmp_path / "few"))
    write_class(tmp_path / "old" / "3", 1, 9)
    refused("must be new .*Received: '3'", model=str(model), images=str(tmp_path / "old"))
    write_class(tmp_path / "bad" / "x", 1, 9)
    (tmp_path / "bad/x/000.png").write_bytes(b"half")
    refused("cannot read image .*000.png", model=str(model), images=str(tmp_path / "bad"))
    assert find_versions(model) == versions


def test_a_class_that_is_not_recognized_is_not_published(model, tmp_path):
    """Copies of a trained class: the model has nothing to tell them from it by."""
    versions = find_versions(model)
    write_class(tmp_path / "again", 0, 20, turn=0)
    refused(
        r"rarely: 'again' [\d.]+ % of 6 held-out images .*below min_top1=0.95. Nothing was written",
        model=str(model),
        images=str(tmp_path),
        min_top1=0.95,
    )
    assert find_versions(model) == versions
    assert not list(model.glob(".writing*"))


@pytest.mark.slow
def test_a_class_without_images_in_the_index_is_named(exported, tmp_path):
    saved_models_dir, formats = str(tmp_path / "models"), "saved_model"
    supcon_tf.export(
        exported[2].replace(saved_models_dir=saved_models_dir, index_images=4, formats=formats)
    )
    write_class(tmp_path / "new" / "x", 1, 9)
    settings = {"model": str(tmp_path / "models/digits"), "images": str(tmp_path / "new")}
    refused("has no image of class .*more --index_images", **settings)


def test_inside_the_models_folder(model, added, tmp_path, monkeypatch):
    """A version named by a relative path alone."""
    write_class(tmp_path / "bad" / "3", 1, 9)
    monkeypatch.chdir(model)
    refused("must be new .*Received: '3'", model="1", images=str(tmp_path / "bad"))


HELD_OUT = {
    "pickle": {"features": np.array([{}]), "labels": np.array([0])},
    "no labels": {"features": np.zeros((2, 32), np.float32)},
    "width": {"features": np.zeros((2, 5), np.float32), "labels": np.zeros(2, int)},
    "lengths": {"features": np.zeros((2, 32), np.float32), "labels": np.zeros(3, int)},
    "negative label": {"features": np.zeros((2, 32), np.float32), "labels": np.array([0, -1])},
    "label beyond": {"features": np.zeros((2, 32), np.float32), "labels": np.array([0, 10])},
    "NaN": {"features": np.full((2, 32), np.nan, np.float32), "labels": np.zeros(2, int)},
    "fractions": {"features": np.zeros((2, 32), np.float32), "labels": np.array([0, 0.5])},
    "a matrix": {"features": np.zeros((2, 32), np.float32), "labels": np.zeros((2, 1), int)},
    "nothing": {"features": np.zeros((0, 32), np.float32), "labels": np.zeros(0, int)},
}


@pytest.mark.parametrize("case", HELD_OUT)
def test_damaged_held_out_features_are_refused_before_the_work(exported, tmp_path, case):
    folder = tmp_path / "digits"
    shutil.copytree(exported[1] / "1", folder / "1")
    np.savez(folder / "1/held_out.npz", **HELD_OUT[case])
    write_sums(folder / "1")
    write_class(tmp_path / "new" / "x", 1, 9)
    refused("held_out.npz is damaged", model=str(folder), images=str(tmp_path / "new"))
    assert find_versions(folder) == [1]


@pytest.mark.parametrize(
    ("file", "path", "value"),
    [
        ("metadata.json", ("settings", "export"), None),
        ("metadata.json", ("settings", "export", "max_difference"), "small"),
        ("metadata.json", ("preprocessing",), 3),
        ("metadata.json", ("added",), [1]),
        ("metrics.json", ("export", "calibration"), None),
        ("metrics.json", ("added",), 3),
    ],
    ids=["settings", "text", "preprocessing", "added", "calibration", "added scores"],
)
def test_json_that_lacks_parts_is_refused_before_the_work(exported, tmp_path, file, path, value):
    folder = tmp_path / "digits"
    shutil.copytree(exported[1] / "1", folder / "1")
    content = inner = json.loads((folder / "1" / file).read_text())
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    (folder / "1" / file).write_text(json.dumps(content))
    write_sums(folder / "1")
    write_class(tmp_path / "new" / "x", 1, 9)
    refused("is damaged: its JSON files lack", model=str(folder), images=str(tmp_path / "new"))
    assert find_versions(folder) == [1]


def test_an_index_that_lost_its_names_is_refused(exported, tmp_path):
    folder = tmp_path / "digits"
    shutil.copytree(exported[1] / "1", folder / "1")
    (folder / "1/index/images.csv").write_text("row,id,class\n0,0,4\n")
    write_sums(folder / "1")
    write_class(tmp_path / "new" / "x", 1, 9)
    refused("images.csv is damaged", model=str(folder), images=str(tmp_path / "new"))


@pytest.mark.slow
def test_a_format_that_failed_in_the_export_is_not_tried_again(exported, tmp_path):
    shutil.copytree(exported[1] / "1", tmp_path / "digits/1")
    metrics = json.loads((tmp_path / "digits/1/metrics.json").read_text())
    metrics["export"]["failed"] = {"tflite_float32": "it crashes", "tflite_float16": "it crashes"}
    (tmp_path / "digits/1/metrics.json").write_text(json.dumps(metrics))
    metadata = json.loads((tmp_path / "digits/1/metadata.json").read_text())
    metadata["settings"]["export"]["formats"] = "saved_model, tflite_float32, tflite_dynamic"
    (tmp_path / "digits/1/metadata.json").write_text(json.dumps(metadata))
    write_sums(tmp_path / "digits/1")
    write_class(tmp_path / "new" / "x", 1, 9)
    config = AddClassConfig(
        model=str(tmp_path / "digits"), images=str(tmp_path / "new"), min_top1=0
    )
    scores = supcon_tf.add_class(config)
    assert scores["failed"] == {}
    files = [path.name for path in (tmp_path / "digits/2/tflite").iterdir()]
    assert files == ["dynamic.tflite"]
