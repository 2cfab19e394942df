"""The classifier stage: linear on the frozen encoder, on the same data, never in the way."""

import math
import shutil

import keras
import numpy as np
import pytest
from scipy.stats import norm

import supcon_tf
from supcon_tf import ClassifierConfig, EvaluateConfig, PretrainConfig, UserError
from supcon_tf.core.errors import StorageError
from supcon_tf.data import held_files
from supcon_tf.engine import checkpoints
from supcon_tf.engine.progress import Progress
from supcon_tf.stages.classification import train_head


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


@pytest.mark.parametrize(
    ("settings", "boundary"),
    [
        ({}, math.log(19) / 2),
        ({"logit_adjustment": 1.0}, 0.0),
        ({"logit_adjustment": 0.5}, math.log(19) / 4),
        ({"class_weights": "inverse"}, 0.0),
        ({"class_weights": "effective", "class_weights_beta": 0.0}, math.log(19) / 2),
    ],
)
def test_rare_classes_move_the_boundary_as_theory_says(settings, boundary, tmp_path):
    """Normal features around -1 and 1, 95 % of them of the first class."""
    counts = (3800, 200)
    labels = np.repeat([0, 1], counts)
    normal = np.concatenate([norm.ppf((np.arange(count) + 0.5) / count) for count in counts])
    features = (normal + 2 * labels - 1).astype(np.float32)[:, None]
    config = ClassifierConfig(epochs=30, batch_size=200, **settings)
    head, _ = train_head(config, features, labels, 2, tmp_path)
    kernel, bias = (np.asarray(weight) for weight in head.get_weights())
    # Where both logits are equal.
    found = (bias[0] - bias[1]) / (kernel[0, 1] - kernel[0, 0])
    assert found == pytest.approx(boundary, abs=0.12)


def test_warm_up_and_label_smoothing_reach_the_linear_head(tmp_path):
    """Smoothed targets keep the logits of two far classes at log(0.95 / 0.05)."""
    labels = np.repeat([0, 1], 64)
    features = np.where(labels, 1.0, -1.0).astype(np.float32)[:, None]
    config = ClassifierConfig(epochs=200, batch_size=32, label_smoothing=0.1, warmup_epochs=100)
    head, history = train_head(config, features, labels, 2, tmp_path)
    logits = np.asarray(head(features))
    np.testing.assert_allclose(logits[-1, 1] - logits[-1, 0], math.log(19), atol=0.1)
    rates = history["learning_rate"]
    np.testing.assert_allclose(rates[:99:49], [0.5 * 3 / 400, 0.5 * 199 / 400, 0.5 * 395 / 400])


def small_pretraining(image_folder, tmp_path, **changes):
    settings = {
        "dataset": f"folder:{image_folder}",
        "image_size_px": 8,
        "encoder": "resnet8",
        "width_multiplier": 0.25,
        "batch_size": 8,
        "epochs": 1,
        "warmup_epochs": 0,
        "run_dir": str(tmp_path / "run"),
    }
    return PretrainConfig(**{**settings, **changes})


def test_changed_data_is_refused(image_folder, tmp_path):
    config = small_pretraining(image_folder, tmp_path)
    supcon_tf.pretrain(config, maps=False)
    shutil.copy(image_folder / "dark/000.png", image_folder / "dark/new.png")
    with pytest.raises(UserError, match="split 'train' of folder:.* changed since"):
        supcon_tf.train_classifier(ClassifierConfig(run_dir=config.run_dir))
    assert not (tmp_path / "run" / "checkpoints/classifier").exists()


def test_an_image_lost_while_a_stage_runs_is_named_and_checkpoints_are_kept(
    image_folder, tmp_path, monkeypatch
):
    """A file of the same size, so that the data set looks as it was; it is not held in memory."""
    monkeypatch.setattr(held_files, "_MOST_BYTES", 0)
    config = small_pretraining(image_folder, tmp_path, epochs=20)
    lost = image_folder / supcon_tf.open_dataset(config.dataset).train.names[0]
    sound = lost.read_bytes()
    after_epoch = Progress.after_epoch

    def losing(self, values):
        after_epoch(self, values)
        lost.write_bytes(bytes(len(sound)))

    def named():
        return pytest.raises(StorageError, match=f"cannot read image {lost}: .* with --resume")

    with monkeypatch.context() as patch, named():
        patch.setattr(Progress, "after_epoch", losing)
        supcon_tf.pretrain(config, maps=False)
    assert checkpoints.newest(tmp_path / "run/checkpoints/pretrain").step >= 4
    with pytest.raises(StorageError, match=f"cannot read image {lost}: "):
        supcon_tf.pretrain(config.replace(resume=True), maps=False)
    lost.write_bytes(sound)
    supcon_tf.pretrain(config.replace(resume=True), maps=False)
    lost.write_bytes(bytes(len(sound)))
    with named():
        supcon_tf.train_classifier(ClassifierConfig(run_dir=config.run_dir))
    with named():
        supcon_tf.evaluate(EvaluateConfig(run_dir=config.run_dir))
