"""Resuming is exact: an interrupted run ends like an uninterrupted one, bit for bit."""

import json
import signal

import keras
import numpy as np
import pytest
from run_contents import assert_equal_runs, curves, signal_at, weights

import supcon_tf
from supcon_tf import PretrainConfig
from supcon_tf.engine import checkpoints
from supcon_tf.stages.run_directory import RunDirectory


def test_signals_save_and_the_resumed_run_ends_like_an_uninterrupted_one(
    finished_run, small_config, tmp_path, monkeypatch, capsys
):
    config = PretrainConfig(run_dir=str(tmp_path / "run"), resume=True, **small_config)
    for step, number, error in (
        (13, signal.SIGTERM, SystemExit),
        (47, signal.SIGINT, KeyboardInterrupt),
    ):
        with monkeypatch.context() as patch:
            signal_at(patch, step, number)
            with pytest.raises(error) as stopped:
                supcon_tf.pretrain(config, maps=False)
        assert error is KeyboardInterrupt or stopped.value.code == 143
        assert f"stopped: step {step} is saved" in capsys.readouterr().err
        assert not (tmp_path / "run" / "encoder.keras").exists()
    supcon_tf.pretrain(config, maps=False)
    assert_equal_runs(config.run_dir, finished_run)
    assert len(curves(config.run_dir)["learning_rate"]) == 10


@pytest.mark.slow
def test_a_training_stopped_at_an_epochs_end_continues_as_if_it_never_had(
    finished_run, small_config, tmp_path
):
    config = PretrainConfig(run_dir=str(tmp_path / "run"), resume=True, **small_config)
    run, seen = RunDirectory(config.run_dir), []

    def stop_when(history):
        seen.append(len(history["loss"]))
        return len(history["loss"]) >= 4

    for _ in range(2):  # The second call has nothing to do.
        metrics = supcon_tf.pretrain(config, stop_when=stop_when)
        assert checkpoints.newest(run.checkpoints("pretrain")).step == 40
        assert not run.has_finished("pretrain")
        assert metrics["loss"] == curves(finished_run)["loss"][3]
    assert seen == [1, 2, 3, 4, 4]
    supcon_tf.pretrain(config, maps=False)
    assert not (run.pictures / "embeddings.png").exists()
    assert_equal_runs(config.run_dir, finished_run)


@pytest.mark.slow
def test_everything_that_changes_is_resumed(small_config, tmp_path, monkeypatch):
    """Queue, average, loss scale, seeds of dropout, optimizer, micro-batches, online k-NN."""
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu")(images)
    x = keras.layers.Dropout(0.2)(keras.layers.BatchNormalization()(x))
    features = keras.layers.GlobalAveragePooling2D()(x)
    keras.Model(images, features).save(tmp_path / "begin.keras")
    settings = {
        **{name: value for name, value in small_config.items() if name != "width_multiplier"},
        "encoder": str(tmp_path / "begin.keras"),
        "epochs": 2,
        "queue_size": 512,
        "ema_momentum": 0.99,
        "precision": "mixed_float16",
        "micro_batch_size": 64,
        "optimizer": "lars",
        "validation_fraction": 0.2,
        "best_metric": "knn_top1",
    }
    whole, broken = (
        PretrainConfig(run_dir=str(tmp_path / name), **settings) for name in ("whole", "broken")
    )
    supcon_tf.pretrain(whole, maps=False)
    for step in (5, 11):
        with monkeypatch.context() as patch:
            signal_at(patch, step, signal.SIGTERM)
            with pytest.raises(SystemExit):
                supcon_tf.pretrain(broken.replace(resume=True), maps=False)
    supcon_tf.pretrain(broken.replace(resume=True), maps=False)
    assert_equal_runs(whole.run_dir, broken.run_dir)


def test_resuming_a_finished_run_changes_nothing(finished_run, small_config, capsys):
    def content():
        files = [path for path in finished_run.rglob("*") if path.is_file()]
        return {path: path.read_bytes() for path in files if path.name != "manifest.json"}

    before = content()
    config = PretrainConfig(run_dir=str(finished_run), resume=True, **small_config)
    metrics = supcon_tf.pretrain(config, maps=False)
    assert metrics == RunDirectory(str(finished_run)).metrics()["pretrain"]
    assert "nothing to resume" in capsys.readouterr().err
    assert content() == before


@pytest.mark.slow
@pytest.mark.multi_device
def test_two_replicas_pretrain_like_one_and_resume(small_config, tmp_path, monkeypatch):
    """The whole stage, through the product's own path: strategy, stream, checkpoints, saving."""
    settings = {
        **small_config,
        "epochs": 2,
        "batch_size": 256,
        "learning_rate": 0.05,
    }
    one, two = (
        PretrainConfig(run_dir=str(tmp_path / name), strategy=name, **settings)
        for name in ("one_device", "mirrored")
    )
    supcon_tf.pretrain(one, maps=False)
    with monkeypatch.context() as patch:
        signal_at(patch, 7, signal.SIGTERM)
        with pytest.raises(SystemExit):
            supcon_tf.pretrain(two, maps=False)
    supcon_tf.pretrain(two.replace(resume=True), maps=False)
    losses = [RunDirectory(c.run_dir).history()["pretrain"]["loss"] for c in (one, two)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    for left, right in zip(weights(one.run_dir), weights(two.run_dir), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-4)


def test_a_lost_best_checkpoint_is_said_and_another_taken(small_config, tmp_path, capsys):
    settings = {**small_config, "epochs": 4, "best_metric": "loss", "keep_checkpoints": 3}
    config = PretrainConfig(run_dir=str(tmp_path / "run"), **settings)
    supcon_tf.pretrain(config, maps=False)
    folder = tmp_path / "run/checkpoints/pretrain"
    newest = folder / "000000040"
    state = json.loads((newest / "state.json").read_text())
    state["history"]["loss"] = [0.5, 3.0, 2.0, 4.0]  # The first epoch's checkpoint is not there.
    (newest / "state.json").write_text(json.dumps(state))
    (tmp_path / "run/encoder.keras").unlink()
    metrics = supcon_tf.pretrain(config.replace(resume=True), maps=False)
    assert "the checkpoint of the best epoch, 1, is gone" in capsys.readouterr().err
    assert metrics["best_epoch"] == 3
