"""Stages as a whole: what they refuse, leave behind and continue."""

import itertools
import json
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

import supcon_tf
from supcon_tf import ClassifierConfig, PretrainConfig, UserError
from supcon_tf.engine import checkpoints
from supcon_tf.engine import loop as training
from supcon_tf.engine.progress import Progress
from supcon_tf.engine.saving import best_epoch
from supcon_tf.networks.initial import initial_weights
from supcon_tf.stages.features import extract_features
from supcon_tf.stages.run_directory import RunDirectory


def weights(run_dir, name="encoder"):
    model = keras.saving.load_model(f"{run_dir}/{name}.keras", compile=False)
    return [weight.numpy() for weight in model.weights]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "cifar1000"}, "dataset is unknown. Received: 'cifar1000'"),
        ({"encoder": "vgg"}, "encoder must be one of .*Received: 'vgg'"),
        ({"method": "byol"}, "method must be one of .*Received: 'byol'"),
        ({"augmentation": "rand"}, "augmentation must be one of .*Received: 'rand'"),
        ({"method_args": {"margin": 1.0}}, "no argument 'margin'"),
        ({"batch_size": 2000}, "at most the 1347 training images of digits. Received: 2000"),
        ({"image_size_px": 3}, "needs images of 4 pixels"),
        ({"strategy": "mirrored", "batch_size": 129}, "multiple of the 2 replicas. Received: 129"),
        ({"dataset": "folder:/nowhere"}, "data_dir is for TensorFlow Datasets"),
        ({"dataset": "folder:/nowhere", "data_dir": ""}, "not found. Received: '/nowhere'"),
        ({"compile": "on", "strategy": "mirrored"}, "compile=on is for one replica"),
        ({"micro_batch_size": 100}, "must divide the replica's batch of 128. Received: 100"),
        (
            {"method": "simclr", "num_views": 1},
            "simclr needs two views .*Received: 1",
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
        ({"schedule": "step"}, "schedule step takes one epoch or more"),
        ({"schedule": "cosine", "decay_epochs": "3"}, "takes no decay_epochs"),
        ({"schedule": "step", "decay_epochs": "5,3"}, "decay_epochs must rise"),
        ({"schedule": "step", "decay_epochs": "x"}, "must be numbers with commas"),
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


def test_classifier_needs_a_pretrained_encoder(tmp_path):
    with pytest.raises(UserError, match="has no pretrained encoder"):
        supcon_tf.train_classifier(ClassifierConfig(run_dir=str(tmp_path / "nothing")))
    assert list(tmp_path.iterdir()) == []


def test_classifier_is_linear_on_the_frozen_encoder(finished_run, digits):
    encoder, classifier = (
        keras.saving.load_model(finished_run / f"{name}.keras", compile=False)
        for name in ("encoder", "classifier")
    )
    images, labels = next(iter(digits.train.images(8, 500)))
    features = encoder(images, training=False).numpy()
    found = classifier(images, training=False)
    np.testing.assert_allclose(found["features"], features, rtol=1e-5, atol=1e-6)
    kernel, bias = classifier.get_layer("logits").get_weights()
    np.testing.assert_allclose(found["logits"], features @ kernel + bias, rtol=1e-3, atol=1e-3)
    assert np.mean(found["logits"].numpy().argmax(axis=1) == labels.numpy()) > 0.9


def test_classifier_is_not_replaced_silently(finished_run):
    with pytest.raises(UserError, match="already holds a classifier stage"):
        supcon_tf.train_classifier(ClassifierConfig(run_dir=str(finished_run), epochs=5))


def test_changed_data_is_refused(image_folder, tmp_path):
    config = PretrainConfig(
        dataset=f"folder:{image_folder}",
        image_size_px=8,
        encoder="resnet8",
        width_multiplier=0.25,
        batch_size=8,
        epochs=1,
        warmup_epochs=0,
        run_dir=str(tmp_path / "run"),
    )
    supcon_tf.pretrain(config)
    shutil.copy(image_folder / "dark/000.png", image_folder / "dark/new.png")
    with pytest.raises(UserError, match="split 'train' of folder:.* changed since"):
        supcon_tf.train_classifier(ClassifierConfig(run_dir=config.run_dir))
    assert not (tmp_path / "run" / "checkpoints/classifier").exists()


def signal_at(monkeypatch, step, number):
    """Sends this process a signal when so many steps of a run are done."""
    after_step = Progress.after_step

    def signalling(self, values):
        after_step(self, values)
        if self.step == step:
            signal.raise_signal(number)

    monkeypatch.setattr(Progress, "after_step", signalling)


def curves(run_dir):
    history = RunDirectory(str(run_dir)).history()["pretrain"]
    return {name: values for name, values in history.items() if name != "seconds"}


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_saves_and_the_resumed_run_ends_like_an_uninterrupted_one(
    number, error, finished_run, small_config, tmp_path, monkeypatch, capsys
):
    config = PretrainConfig(run_dir=str(tmp_path / "run"), **small_config)
    with monkeypatch.context() as patch:
        signal_at(patch, 23, number)
        with pytest.raises(error) as stopped:
            supcon_tf.pretrain(config)
    assert number == signal.SIGINT or stopped.value.code == 143
    assert "stopped; step 23 is saved" in capsys.readouterr().err
    assert not (tmp_path / "run" / "encoder.keras").exists()
    supcon_tf.pretrain(config.replace(resume=True))
    for left, right in zip(weights(config.run_dir), weights(finished_run), strict=True):
        np.testing.assert_array_equal(left, right)
    assert curves(config.run_dir) == curves(finished_run)
    assert len(curves(config.run_dir)["learning_rate"]) == 10


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
    for left, right in zip(weights(config.run_dir), weights(finished_run), strict=True):
        np.testing.assert_array_equal(left, right)
    assert curves(config.run_dir) == curves(finished_run)


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
        "epochs": 3,
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
    supcon_tf.pretrain(whole)
    for step in (5, 11):
        with monkeypatch.context() as patch:
            signal_at(patch, step, signal.SIGTERM)
            with pytest.raises(SystemExit):
                supcon_tf.pretrain(broken.replace(resume=True))
    supcon_tf.pretrain(broken.replace(resume=True))
    for left, right in zip(weights(whole.run_dir), weights(broken.run_dir), strict=True):
        np.testing.assert_array_equal(left, right)
    assert curves(whole.run_dir) == curves(broken.run_dir)


def test_checkpoints_are_written_between_epochs_too(small_config, tmp_path):
    config = PretrainConfig(
        run_dir=str(tmp_path / "run"),
        checkpoint_steps=3,
        keep_checkpoints=4,
        **{**small_config, "epochs": 2},
    )
    supcon_tf.pretrain(config)
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
    metrics = supcon_tf.pretrain(PretrainConfig(run_dir=str(run.path), **settings))
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


def test_resuming_a_finished_run_changes_nothing(finished_run, small_config, capsys):
    def content():
        files = [path for path in finished_run.rglob("*") if path.is_file()]
        return {path: path.read_bytes() for path in files if path.name != "manifest.json"}

    before = content()
    config = PretrainConfig(run_dir=str(finished_run), resume=True, **small_config)
    metrics = supcon_tf.pretrain(config)
    assert metrics == RunDirectory(str(finished_run)).metrics()["pretrain"]
    assert "nothing to resume" in capsys.readouterr().err
    assert content() == before


@pytest.mark.multi_device
def test_two_replicas_pretrain_like_one_and_resume(small_config, tmp_path, monkeypatch):
    """The whole stage, through the product's own path: strategy, stream, checkpoints, saving."""
    settings = {
        **small_config,
        "epochs": 2,
        "width_multiplier": 0.25,
        "batch_size": 256,
        "learning_rate": 0.05,
    }
    one, two = (
        PretrainConfig(run_dir=str(tmp_path / name), strategy=name, **settings)
        for name in ("one_device", "mirrored")
    )
    supcon_tf.pretrain(one)
    with monkeypatch.context() as patch:
        signal_at(patch, 7, signal.SIGTERM)
        with pytest.raises(SystemExit):
            supcon_tf.pretrain(two)
    supcon_tf.pretrain(two.replace(resume=True))
    losses = [RunDirectory(c.run_dir).history()["pretrain"]["loss"] for c in (one, two)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    for left, right in zip(weights(one.run_dir), weights(two.run_dir), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-4)


def test_a_loss_that_is_not_finite_stops_and_keeps_what_was_good(
    small_config, finished_run, tmp_path, monkeypatch
):
    train_function = training.train_function

    def failing(model):
        train, steps = train_function(model), itertools.count(1)

        def step(batches):
            values = train(batches)
            return {**values, "loss": np.nan} if next(steps) == 14 else values

        return step

    config = PretrainConfig(run_dir=str(tmp_path / "run"), **small_config)
    with monkeypatch.context() as patch:
        patch.setattr(training, "train_function", failing)
        with pytest.raises(
            UserError, match=r"the loss is nan at step 14 \(epoch 2\) .* of step 10 are kept"
        ):
            supcon_tf.pretrain(config)
    assert checkpoints.newest(tmp_path / "run/checkpoints/pretrain").step == 10
    supcon_tf.pretrain(config.replace(resume=True))
    for left, right in zip(weights(config.run_dir), weights(finished_run), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_rate_that_is_far_too_high_ends_without_an_encoder(small_config, tmp_path):
    settings = {**small_config, "learning_rate": 1000.0, "momentum": 0.99, "warmup_epochs": 0}
    config = PretrainConfig(run_dir=str(tmp_path / "run"), method="cross_entropy", **settings)
    with pytest.raises(UserError, match=r"(nan|not finite) at step \d+ .*Lower learning_rate"):
        supcon_tf.pretrain(config)
    assert not (tmp_path / "run" / "encoder.keras").exists()


def test_an_encoder_whose_weights_are_not_finite_is_refused(small_config, tmp_path):
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, name="conv")(images)
    encoder = keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))
    kernel, bias = encoder.get_layer("conv").get_weights()
    kernel[0, 0, 0, 0] = np.nan
    encoder.get_layer("conv").set_weights([kernel, bias])
    encoder.save(tmp_path / "broken.keras")
    settings = {**small_config, "encoder": str(tmp_path / "broken.keras")}
    del settings["width_multiplier"]
    with pytest.raises(UserError, match="weights of the encoder are not finite.*broken.keras"):
        supcon_tf.pretrain(PretrainConfig(run_dir=str(tmp_path / "run"), **settings))
    assert not (tmp_path / "run").exists()


def test_weights_that_become_not_finite_are_not_saved(small_config, tmp_path, monkeypatch):
    """A weight that no loss sees, such as an average of batch norm."""
    train_function = training.train_function

    def breaking(model):
        train, mean = train_function(model), model.encoder.get_layer("stem_norm").moving_mean

        def step(batches):
            values = train(batches)
            mean.assign(np.nan * mean)
            return values

        return step

    monkeypatch.setattr(training, "train_function", breaking)
    with pytest.raises(UserError, match="weights of the model are not finite at step 10"):
        supcon_tf.pretrain(PretrainConfig(run_dir=str(tmp_path / "run"), **small_config))
    assert list((tmp_path / "run").rglob("*.h5")) == []


def test_a_lost_best_checkpoint_is_said_and_another_taken(small_config, tmp_path, capsys):
    settings = {**small_config, "epochs": 4, "best_metric": "loss", "keep_checkpoints": 3}
    config = PretrainConfig(run_dir=str(tmp_path / "run"), **settings)
    supcon_tf.pretrain(config)
    folder = tmp_path / "run/checkpoints/pretrain"
    newest = folder / "000000040"
    state = json.loads((newest / "state.json").read_text())
    state["history"]["loss"] = [0.5, 3.0, 2.0, 4.0]  # The first epoch's checkpoint is not there.
    (newest / "state.json").write_text(json.dumps(state))
    (tmp_path / "run/encoder.keras").unlink()
    metrics = supcon_tf.pretrain(config.replace(resume=True))
    assert "the checkpoint of the best epoch, 1, is gone" in capsys.readouterr().err
    assert metrics["best_epoch"] == 3


def test_collapse_is_said(small_config, tmp_path, capsys):
    """With nothing but decay, all embeddings end in one place."""
    settings = {**small_config, "epochs": 4, "weight_decay": 1.0, "learning_rate": 0.5}
    supcon_tf.pretrain(PretrainConfig(run_dir=str(tmp_path / "run"), **settings))
    error = capsys.readouterr().err
    assert "that of identical embeddings (5.541): nothing is learned" in error
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
    supcon_tf.pretrain(PretrainConfig(run_dir=str(tmp_path / "run"), **settings))
    encoder = supcon_tf.build_encoder(str(tmp_path / "run/encoder.keras"), 8)
    assert len(encoder.trainable_weights) > 20


def test_cross_entropy_comes_with_its_classifier(small_config, tmp_path):
    run_dir = str(tmp_path / "run")
    settings = {**small_config, "epochs": 3}
    supcon_tf.pretrain(PretrainConfig(run_dir=run_dir, method="cross_entropy", **settings))
    metrics = supcon_tf.evaluate(supcon_tf.EvaluateConfig(run_dir=run_dir))
    assert metrics["top1"] > 0.5


def test_initial_weights_depend_on_the_seed_alone():
    import random

    def kernel(seed):
        with initial_weights(seed):
            layer = keras.layers.Dense(3)
            layer.build((None, 2))
        return layer.kernel.numpy()

    random.seed(1)
    before = random.getstate()
    np.testing.assert_array_equal(kernel(4), kernel(4))
    assert random.getstate() == before
    assert not np.array_equal(kernel(4), kernel(5))
