import json
import tracemalloc

import numpy as np
import pytest
from reference import l2, raw
from sklearn.metrics import confusion_matrix as reference_confusion
from sklearn.neighbors import KNeighborsClassifier

import supcon_tf
from supcon_tf import UserError, knn_predict
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
    for name in ("learning_curves", "embeddings", "confusion_matrix"):
        assert (finished_run / "pictures" / f"{name}.png").stat().st_size > 5000


def test_too_many_neighbors_are_refused(finished_run):
    with pytest.raises(UserError, match="at most the 1347 training images. Received: 5000"):
        supcon_tf.evaluate(supcon_tf.EvaluateConfig(run_dir=str(finished_run), knn_neighbors=5000))


def test_an_uneven_last_batch_changes_nothing(finished_run, digits):
    """450 images in batches of 450 and of 64, the last of which holds 2."""
    encoder = RunDirectory(str(finished_run)).load_model("encoder")
    whole, labels = extract_features(encoder, digits.test, batch_size=450)
    parts, same_labels = extract_features(encoder, digits.test, batch_size=64)
    assert len(parts) == 450
    np.testing.assert_array_equal(labels, same_labels)
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)
