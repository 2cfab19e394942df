import csv
import json
import shutil
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from reference import l2, raw
from sklearn.metrics import confusion_matrix as reference_confusion
from sklearn.neighbors import KNeighborsClassifier

import supcon_tf
from supcon_tf import UserError, knn_predict, soft_neighbor_predict
from supcon_tf.core.files import write_json
from supcon_tf.stages import evaluation, run_directory
from supcon_tf.stages.features import extract_features
from supcon_tf.stages.run_directory import RunDirectory
from supcon_tf.stages.scores import classification_scores, confusion_matrix, top_k_accuracy


def test_knn_equals_scikit_learns_weighted_vote():
    train, queries = raw((60, 5), 0.7, 2.1), raw((2500, 5), 1.9, 0.4)
    labels = np.arange(60) % 7
    reference = KNeighborsClassifier(
        9, metric="cosine", weights=lambda d: np.exp(-d / 0.07), algorithm="brute"
    ).fit(train, labels)
    np.testing.assert_array_equal(
        knn_predict(train, labels, queries, 9), reference.predict(queries)
    )


def test_knn_uses_direction_and_not_length():
    train = np.array([[1.0, 0.1], [0.1, 9.0], [0.0, 1.0]])
    assert knn_predict(train, np.array([0, 1, 1]), np.array([[50.0, 1.0]]), 1) == [0]


def test_knn_ties_go_to_the_lowest_id_and_ids_may_be_any():
    train = np.tile(np.eye(3), (4, 1))
    labels = np.repeat([2**40, 7, 5, 2**40], 3)
    for neighbors, winner in ((12, 2**40), (8, 2**40)):
        assert np.all(knn_predict(train, labels, np.eye(3), neighbors) == winner)
    # Three classes with the same vote each.
    assert np.all(knn_predict(train[:9], labels[:9], np.eye(3), 9) == 5)


def test_knn_takes_no_memory_for_the_classes():
    """20,000 rows of as many classes: a one-hot would take 1.5 GiB."""
    rng = np.random.default_rng(0)
    train = rng.normal(size=(20_000, 4)).astype(np.float32)
    tracemalloc.start()
    found = knn_predict(train, np.arange(20_000) * 1000, train[:700], 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, np.arange(700) * 1000)
    assert peak < 2**28


@pytest.mark.parametrize("neighbors", [0, 4])
def test_knn_refuses_impossible_neighbors(neighbors):
    with pytest.raises(ValueError, match=f"from 1 to 3. Received: {neighbors}"):
        knn_predict(np.eye(3), np.arange(3), np.eye(3), neighbors)


def soft_posterior(gallery, labels, query, temperature):
    """The class posterior of one query, entry by entry in float64."""
    weights = dict.fromkeys(sorted(set(labels)), 0.0)
    for row, label in zip(gallery.astype(np.float64), labels, strict=True):
        cosine = sum(row * query) / (np.sqrt(sum(row**2)) * np.sqrt(sum(query**2)))
        weights[label] += np.exp(cosine / temperature)
    total = sum(weights.values())
    return {label: weight / total for label, weight in weights.items()}


@pytest.mark.parametrize("temperature", [0.02, 0.1, 0.5])
def test_soft_neighbors_equal_loops_over_the_gallery(temperature, monkeypatch):
    monkeypatch.setattr("supcon_tf.stages.scores._BLOCK_ELEMENTS", 200)  # Blocks of 6 queries.
    rng = np.random.default_rng(0)
    gallery, queries = rng.normal(size=(33, 4)), rng.normal(size=(200, 4))
    labels = np.array([9, 2**40, -1, 4, 7])[np.arange(33) % 5]
    posteriors = [soft_posterior(gallery, labels, query, temperature) for query in queries]
    expected = [max(posterior, key=posterior.get) for posterior in posteriors]
    found = soft_neighbor_predict(gallery, labels, queries, temperature)
    np.testing.assert_array_equal(found, expected)
    assert len(set(expected)) >= 4


def test_soft_neighbors_between_the_nearest_and_the_largest_class():
    gallery = np.array([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6]])
    labels, query = np.array([1, 0, 0]), np.array([[5.0, 0.0]])
    # Class 1 has exp(1 / t), class 0 has 2 exp(0.8 / t): equal at t = 0.2 / log(2) = 0.289.
    assert [soft_neighbor_predict(gallery, labels, query, t)[0] for t in (0.28, 0.3)] == [1, 0]


def test_soft_neighbors_at_extreme_temperatures():
    gallery, labels = np.eye(4), np.array([3, 1, 1, 0])
    for temperature in (1e-6, 0.1):
        found = soft_neighbor_predict(gallery, labels, np.eye(4) + 0.1, temperature)
        np.testing.assert_array_equal(found, labels)
    np.testing.assert_array_equal(soft_neighbor_predict(gallery, labels, np.eye(4), 1e6), 4 * [1])
    # Of classes with the same posterior the lowest id.
    assert soft_neighbor_predict(gallery, labels, np.zeros((1, 4)), 0.1) == [1]
    assert soft_neighbor_predict(gallery[[0, 3]], labels[[0, 3]], np.ones((1, 4)), 0.1) == [0]


@pytest.mark.parametrize("temperature", [0.0, -0.1, float("nan")])
def test_soft_neighbors_refuse_a_temperature_not_above_0(temperature):
    with pytest.raises(ValueError, match=f"temperature must be above 0. Received: {temperature}"):
        soft_neighbor_predict(np.eye(3), np.arange(3), np.eye(3), temperature)


def test_top_k_counts_ranks_and_gives_nothing_for_ties():
    scores = np.array([[0.1, 0.5, 0.4], [0.2, 0.3, 0.5], [0.3, 0.3, 0.3]])
    labels = np.array([1, 0, 1])
    assert [top_k_accuracy(scores, labels, k) for k in (1, 2, 3)] == [1 / 3, 1 / 3, 1]


def test_confusion_matrix_equals_scikit_learns():
    labels, predictions = np.arange(50) % 4, (np.arange(50) * 7) % 5 % 4
    np.testing.assert_array_equal(
        confusion_matrix(predictions, labels, 4), reference_confusion(labels, predictions)
    )


def test_scores_by_class():
    scores = l2(np.eye(3))[[0, 1, 1, 0]]
    found = classification_scores(scores, np.array([0, 1, 0, 0]), ["a", "b", "c"])
    assert found["top1"] == 0.75
    assert found["per_class"] == {"a": pytest.approx(2 / 3), "b": 1.0, "c": None}
    assert "top5" not in found


def test_evaluation_of_a_run(finished_run):
    metrics = json.loads((finished_run / "metrics.json").read_text())
    test = metrics["test"]
    assert test["images"] == 450
    counts = np.array(test["confusion_matrix"])
    assert counts.sum() == 450
    assert test["top1"] == pytest.approx(np.trace(counts) / 450)
    # Ten epochs of half the width: far from chance (0.1), well below the recipe's scores.
    assert test["top1"] > 0.8
    assert test["knn_top1"] > 0.8
    assert test["top5"] >= test["top1"]
    recalls = [scores["recall"] for scores in test["classes"].values()]
    assert recalls == [test["per_class"][name] for name in test["classes"]]
    assert test["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert test["macro_roc_auc"] > 0.95
    assert 0 < test["ece"] < 0.5
    for name in ("top1", "balanced_accuracy", "macro_f1", "knn_top1"):
        low, high = test["intervals"][name]
        assert low < test[name] < high < low + 0.1
    for name in ("learning_curves", "embeddings", "confusion_matrix"):
        assert (finished_run / "pictures" / f"{name}.png").stat().st_size > 5000


def read_csv(path):
    return list(csv.reader(path.read_text().splitlines()))


def test_what_was_predicted_is_written_as_csv(finished_run):
    test, folder = RunDirectory(str(finished_run)).metrics()["test"], finished_run / "evaluation"
    matrix = read_csv(folder / "test/confusion_matrix.csv")
    assert matrix[0][1:] == [row[0] for row in matrix[1:]] == list(test["per_class"])
    assert [list(map(int, row[1:])) for row in matrix[1:]] == test["confusion_matrix"]
    head, *predictions = read_csv(folder / "test/predictions.csv")
    assert [row[0] for row in predictions] == [str(place) for place in range(450)]
    assert np.mean([row[1] == row[2] for row in predictions]) == test["top1"]
    likelihoods = np.log([float(row[4]) for row in predictions])
    assert -likelihoods.mean() == pytest.approx(test["nll"], abs=1e-3)
    same_head, *wrong = read_csv(folder / "test/misclassified.csv")
    assert head == same_head
    expected = [row for row in predictions if row[1] != row[2]]
    assert len(wrong) > 5
    assert wrong == sorted(expected, key=lambda row: -float(row[3]))
    assert all(float(row[3]) >= float(row[4]) for row in wrong)


def test_without_resamples_there_are_no_intervals():
    metrics = {"images": 4, "knn_top1": 0.5}
    assert evaluation.intervals(supcon_tf.EvaluateConfig(bootstrap=0), metrics) == {}
    found = evaluation.intervals(supcon_tf.EvaluateConfig(bootstrap=9, seed=3), metrics)
    assert set(found["intervals"]) == {"knn_top1", "resamples", "seed"}


def test_classes_below_chance_are_remarked_upon_in_one_line(capsys):
    scores = {f"{number}": {"recall": 1.0, "support": 5} for number in range(12)}
    evaluation.remark(scores)
    assert capsys.readouterr().err == ""
    evaluation.remark({**scores, "cup": {"recall": 0.0, "support": 4}})
    assert capsys.readouterr().err == (
        "warning: 1 of 13 classes recognized less often than by guessing (7.7 %): 'cup' 0 % of 4 "
        "images\n"
    )
    evaluation.remark({name: {"recall": 0.0, "support": 4} for name in scores})
    assert capsys.readouterr().err.endswith(", '4' 0 % of 4 images and 7 more\n")


def test_soft_neighbors_of_a_run_where_asked_for(finished_run, tmp_path):
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    before = json.loads((run_dir / "metrics.json").read_text())["test"]
    assert "soft_neighbors_top1" not in before
    config = supcon_tf.EvaluateConfig(run_dir=str(run_dir), soft_neighbors_temperature=0.1)
    found = supcon_tf.evaluate(config)
    assert found["knn_top1"] == before["knn_top1"]
    assert found["soft_neighbors_temperature"] == 0.1
    assert found == json.loads((run_dir / "metrics.json").read_text())["test"]
    run = RunDirectory(str(run_dir))
    dataset, encoder = run.open_dataset(), run.load_model("encoder")
    (gallery, known), (features, labels) = (
        extract_features(encoder, split) for split in (dataset.train, dataset.test)
    )
    predicted = soft_neighbor_predict(gallery, known, features, 0.1)
    assert found["soft_neighbors_top1"] == np.mean(predicted == labels) > 0.6


def test_too_many_neighbors_are_refused(finished_run):
    with pytest.raises(UserError, match="at most the 1347 training images .*Received: 5000"):
        supcon_tf.evaluate(supcon_tf.EvaluateConfig(run_dir=str(finished_run), knn_neighbors=5000))


def test_an_uneven_last_batch_changes_nothing(finished_run, digits):
    """450 images in batches of 450 and of 64, the last of which holds 2."""
    encoder = RunDirectory(str(finished_run)).load_model("encoder")
    whole, labels = extract_features(encoder, digits.test, batch_size=450)
    parts, same_labels = extract_features(encoder, digits.test, batch_size=64)
    assert len(parts) == 450
    np.testing.assert_array_equal(labels, same_labels)
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)


def test_scores_that_are_recorded_at_once_are_all_kept(tmp_path, monkeypatch):
    """As of evaluate.py beside export.py: files are read, changed and written back in turn."""
    names = [f"{number}" for number in range(8)]
    start = threading.Barrier(len(names))
    reading = run_directory.read_json

    def slow(path):
        content = reading(path)
        time.sleep(0.02)  # Whoever reads now would write over the others.
        return content

    def record(name):
        start.wait()
        RunDirectory(str(tmp_path)).record(name, {"top1": 1.0}, {"loss": [1.0]})

    write_json(tmp_path / "config.json", {})
    RunDirectory(str(tmp_path)).record("before", {}, {})
    monkeypatch.setattr(run_directory, "read_json", slow)
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(record, names))
    assert set(RunDirectory(str(tmp_path)).metrics()) == {"before", *names}
    assert set(RunDirectory(str(tmp_path)).history()) == {"before", *names}
