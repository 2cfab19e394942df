"""Scores of several classes per image against scikit-learn and definitions; files, intervals."""

import csv
import types

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.metrics import (
    average_precision_score,
    classification_report,
    f1_score,
    log_loss,
    roc_auc_score,
)

from supcon_tf.stages.class_scores import class_scores
from supcon_tf.stages.label_files import write_label_files
from supcon_tf.stages.label_intervals import label_intervals
from supcon_tf.stages.label_scores import (
    as_binary,
    class_texts,
    headline_score,
    label_scores,
    mean_average_precision,
    neighbor_label_scores,
    never_found,
)

NAMES = ("a", "b", "c", "d")


def drawn(images=200, seed=0):
    """Logits that favour the classes shown, with ties, and classes of which some are rare."""
    rng = np.random.default_rng(seed)
    labels = rng.random((images, 4)) < [0.5, 0.3, 0.1, 0.05]
    return np.round(rng.normal(size=(images, 4)) + 1.5 * labels - 1, 1), labels


def test_every_score_equals_scikit_learns():
    logits, labels = drawn()
    probabilities, found = expit(logits), label_scores(logits, labels, NAMES)
    predicted = probabilities >= 0.5
    report = classification_report(
        labels, predicted, target_names=NAMES, output_dict=True, zero_division=0
    )
    for number, name in enumerate(NAMES):
        scores = found["classes"][name]
        for own, theirs in (
            ("support", "support"),
            ("precision", "precision"),
            ("recall", "recall"),
            ("f1", "f1-score"),
        ):
            assert scores[own] == pytest.approx(report[name][theirs])
        columns = labels[:, number], probabilities[:, number]
        assert scores["roc_auc"] == pytest.approx(roc_auc_score(*columns))
        assert scores["average_precision"] == pytest.approx(average_precision_score(*columns))
    assert found["micro_f1"] == pytest.approx(f1_score(labels, predicted, average="micro"))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert found["macro_recall"] == pytest.approx(report["macro avg"]["recall"])
    precision = average_precision_score(labels, probabilities, average="macro")
    assert found["mean_average_precision"] == pytest.approx(precision)
    assert found["macro_roc_auc"] == pytest.approx(roc_auc_score(labels, probabilities))
    exact = np.mean([(row == own).all() for row, own in zip(predicted, labels, strict=True)])
    assert found["exact_match"] == pytest.approx(exact)
    assert found["labels_per_image"] == labels.sum() / 200
    assert found["nll"] == pytest.approx(log_loss(labels.ravel(), probabilities.ravel()))


def test_one_class_per_image_is_scored_as_before():
    """Multi-hot labels of the most probable class and class ids are the same predictions."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 100)
    probabilities = softmax(3 * (rng.normal(size=(100, 4)) + np.eye(4)[labels]), axis=1)
    one_hot = np.eye(4, dtype=bool)
    sure = np.where(one_hot[probabilities.argmax(axis=1)], 0.9, 0.1)  # Over the threshold: one.
    for name in ("precision", "recall", "f1", "support"):
        several = class_scores(sure, one_hot[labels], NAMES)["classes"]
        single = class_scores(probabilities, labels, NAMES)["classes"]
        assert [several[n][name] for n in NAMES] == [single[n][name] for n in NAMES]


def test_classes_without_images_are_left_out_of_the_means():
    logits, labels = drawn()
    labels[:, 3] = False
    found = label_scores(logits, labels, NAMES)
    three = label_scores(logits[:, :3], labels[:, :3], NAMES[:3])
    for name in ("mean_average_precision", "macro_f1", "macro_recall", "macro_roc_auc"):
        assert found[name] == pytest.approx(three[name])
    assert found["classes"]["d"]["recall"] is None
    assert mean_average_precision(logits, labels) == found["mean_average_precision"]
    assert mean_average_precision(logits, np.zeros_like(labels)) == 0
    logits[:, 0] = -5.0
    assert never_found(label_scores(logits, labels, NAMES)["classes"]) == {"a": labels[:, 0].sum()}


def test_the_headline_is_the_mean_average_precision_or_the_top1():
    logits, labels = drawn()
    assert headline_score(logits, labels) == mean_average_precision(logits, labels)
    assert headline_score(np.eye(3)[[0, 1, 1, 2]], np.array([0, 1, 2, 2])) == 0.75


def test_sigmoids_are_softmax_of_two_classes():
    logits, labels = drawn(5)
    binary, present = as_binary(logits, labels)
    np.testing.assert_allclose(softmax(binary, axis=1)[:, 1], expit(logits).ravel())
    np.testing.assert_array_equal(present, labels.ravel())


def test_neighbours_vote_for_all_of_their_classes():
    rng = np.random.default_rng(0)
    gallery, queries = rng.normal(size=(30, 3)), rng.normal(size=(7, 3))
    known = rng.random((30, 4)) < 0.4
    expected = []
    for query in queries:
        cosines = gallery @ query / np.linalg.norm(gallery, axis=1) / np.linalg.norm(query)
        nearest = np.argsort(-cosines)[:5]
        weights = np.exp(cosines[nearest] / 0.07)
        expected.append((weights[:, None] * known[nearest]).sum(axis=0) / weights.sum())
    found = neighbor_label_scores(gallery, known, queries, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_answers_in_words():
    probabilities = np.array([[0.9, 0.1, 0.5, 0.6], [0.1, 0.4, 0.2, 0.3]])
    assert class_texts(probabilities, NAMES, multi_label=True) == ["a|c|d", "b"]
    assert class_texts(probabilities, NAMES, multi_label=False) == ["a", "b"]


def test_intervals_are_those_of_images_drawn_again():
    """Scikit-learn's scores of resamples, image by image, have the same percentiles."""
    logits, labels = drawn(60)
    probabilities = expit(logits)
    found = label_intervals(probabilities, labels, 2000, seed=3)
    rng, drawn_scores = np.random.default_rng(8), []
    for _ in range(400):
        chosen = rng.integers(0, 60, 60)
        own, scores = labels[chosen], probabilities[chosen]
        seen = own.any(axis=0)
        f1 = [f1_score(own[:, c], scores[:, c] >= 0.5) for c in np.flatnonzero(seen)]
        drawn_scores.append(
            (
                f1_score(own, scores >= 0.5, average="micro"),
                np.mean(f1),
                average_precision_score(own[:, seen], scores[:, seen]),
            )
        )
    for name, values in zip(found, np.transpose(drawn_scores), strict=True):
        assert found[name] == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=0.035)
    assert label_intervals(probabilities, labels, 2000, seed=3) == found


def test_intervals_of_one_draw_equal_the_scores_of_its_images(monkeypatch):
    logits, labels = drawn(40)
    probabilities = expit(logits)
    chosen = np.random.default_rng(5).integers(0, 40, 40)
    counts = np.bincount(chosen, minlength=40)
    fixed = types.SimpleNamespace(multinomial=lambda n, p, size: np.tile(counts, (size, 1)))
    monkeypatch.setattr(np.random, "default_rng", lambda seed: fixed)
    found = label_intervals(probabilities, labels, 1, seed=0)
    expected = label_scores(logits[chosen], labels[chosen], NAMES)
    for name, ends in found.items():
        assert ends == pytest.approx([expected[name]] * 2)


def test_files_name_what_is_shown_and_what_is_predicted(tmp_path):
    labels = np.array([[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]], bool)
    logits = np.array([[2.0, 1.0, -3.0, -2.0], [-1.0, 4.0, -2.0, 1.0], [-1.0, 0.1, -2.0, -3.0]])
    split = types.SimpleNamespace(names=("x.png", "y.png", "z.png"))
    classes = label_scores(logits, labels, NAMES)["classes"]
    write_label_files(tmp_path, split, expit(logits), labels, classes)

    def read(name):
        with open(tmp_path / name, newline="") as file:
            return list(csv.reader(file))

    lines = read("predictions.csv")
    assert lines[0] == ["image", "true", "predicted", *NAMES]
    assert [line[:3] for line in lines[1:]] == [
        ["x.png", "a|b", "a|b"],
        ["y.png", "d", "b|d"],
        ["z.png", "", "b"],
    ]
    assert lines[1][3] == f"{expit(2.0):.6f}"
    assert [line[0] for line in read("misclassified.csv")[1:]] == ["y.png", "z.png"]
    assert read("classes.csv")[2][:3] == ["b", "1", "0.333333"]
