"""Stages as a whole: what they refuse, leave behind and continue."""

import io
import shutil

import keras
import numpy as np
import pytest

import supcon_tf
from supcon_tf import ClassifierConfig, PretrainConfig, UserError
from supcon_tf.runs import RunDirectory
from supcon_tf.training import Progress, initial_weights


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
        ({"holdout_fraction": 0.3}, "holdout_fraction is for folder data sets"),
        ({"method": "cross_entropy", "embedding_dim": 4}, "cross_entropy has no projection head"),
        ({"method_args": {"normalize": False}}, "no argument 'normalize'"),
    ],
)
def test_pretraining_refuses_bad_input_and_writes_nothing(changes, message, small_config, tmp_path):
    config = PretrainConfig(**{**small_config, "run_dir": str(tmp_path / "run"), **changes})
    with pytest.raises(UserError, match=message):
        supcon_tf.pretrain(config)
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


class _StopAfter(keras.callbacks.Callback):
    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epochs:
            raise KeyboardInterrupt


def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    finished_run, small_config, tmp_path, monkeypatch
):
    config = PretrainConfig(run_dir=str(tmp_path / "run"), **small_config)
    fit = keras.Model.fit

    def interrupted(self, *arguments, callbacks, **options):
        return fit(self, *arguments, callbacks=[*callbacks, _StopAfter(2)], **options)

    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            supcon_tf.pretrain(config)
    assert not (tmp_path / "run" / "encoder.keras").exists()
    supcon_tf.pretrain(config.replace(resume=True))
    for left, right in zip(weights(config.run_dir), weights(finished_run), strict=True):
        np.testing.assert_array_equal(left, right)
    histories = [RunDirectory(str(path)).history() for path in (config.run_dir, finished_run)]
    assert histories[0]["pretrain"]["loss"] == histories[1]["pretrain"]["loss"]
    assert len(histories[0]["pretrain"]["learning_rate"]) == 10


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
    settings = {**small_config, "epochs": 2, "width_multiplier": 0.25, "batch_size": 256}
    fit = keras.Model.fit

    def interrupted(self, *arguments, callbacks, **options):
        return fit(self, *arguments, callbacks=[*callbacks, _StopAfter(1)], **options)

    one, two = (
        PretrainConfig(run_dir=str(tmp_path / name), strategy=name, **settings)
        for name in ("one_device", "mirrored")
    )
    supcon_tf.pretrain(one)
    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            supcon_tf.pretrain(two)
    supcon_tf.pretrain(two.replace(resume=True))
    losses = [RunDirectory(c.run_dir).history()["pretrain"]["loss"] for c in (one, two)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    for left, right in zip(weights(one.run_dir), weights(two.run_dir), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-4)


def test_a_loss_that_is_not_finite_stops_and_keeps_what_was_good(small_config, tmp_path):
    settings = {**small_config, "learning_rate": 1000.0, "momentum": 0.99, "warmup_epochs": 0}
    config = PretrainConfig(run_dir=str(tmp_path / "run"), method="cross_entropy", **settings)
    with pytest.raises(UserError, match="the loss is nan in epoch . of pretrain"):
        supcon_tf.pretrain(config)
    assert not (tmp_path / "run" / "encoder.keras").exists()


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


def test_progress_is_a_line_an_epoch_where_there_is_no_terminal():
    stream = io.StringIO()
    progress = Progress("pretrain", epochs=3, steps_per_epoch=2, done=1, stream=stream)
    progress.on_train_begin()
    for epoch in (1, 2):
        progress.on_epoch_begin(epoch)
        for batch in range(2):
            progress.on_train_batch_end(batch, {"loss": 1.5})
        progress.on_epoch_end(epoch, {"loss": 1.5})
    progress.on_train_end()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("pretrain epoch 2/3 step 2/2 loss 1.5000")
    assert lines[1].endswith("(0 s left)")


def test_progress_is_one_bar_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    progress = Progress("pretrain", epochs=3, steps_per_epoch=2, done=1, stream=stream)
    progress.on_train_begin()
    for epoch in (1, 2):
        progress.on_epoch_begin(epoch)
        for batch in range(2):
            progress.on_train_batch_end(batch, {"loss": 1.5})
        progress.on_epoch_end(epoch, {"loss": 1.5})
    progress.on_train_end()
    last = stream.getvalue().split("\r")[-1]
    assert "pretrain: 100%" in last
    assert "6/6" in last
    assert "epoch 3/3 loss 1.5000" in last
