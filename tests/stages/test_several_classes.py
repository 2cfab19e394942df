"""A run on images that have several classes each, from the plan to the files of its evaluation."""

import json
import shutil

import numpy as np
import pytest
from conftest import COLORS, write_several
from scipy.special import expit

import supcon_tf
from supcon_tf import ClassifierConfig, EvaluateConfig, PretrainConfig, UserError
from supcon_tf.stages.classification import train_head
from supcon_tf.stages.learning import describe_data
from supcon_tf.stages.run_directory import RunDirectory


@pytest.fixture
def run_dir(several_run, tmp_path):
    return str(shutil.copytree(several_run, tmp_path / "run"))


def test_the_run_learns_to_name_several_classes(several_run):
    run = RunDirectory(str(several_run))
    metrics = run.metrics()
    test = metrics["test"]
    assert test["mean_average_precision"] > 0.9
    assert test["micro_f1"] > 0.8
    assert test["knn_map"] > 0.7
    assert test["classes"].keys() == COLORS.keys()
    low, high = test["intervals"]["mean_average_precision"]
    assert low - 1e-9 <= test["mean_average_precision"] <= high + 1e-9
    assert "knn_top1" not in test
    assert "verdict" not in metrics["pretrain"]
    assert metrics["pretrain"]["knn_map"] == run.history()["pretrain"]["knn_map"][-1]
    assert metrics["classifier"]["train_map"] > 0.9
    assert {"classes.csv", "predictions.csv", "misclassified.csv"} == {
        file.name for file in (several_run / "evaluation/test").iterdir()
    }
    assert {file.name for file in (several_run / "pictures").iterdir()} == {
        "embeddings.png",
        "learning_curves.png",
    }
    positives = run.history()["pretrain"]["positives_per_anchor"]
    assert all(1 < value < 31 for value in positives)


def test_the_data_are_described(several_run):
    dataset = RunDirectory(str(several_run)).open_dataset()
    counts = dataset.train.labels().sum(axis=0)
    line = describe_data(dataset)
    assert f"({counts.sum() / dataset.train.num_examples:.2f} per image, smallest: " in line
    manifest = json.loads((several_run / "manifest.json").read_text())
    assert manifest["pretrain"]["dataset"]["multi_label"] is True


def test_the_plan_counts_classes_and_expected_positives(tmp_path):
    name = write_several(tmp_path / "images")
    config = PretrainConfig(
        dataset=name,
        run_dir=str(tmp_path / "run"),
        image_size_px=12,
        width_multiplier=0.25,
        batch_size=16,
    )
    plan = supcon_tf.plan(config)
    assert plan.problems == ()
    labels = supcon_tf.open_dataset(name).train.labels()
    assert plan.numbers["images_per_class"] == dict(zip(COLORS, labels.sum(axis=0), strict=True))
    assert plan.numbers["classes_per_image"] == labels.sum() / len(labels)
    pairs = [
        (labels[i] & labels[j]).any()
        for i in range(len(labels))
        for j in range(len(labels))
        if i != j
    ]
    assert plan.numbers["positives"] == pytest.approx(1 + 2 * 15 * np.mean(pairs))
    rows = dict(plan.rows)
    assert rows["classes per image"].endswith("from 0 to 3")
    refused = supcon_tf.plan(config.replace(method="triplet")).problems
    assert len(refused) == 1
    assert "triplet needs one class per image" in refused[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"best_metric": "knn_top1", "validation_fraction": 0.2}, "best_metric must be knn_map"),
        ({"best_metric": "knn_map"}, "best_metric knn_map needs a validation set"),
        ({"labels_per_class": 3}, "are for images of one class each"),
    ],
)
def test_settings_for_one_class_are_refused(settings, message, tmp_path):
    name = write_several(tmp_path / "images")
    config = {"dataset": name, "run_dir": str(tmp_path / "run"), "batch_size": 16, **settings}
    with pytest.raises(UserError, match=message):
        supcon_tf.pretrain(PretrainConfig(**config))
    assert not (tmp_path / "run").exists()


def test_the_precision_of_neighbours_is_for_several_classes(small_config, tmp_path):
    config = PretrainConfig(
        **small_config,
        run_dir=str(tmp_path / "run"),
        best_metric="knn_map",
        validation_fraction=0.2,
    )
    with pytest.raises(UserError, match="best_metric must be knn_top1 or loss"):
        supcon_tf.pretrain(config)


@pytest.mark.parametrize(("kind", "shares"), [(None, [0.5, 0.1]), ("inverse", [0.375, 0.25])])
def test_class_weights_count_the_images_of_a_class(kind, shares, tmp_path):
    """Where all features are equal, w_c n_c / (w_c n_c + N - n_c) is the best probability."""
    labels = np.zeros((40, 2), bool)
    labels[:20, 0] = labels[18:22, 1] = True  # Weights 12 / 20 and 12 / 4.
    config = ClassifierConfig(learning_rate=1.0, epochs=200, class_weights=kind)
    features = np.ones((40, 3), np.float32)
    head, _ = train_head(config, features, labels, 2, tmp_path)
    np.testing.assert_allclose(expit(head(features[:1])), [shares], atol=1e-3)


def test_logit_adjustment_is_refused(run_dir):
    config = ClassifierConfig(run_dir=run_dir, logit_adjustment=1.0, overwrite=True)
    with pytest.raises(UserError, match="logit_adjustment needs images of one class each"):
        supcon_tf.train_classifier(config)


@pytest.mark.slow
def test_fine_tuning_keeps_the_epoch_of_the_best_precision(run_dir):
    settings = {"fine_tune": "all", "epochs": 2, "batch_size": 16, "overwrite": True}
    config = ClassifierConfig(run_dir=run_dir, **settings)
    scores = supcon_tf.train_classifier(config)
    history = RunDirectory(run_dir).history()["classifier"]
    assert scores["validation_map"] == max(history["validation_map"])
    assert 0 < scores["train_map"] <= 1
    found = supcon_tf.evaluate(EvaluateConfig(run_dir=run_dir, bootstrap=0))
    assert found["mean_average_precision"] > 0.3


@pytest.mark.slow
def test_cross_entropy_keeps_a_classifier_of_sigmoids(tmp_path):
    config = PretrainConfig(
        dataset=write_several(tmp_path / "images"),
        run_dir=str(tmp_path / "run"),
        image_size_px=12,
        width_multiplier=0.5,
        augmentation="weak_symbols",
        method="cross_entropy",
        batch_size=16,
        epochs=8,
    )
    supcon_tf.pretrain(config)
    found = supcon_tf.evaluate(EvaluateConfig(run_dir=config.run_dir, bootstrap=0))
    assert found["mean_average_precision"] > 0.75


def test_other_tables_are_scored_and_other_data_refused(run_dir, tmp_path):
    other = write_several(tmp_path / "other", count=24, seed=5)
    found = supcon_tf.evaluate(EvaluateConfig(run_dir=run_dir, dataset=other, bootstrap=0))
    assert found["images"] == 24
    assert found["mean_average_precision"] > 0.9
    with pytest.raises(UserError, match="pass a table that lists them"):
        supcon_tf.evaluate(EvaluateConfig(run_dir=run_dir, dataset=f"folder:{tmp_path}"))
    for name, value in {"soft_neighbors_temperature": 0.1, "corruptions": True}.items():
        with pytest.raises(UserError, match=f"{name} needs images of one class"):
            supcon_tf.evaluate(EvaluateConfig(run_dir=run_dir, **{name: value}))
