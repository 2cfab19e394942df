"""Whole runs of CoMatch: trained, on two replicas, refused."""

import numpy as np
import pytest

import supcon_tf
from supcon_tf import PretrainConfig, UserError
from supcon_tf.stages.run_directory import RunDirectory

_FIXMATCH = {"alpha": 1, "graph_weight": 0}


def config(small_config, run_dir, **changes):
    settings = {
        "epochs": 3,
        "method": "comatch",
        "method_args": {
            "unlabelled_ratio": 4,
            "weak": "weak_symbols",
            "strong": "strong_symbols",
            "confidence": 0.3,
            "graph_threshold": 0.5,
        },
        "labels_per_class": 8,
        "batch_size": 32,
        "ema_momentum": 0.9,
    }
    return PretrainConfig(run_dir=str(run_dir), **{**small_config, **settings, **changes})


@pytest.fixture(scope="module")
def whole_run(small_config, tmp_path_factory):
    run = tmp_path_factory.mktemp("comatch") / "run"
    supcon_tf.pretrain(config(small_config, run), maps=False)
    return run


@pytest.mark.slow
def test_it_learns_and_keeps_its_classifier(whole_run):
    history = RunDirectory(str(whole_run)).history()["pretrain"]
    assert history["smoothed_top1"][-1] > 0.2  # Chance is 0.1.
    assert history["confident"][-1] > 0
    found = supcon_tf.evaluate(supcon_tf.EvaluateConfig(run_dir=str(whole_run)))
    assert found["top1"] > 0.2
    assert (whole_run / "classifier.keras").exists()


@pytest.mark.multi_device
@pytest.mark.slow
def test_two_replicas_train_like_one(small_config, tmp_path):
    changes, curves = {"epochs": 2, "learning_rate": 0.02}, []
    for strategy in ("one_device", "mirrored"):
        settings = config(small_config, tmp_path / strategy, strategy=strategy, **changes)
        supcon_tf.pretrain(settings, maps=False)
        curves.append(RunDirectory(settings.run_dir).history()["pretrain"])
    for name in ("loss", "supervised", "pseudo_label", "graph"):
        np.testing.assert_allclose(curves[0][name], curves[1][name], rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels_per_class": None}, "images without labels are needed. Received: digits"),
        (
            {"batch_size": 400},
            "batch_size must be at most 316, so that an epoch has at least one step. Received: 400",
        ),
        ({"queue_size": 100}, "queue of 100 rows must hold a whole batch. Received: 160 rows"),
        ({"num_views": 3}, "num_views must be 2 \\(strong views\\). Received: 3"),
        ({"method_args": {"alpha": 2}}, r"alpha must be in \[0, 1\]. Received: 2"),
        ({"method_args": {"unlabelled_ratio": 0}}, "unlabelled_ratio must be an int >= 1"),
        (
            {"method_args": {"teacher": True}, "ema_momentum": None},
            "teacher needs a moving average",
        ),
        ({"method_args": {"alpha": 1}, "queue_size": 500}, "comatch has no memory queue"),
        ({"temperature": 0.3, "method_args": _FIXMATCH}, "temperature has no effect when"),
        ({"embedding_dim": 32, "method_args": _FIXMATCH}, "comatch has no projection head"),
        ({"best_metric": "loss"}, "best_metric loss favours the first epochs"),
        ({"augmentation": "cifar", "method_args": _FIXMATCH}, "augmentation has no effect when"),
        ({"method_args": {"graph_ramp": True}}, "graph_ramp needs a graph_weight above 1"),
        ({"method_args": {"alpha": "x"}}, "alpha must be a number. Received: 'x'"),
        ({"method_args": {"unlabelled_ratio": True}}, "unlabelled_ratio must be a number"),
        ({"method_args": {"weak": 3}}, "weak must be a word. Received: 3"),
        ({"method_args": {"weak": "gentle"}}, "augmentation must be one of .* Received: 'gentle'"),
        ({"temperature": 0.001, "method_args": {"history": 0}}, "history must be an int >= 1"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    changes, message, small_config, tmp_path
):
    with pytest.raises(UserError, match=message):
        supcon_tf.pretrain(config(small_config, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_the_plan_counts_the_bank_that_is_asked_for(small_config, tmp_path):
    def planned(rows):
        return supcon_tf.plan(config(small_config, tmp_path / "run", queue_size=rows)).numbers

    few, many = planned(1000), planned(5000)
    row = 4 * (128 + 10 + 1)  # An embedding, the probabilities of the classes, and a label.
    assert many["queue_bytes"] - few["queue_bytes"] == 4000 * row
    assert many["checkpoint_bytes"] > few["checkpoint_bytes"]
