"""Scores of a run and of a bundle on images of another data set."""

import csv
import json
import shutil

import numpy as np
import pytest

import supcon_tf
from supcon_tf import ClassifierConfig, EvaluateConfig, PredictConfig, UserError
from supcon_tf.cli import evaluate as command


@pytest.fixture(scope="module")
def threes_and_sevens(digits, tmp_path_factory):
    """The held-out images of two classes as a folder, where the sevens come first by name."""
    root = tmp_path_factory.mktemp("other")
    for place, (encoded, label) in enumerate(digits.test.records().as_numpy_iterator()):
        if label in (3, 7):
            (root / str(label)).mkdir(exist_ok=True)
            (root / str(label) / f"{place:03d}.png").write_bytes(encoded)
    return root


def of_two_classes(run):
    """Rows of the held-out images of the classes 3 and 7 in the run's own evaluation."""
    with open(run / "evaluation/test/predictions.csv", newline="") as file:
        return [row for row in list(csv.reader(file))[1:] if row[1] in ("3", "7")]


def test_a_run_on_a_folder_that_lacks_classes(finished_run, threes_and_sevens, tmp_path, capsys):
    run = shutil.copytree(finished_run, tmp_path / "run")
    before = json.loads((run / "metrics.json").read_text())
    dataset = f"folder:{threes_and_sevens}"
    config = EvaluateConfig(run_dir=str(run), dataset=dataset, bootstrap=10)
    command.main(config)
    after = json.loads((run / "metrics.json").read_text())
    found = after.pop(dataset)
    assert after == before
    expected = of_two_classes(finished_run)
    assert found["images"] == len(expected) == 91
    assert found["top1"] == np.mean([row[1] == row[2] for row in expected])
    assert (found["dataset"], found["bad_images"]) == (dataset, 0)
    assert len(found["fingerprint"]) == 64
    assert found["classes"]["0"]["recall"] is None
    assert found["per_class"]["3"] == before["test"]["per_class"]["3"]
    recalls = [np.mean([row[2] == name for row in expected if row[1] == name]) for name in "37"]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    (folder,) = (path for path in (run / "evaluation").iterdir() if path.name != "test")
    assert folder.name.startswith(threes_and_sevens.name)
    assert (folder / "confusion_matrix.png").exists()
    with open(folder / "predictions.csv", newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert sorted(row[1:3] for row in rows) == sorted(row[1:3] for row in expected)
    shares = [sorted(float(row[4]) for row in table) for table in (rows, expected)]
    np.testing.assert_allclose(*shares, atol=1e-4)
    assert rows[0][0].startswith("3/")
    shown = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 100 for line in shown if str(run) not in line)
    assert any(
        line.startswith(f"top1 {100 * found['top1']:.2f} % (95 % interval: ") for line in shown
    )
    supcon_tf.train_classifier(ClassifierConfig(run_dir=str(run), epochs=1, overwrite=True))
    assert set(json.loads((run / "metrics.json").read_text())) == {"pretrain", "classifier"}
    assert not (run / "evaluation").exists()


def test_a_bundle_on_a_folder(exported, finished_run, threes_and_sevens, tmp_path, capsys):
    _, model, _ = exported
    config = EvaluateConfig(
        model=str(model),
        dataset=f"folder:{threes_and_sevens}",
        output_dir=str(tmp_path / "scores"),
        batch_size=32,
        bootstrap=0,
    )
    command.main(config)
    (file,) = (tmp_path / "scores").glob("*/metrics.json")
    found = json.loads(file.read_text())
    images = [str(threes_and_sevens)]
    predicted = list(supcon_tf.predict(PredictConfig(model=str(model), top_k=10), images))
    truth = [row["image"].split("/")[-2] for row in predicted]
    assert found["top1"] == np.mean(
        [row["classes"][0] == label for row, label in zip(predicted, truth, strict=True)]
    )
    shares = [dict(zip(row["classes"], row["probabilities"], strict=True)) for row in predicted]
    likelihoods = [row[label] for row, label in zip(shares, truth, strict=True)]
    assert found["nll"] == pytest.approx(-np.log(likelihoods).mean(), abs=1e-5)
    # The index holds all training images, so the votes are those of the run's own k-NN.
    own = supcon_tf.evaluate(
        EvaluateConfig(run_dir=str(finished_run), dataset=config.dataset, bootstrap=0)
    )
    assert found["knn_top1"] == own["knn_top1"] > 0.8
    assert found["fingerprint"] == own["fingerprint"]
    assert found["model"] == "digits/1"
    assert "intervals" not in found
    assert "written to" in capsys.readouterr().out


def test_fewer_neighbours_vote_where_asked_for(exported, threes_and_sevens):
    config = EvaluateConfig(
        model=str(exported[1]),
        dataset=f"folder:{threes_and_sevens}",
        knn_neighbors=1,
        bootstrap=0,
    )
    found = supcon_tf.evaluate(config)
    bundle = supcon_tf.load_bundle(exported[1] / "1")
    assert found["knn_neighbors"] == 1
    right = 0
    for path in sorted(threes_and_sevens.rglob("*.png")):
        image = bundle.decode(path.read_bytes())[None]
        nearest = bundle.nearest(bundle.classify(image)["embeddings"])
        right += nearest["neighbor_class_names"][0][0] == path.parent.name
    assert found["knn_top1"] == pytest.approx(right / 91)


def test_a_file_to_write_to_is_refused(exported, threes_and_sevens, tmp_path):
    (tmp_path / "file").touch()
    config = EvaluateConfig(
        model=str(exported[1]),
        dataset=f"folder:{threes_and_sevens}",
        output_dir=str(tmp_path / "file"),
    )
    with pytest.raises(UserError, match="output_dir is a file. Received: .*/file. Give another"):
        supcon_tf.evaluate(config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "m"}, "scored on a data set. Received: model='m' alone"),
        ({"model": "m", "dataset": "folder:d", "run_dir": "r"}, "run_dir has no effect with mod"),
        (
            {"model": "m", "dataset": "folder:d", "soft_neighbors_temperature": 0.1},
            "soft_neighbors_temperature has no effect with model",
        ),
        ({"dataset": "folder:d", "split": "validation"}, "split has no effect with dataset"),
        ({"output_dir": "out"}, "output_dir has no effect without model. Received: .*'out'"),
        ({"data_dir": "data"}, "data_dir has no effect without dataset"),
        ({"skip_bad_images": True}, "skip_bad_images has no effect without dataset"),
        ({"dataset": "folder:"}, "dataset must name a folder"),
    ],
)
def test_settings_without_an_effect_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        EvaluateConfig(**settings)
