"""Pretraining as a whole: what it refuses, shows and keeps."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import supcon_tf
from supcon_tf import ClassifierConfig, EvaluateConfig, PretrainConfig, UserError
from supcon_tf.engine.saving import best_epoch
from supcon_tf.stages import classification, evaluation, pretraining
from supcon_tf.stages.features import extract_features
from supcon_tf.stages.run_directory import RunDirectory


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "cifar1000"}, "dataset is unknown. Received: 'cifar1000'"),
        ({"encoder": "vgg"}, "encoder must be one of .*Received: 'vgg'"),
        ({"method": "byol"}, "method must be one of .*Received: 'byol'"),
        ({"initial_run": "none"}, "initial_run has no trained encoder. Received: .*none"),
        ({"augmentation": "rand"}, "augmentation must be one of .*Received: 'rand'"),
        ({"method_args": {"margin": 1.0}}, "margin needs denominator_mode"),
        (
            {"method": "triplet", "method_args": {"margin": "x"}},
            "method triplet: margin must be a number. Received: 'x'",
        ),
        (
            {"method": "cacr", "method_args": {"rbf_t": "x"}},
            "method cacr: a setting is of the wrong kind. Received: rbf_t='x'",
        ),
        (
            {"method": "comatch", "method_args": {"history": 2**63}},
            "method comatch: history must fit in 64 bits. Received: 9223372036854775808",
        ),
        ({"batch_size": 2000}, "at most 1347, the number of training images.*Received: 2000"),
        ({"image_size_px": 3}, "needs images of 4 pixels"),
        ({"strategy": "mirrored", "batch_size": 129}, "multiple of the 2 replicas. Received: 129"),
        ({"dataset": "folder:/nowhere"}, "data_dir is for TensorFlow Datasets"),
        ({"dataset": "folder:/nowhere", "data_dir": ""}, "not found. Received: '/nowhere'"),
        ({"compile": "on", "strategy": "mirrored"}, "compile=on is for one replica"),
        ({"micro_batch_size": 100}, "must divide the replica's batch of 128. Received: 100"),
        (
            {"method": "simclr", "num_views": 1},
            "simclr needs two or more views .*Received: 1",
        ),
        ({"schedule": "exponential", "decay_epochs": "inf"}, "must be numbers .*Received: 'inf'"),
        ({"schedule": "step", "decay_epochs": "nan"}, "must be numbers .*Received: 'nan'"),
        (
            {"schedule": "step", "decay_epochs": "2", "warmup_epochs": 3},
            "decay_epochs must be above the 3 epochs of warm-up. Received: '2'",
        ),
        ({"clip_norm": 1e39}, "clip_norm must be .* at most 1e.30. Received: 1e.39"),
        ({"validation_epochs": 2}, "validation_epochs needs a validation set"),
        ({"best_metric": "loss", "queue_size": 512}, "best_metric loss favours the first epochs"),
        ({"num_views": 3, "method": "npairs"}, r"method npairs: .*Received: shape .128, 3, 128."),
        ({"queue_size": 100}, "a queue of 100 rows must hold a whole batch.*Received: 256 rows"),
        ({"queue_size": 4096, "method": "triplet"}, "triplet has no memory queue"),
        ({"best_metric": "top1"}, "best_metric must be one of .*Received: 'top1'"),
        ({"best_metric": "knn_top1"}, "knn_top1 needs a validation set"),
        ({"optimizer": "adamw", "momentum": 0.9}, "momentum must be left out, for adamw"),
        ({"optimizer": "adamw", "nesterov": True}, "nesterov"),
        ({"decay_rate": 0.5}, "decay_rate .*Received: 0.5"),
        ({"schedule": "step"}, "schedule step takes one or more decay_epochs"),
        ({"schedule": "cosine", "decay_epochs": "3"}, "takes no decay_epochs"),
        ({"schedule": "step", "decay_epochs": "5,3"}, "must be above 0 and increasing"),
        ({"schedule": "step", "decay_epochs": "x"}, "must be numbers above 0, separated by commas"),
        ({"schedule": "step", "decay_epochs": "20"}, "must be below epochs .10.. Received: '20'"),
        ({"encoder": "applications:VGG17"}, "Received: .*VGG17"),
        ({"encoder": "none.keras"}, "none.keras"),
        ({"encoder_weights": "none.weights.h5"}, "none.weights.h5"),
        ({"holdout_fraction": 0.3}, "holdout_fraction is for folder data sets"),
        ({"method": "cross_entropy", "embedding_dim": 4}, "cross_entropy has no projection head"),
    ],
)
def test_pretraining_refuses_bad_input_and_writes_nothing(changes, message, small_config, tmp_path):
    with pytest.raises(UserError, match=message):
        supcon_tf.pretrain(
            PretrainConfig(**{**small_config, "run_dir": str(tmp_path / "run"), **changes})
        )
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_are_written_between_epochs_too(small_config, tmp_path):
    config = PretrainConfig(
        run_dir=str(tmp_path / "run"),
        checkpoint_steps=3,
        keep_checkpoints=4,
        **{**small_config, "epochs": 2},
    )
    supcon_tf.pretrain(config, maps=False)
    kept = sorted(int(path.name) for path in (tmp_path / "run/checkpoints/pretrain").iterdir())
    assert kept == [12, 15, 18, 20]


def test_the_best_epoch_is_kept(small_config, tmp_path):
    settings = {
        **small_config,
        "epochs": 4,
        "validation_fraction": 0.2,
        "best_metric": "knn_top1",
        "warmup_epochs": 0,
        "learning_rate": 2.0,
    }
    run = RunDirectory(str(tmp_path / "run"))
    metrics = supcon_tf.pretrain(PretrainConfig(run_dir=str(run.path), **settings), maps=False)
    scores = run.history()["pretrain"]["knn_top1"]
    assert metrics["best_epoch"] == scores.index(max(scores)) + 1
    assert metrics["knn_top1"] == max(scores) > 0.3
    kept = {int(path.name) for path in run.checkpoints("pretrain").iterdir()}
    assert metrics["best_epoch"] * 8 in kept
    dataset = run.open_dataset()
    assert dataset.validation.num_examples == 269
    encoder = run.load_model("encoder")
    gallery, labels = extract_features(encoder, dataset.train)
    queries, truth = extract_features(encoder, dataset.validation)
    found = np.mean(supcon_tf.knn_predict(gallery, labels, queries, 10) == truth)
    assert found == pytest.approx(metrics["knn_top1"], abs=0.005)


@pytest.mark.parametrize(
    ("history", "metric", "best"),
    [
        ({"loss": [3.0, 1.0, 1.0]}, "loss", 1),
        ({"knn_top1": [None, 0.5, None, 0.7, 0.7]}, "knn_top1", 3),
        ({"knn_top1": [None]}, "knn_top1", None),
        ({}, "loss", None),
    ],
)
def test_the_first_of_the_best_epochs_counts(history, metric, best):
    assert best_epoch(history, metric) == best


def test_collapse_is_said(small_config, tmp_path, capsys):
    """With nothing but decay, all embeddings end in one place."""
    settings = {**small_config, "epochs": 4, "weight_decay": 1.0, "learning_rate": 0.5}
    supcon_tf.pretrain(PretrainConfig(run_dir=str(tmp_path / "run"), **settings), maps=False)
    error = capsys.readouterr().err
    assert "the value for identical embeddings (5.541): nothing is learned" in error
    assert error.count("warning") == 1


def test_tensorboard_shows_the_curves_once(finished_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished_run / "logs/pretrain"))
    events.Reload()
    history = RunDirectory(str(finished_run)).history()["pretrain"]
    assert {"loss", "alignment", "uniformity", "effective_rank"} <= set(events.Tags()["tensors"])
    found = [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors("loss")]
    np.testing.assert_allclose(found, history["loss"], rtol=1e-6)


def test_what_is_kept_can_be_trained_on(small_config, tmp_path):
    settings = {**small_config, "epochs": 1, "method": "cross_entropy", "ema_momentum": 0.9}
    del settings["warmup_epochs"]
    supcon_tf.pretrain(PretrainConfig(run_dir=str(tmp_path / "run"), **settings), maps=False)
    encoder = supcon_tf.build_encoder(str(tmp_path / "run/encoder.keras"), 8)
    assert len(encoder.trainable_weights) > 20


def test_cross_entropy_comes_with_its_classifier(small_config, tmp_path):
    run_dir = str(tmp_path / "run")
    settings = {**small_config, "epochs": 3}
    config = PretrainConfig(run_dir=run_dir, method="cross_entropy", **settings)
    supcon_tf.pretrain(config, maps=False)
    metrics = supcon_tf.evaluate(supcon_tf.EvaluateConfig(run_dir=run_dir))
    assert metrics["top1"] > 0.5


def _removing(monkeypatch, run, replaced):
    """Removes a run directory while its last epoch ends, perhaps for another."""

    def remove(*args, **kwargs):
        shutil.rmtree(run)
        if replaced:
            RunDirectory(str(run)).begin("pretrain", PretrainConfig(run_dir=str(run)), {"name": ""})
        return fit(*args, **kwargs)

    for stage in (classification, pretraining):
        fit = stage.fit
        monkeypatch.setattr(stage, "fit", remove)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_run_directory_removed_meanwhile_is_refused_and_the_encoder_saved(
    replaced, small_config, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    _removing(monkeypatch, run, replaced)
    config = PretrainConfig(run_dir=str(run), **{**small_config, "epochs": 1, "warmup_epochs": 0})
    message = (
        f"removed or replaced while it was in use. Saved instead: {tmp_path}/run-encoder.keras"
    )
    with pytest.raises(UserError, match=message):
        supcon_tf.pretrain(config)
    assert not (run / "encoder.keras").exists()
    encoder = keras.saving.load_model(tmp_path / "run-encoder.keras")
    assert encoder.output_shape == (None, 32)


def test_a_run_that_took_the_place_of_another_keeps_its_checkpoints(
    small_config, tmp_path, monkeypatch
):
    run = tmp_path / "run"

    def replacing(epoch):
        if epoch == 0:
            shutil.rmtree(run)
            (run / "checkpoints/pretrain/000000999").mkdir(parents=True)
        return {}

    monkeypatch.setattr(pretraining, "_online_knn", lambda *_: replacing)
    config = PretrainConfig(run_dir=str(run), **{**small_config, "best_metric": "loss"})
    with pytest.raises(UserError, match=f"Saved instead: {tmp_path}/run-encoder.keras"):
        supcon_tf.pretrain(config)
    assert [path.name for path in run.rglob("*")] == ["checkpoints", "pretrain", "000000999"]


def test_a_run_directory_removed_meanwhile_keeps_the_classifier(
    finished_run, tmp_path, monkeypatch
):
    run = shutil.copytree(finished_run, tmp_path / "run")
    _removing(monkeypatch, run, False)
    config = ClassifierConfig(run_dir=str(run), epochs=1, overwrite=True)
    with pytest.raises(UserError, match=f"Saved instead: {tmp_path}/run-classifier.keras"):
        supcon_tf.train_classifier(config)
    classifier = keras.saving.load_model(tmp_path / "run-classifier.keras")
    assert classifier.output["logits"].shape == (None, 10)


def test_scores_of_a_run_directory_removed_meanwhile_are_refused(
    finished_run, tmp_path, monkeypatch
):
    run = shutil.copytree(finished_run, tmp_path / "run")

    def removing(*args):
        shutil.rmtree(run, ignore_errors=True)
        return {"knn_top1": 1.0}

    monkeypatch.setattr(evaluation, "_neighbor_scores", removing)
    with pytest.raises(
        UserError, match="removed or replaced while it was in use. No score is recorded"
    ):
        supcon_tf.evaluate(EvaluateConfig(run_dir=str(run)))
    assert not run.exists()
