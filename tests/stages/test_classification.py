"""The classifier stage: linear on the frozen encoder, on the same data, never in the way."""

import shutil

import keras
import numpy as np
import pytest

import supcon_tf
from supcon_tf import ClassifierConfig, PretrainConfig, UserError


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
    supcon_tf.pretrain(config, maps=False)
    shutil.copy(image_folder / "dark/000.png", image_folder / "dark/new.png")
    with pytest.raises(UserError, match="split 'train' of folder:.* changed since"):
        supcon_tf.train_classifier(ClassifierConfig(run_dir=config.run_dir))
    assert not (tmp_path / "run" / "checkpoints/classifier").exists()
