"""Scores by class against scikit-learn, and against loops over the definitions."""

import time

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    classification_report,
    roc_auc_score,
)

from supcon_tf.stages.class_scores import below_chance, class_scores

NAMES = ("a", "b", "c", "d")


def drawn(images=300, classes=4, seed=0):
    """Probabilities that favour the label, and labels of which some classes are rare."""
    rng = np.random.default_rng(seed)
    shares = np.arange(1, classes + 1)
    labels = rng.choice(classes, images, p=shares / shares.sum())
    odds = rng.gamma(0.5, size=(images, classes)) + 0.4 * np.eye(classes)[labels]
    return odds / odds.sum(axis=1, keepdims=True), labels


def test_every_score_equals_scikit_learns():
    probabilities, labels = drawn()
    found, predicted = class_scores(probabilities, labels, NAMES), probabilities.argmax(axis=1)
    report = classification_report(labels, predicted, target_names=NAMES, output_dict=True)
    for number, name in enumerate(NAMES):
        scores = found["classes"][name]
        assert scores["support"] == report[name]["support"]
        for own, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert scores[own] == pytest.approx(report[name][theirs])
        is_of_class = labels == number
        area = average_precision_score(is_of_class, probabilities[:, number])
        assert scores["average_precision"] == pytest.approx(area)
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert found["macro_f1"] == pytest.approx(report["macro avg"]["f1-score"])
    area = roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert found["macro_roc_auc"] == pytest.approx(area)
    precisions = average_precision_score(np.eye(4)[labels], probabilities, average="macro")
    assert found["mean_average_precision"] == pytest.approx(precisions)


def ranking_by_definition(is_of_class, probability):
    """ROC AUC by pairs, of which ties count half, and average precision by thresholds."""
    positive, negative = probability[is_of_class], probability[~is_of_class]
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    precision, before = 0.0, 0
    for threshold in sorted(set(probability), reverse=True):
        hits = np.sum(positive >= threshold)
        precision += (hits - before) / len(positive) * hits / np.sum(probability >= threshold)
        before = hits
    return np.mean(pairs), precision


def test_ranking_scores_with_ties_by_definition():
    probabilities, labels = drawn(60)
    probabilities = np.round(probabilities, 1)  # Most of them tie with others.
    found = class_scores(probabilities, labels, NAMES)["classes"]
    for number, name in enumerate(NAMES):
        area, precision = ranking_by_definition(labels == number, probabilities[:, number])
        assert found[name]["roc_auc"] == pytest.approx(area)
        assert found[name]["average_precision"] == pytest.approx(precision)


def test_classes_without_images_or_never_predicted():
    probabilities = np.array([[0.6, 0.1, 0.3, 0.0], [0.2, 0.1, 0.7, 0.0], [0.5, 0.4, 0.1, 0.0]])
    found = class_scores(probabilities, np.array([0, 0, 1]), NAMES)
    never = {"precision": None, "recall": None, "f1": None}
    undefined = {"roc_auc": None, "average_precision": None}
    assert found["classes"]["d"] == {"support": 0, **never, **undefined}
    # Predicted, but without images; with an image, but never predicted.
    assert found["classes"]["c"] == {"support": 0, "precision": 0, "recall": None, "f1": 0} | (
        undefined
    )
    assert found["classes"]["b"] == {
        "support": 1,
        "precision": None,
        "recall": 0.0,
        "f1": 0.0,
        "roc_auc": 1.0,
        "average_precision": 1.0,
    }
    # Of class a, one of two images is found, and one of two predictions is right.
    assert found["balanced_accuracy"] == found["macro_f1"] == 0.25
    area = (0.5 + 1.0) / 2  # Of a: 0.6 above 0.5, 0.2 below.
    assert found["macro_roc_auc"] == area
    assert found["mean_average_precision"] == pytest.approx(((1 / 2 + 2 / 3 / 2) + 1.0) / 2)


def test_one_image():
    found = class_scores(np.array([[0.2, 0.8]]), np.array([1]), ("a", "b"))
    assert found["balanced_accuracy"] == found["macro_f1"] == found["mean_average_precision"] == 1
    assert found["macro_roc_auc"] is None
    assert found["classes"]["b"]["roc_auc"] is None


def test_classes_below_chance_the_worst_first():
    recalls = {"a": 0.25, "b": None, "c": 0.2, "d": 0.0}
    scores = {name: {"recall": recall, "support": 4} for name, recall in recalls.items()}
    assert list(below_chance(scores)) == ["d", "c"]


def test_many_images_and_classes_take_seconds():
    probabilities, labels = drawn(10_000, 100)
    start = time.process_time()
    class_scores(probabilities, labels, [str(number) for number in range(100)])
    assert time.process_time() - start < 5
