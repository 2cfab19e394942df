"""Training that diverges stops with a clear line and keeps what was good."""

import itertools

import keras
import numpy as np
import pytest
from run_contents import assert_equal_runs

import supcon_tf
from supcon_tf import PretrainConfig, UserError
from supcon_tf.engine import checkpoints
from supcon_tf.engine import loop as training


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
    supcon_tf.pretrain(config.replace(resume=True), maps=False)
    assert_equal_runs(config.run_dir, finished_run)


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
