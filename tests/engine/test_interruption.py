"""Runs in processes of their own that are killed: nothing is lost, the result is the same."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
from run_contents import assert_equal_runs, cluster_of_two, curves, finish, start, weights

import supcon_tf
from supcon_tf import PretrainConfig, UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_kills_at_random_steps_change_nothing(finished_run, small_config, tmp_path):
    settings = {
        **small_config,
        "run_dir": str(tmp_path / "run"),
        "resume": True,
        "checkpoint_steps": 3,
    }
    steps = sorted(random.Random(7).sample(range(4, 100), 3))
    for step in steps:
        code, error = finish(start(settings, step))
        assert code == -9, error
        assert not (tmp_path / "run/encoder.keras").exists()
    code, error = finish(start(settings))
    assert code == 0, error
    assert_equal_runs(settings["run_dir"], finished_run)


def start_workers(settings, kill_at=(0, 0)):
    environments = cluster_of_two()
    return [start(settings, kill_at[index], **environments[index]) for index in range(2)]


@pytest.mark.slow
def test_two_workers_train_like_one_and_survive_the_loss_of_one(small_config, tmp_path):
    common = {
        **small_config,
        "epochs": 2,
        "learning_rate": 0.01,
        "checkpoint_steps": 4,
        "validation_fraction": 0.2,
        "queue_size": 512,
        "ema_momentum": 0.9,
    }
    one = {**common, "run_dir": str(tmp_path / "one"), "strategy": "one_device"}
    two = {**common, "run_dir": str(tmp_path / "two"), "strategy": "multi_worker", "resume": True}
    code, error = finish(start(one))
    assert code == 0, error

    first, second = start_workers(two, kill_at=(0, 6))
    assert finish(second)[0] == -9
    code, error = finish(first, 120)  # Left alone, it ends too.
    assert code > 0
    assert "unhealthy" in error or "Unavailable" in error
    kept = [path.name for path in (tmp_path / "two/checkpoints/pretrain").iterdir()]
    assert "000000004" in kept

    for process in start_workers(two):
        code, error = finish(process)
        assert code == 0, error
    assert (tmp_path / "two/encoder.keras").exists()
    ours, theirs = curves(two["run_dir"]), curves(one["run_dir"])
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-5)
    np.testing.assert_allclose(ours["knn_top1"], theirs["knn_top1"], atol=0.01)
    for left, right in zip(weights(two["run_dir"]), weights(one["run_dir"]), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-4)


def test_a_broken_cluster_description_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {}}')
    config = PretrainConfig(strategy="multi_worker", run_dir=str(tmp_path / "run"))
    message = "TF_CONFIG must describe the cluster. Received: '{\"cluster\": {}}'"
    with pytest.raises(UserError, match=re.escape(message)):
        supcon_tf.pretrain(config)
    assert list(tmp_path.iterdir()) == []
