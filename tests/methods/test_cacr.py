"""CACR as a method: with and without a momentum encoder and its queue."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import supcon_tf
from supcon_tf import CACRLoss, PairwiseModel, PretrainConfig, ProjectionHead, UserError, cacr_loss
from supcon_tf.data.views import sharding_off
from supcon_tf.networks.initial import initial_weights
from supcon_tf.stages.run_directory import RunDirectory

MOMENTUM = {"queue_size": 512, "ema_momentum": 0.9}


def small_model(loss=None, **settings):
    with initial_weights(0):
        images = keras.Input((8, 8, 3))
        x = keras.layers.Conv2D(4, 3, activation="relu")(images)
        encoder = keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))
        model = PairwiseModel(encoder, ProjectionHead(6, ()), loss or CACRLoss(), **settings)
    model.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=False)
    return model


def views(seed, count=5):
    images = np.random.default_rng(seed).random((count, 3, 8, 8, 3))
    return tf.constant(images, tf.float32)


def embedded(encoder, head, images):
    rows = head(encoder(tf.reshape(images, [-1, 8, 8, 3])))
    return tf.reshape(rows, [*images.shape[:2], 6])


def test_the_momentum_variant_is_given_its_keys_in_training_alone():
    model = small_model(queue_size=32, ema_momentum=0.5)
    model.train_step((views(0),))
    queue = [tf.identity(one) for one in model.queue.contents()]
    assert int(np.sum(queue[2])) == 15
    rows = embedded(model.encoder, model.projection_head, views(1))
    keys = embedded(model.ema_encoder, model.ema_head, views(1))
    with_keys = float(np.mean(cacr_loss(None, rows, queue=queue, keys=keys)))
    without = float(np.mean(cacr_loss(None, rows, queue=queue)))
    assert with_keys != pytest.approx(without, rel=1e-4)
    model.reset_metrics()
    assert float(model.test_step((views(1),))["loss"]) == pytest.approx(without, rel=1e-5)
    model.reset_metrics()
    assert float(model.train_step((views(1),))["loss"]) == pytest.approx(with_keys, rel=1e-5)


def test_without_a_queue_it_is_the_loss_of_the_batch():
    model = small_model()
    expected = float(CACRLoss()(None, embedded(model.encoder, model.projection_head, views(0))))
    assert float(model.train_step((views(0),))["loss"]) == pytest.approx(expected, rel=1e-5)


def config(small_config, run_dir, **changes):
    settings = {"epochs": 2, "method": "cacr", "num_views": 3, "width_multiplier": 0.25}
    return PretrainConfig(run_dir=str(run_dir), **{**small_config, **settings, **changes})


@pytest.mark.slow
def test_the_encoder_learns_from_the_other_views(small_config, tmp_path):
    whole = config(small_config, tmp_path / "run", **MOMENTUM)
    supcon_tf.pretrain(whole, maps=False)
    history = RunDirectory(whole.run_dir).history()["pretrain"]
    assert history["positives_per_anchor"] == [2.0, 2.0]
    found = supcon_tf.evaluate(supcon_tf.EvaluateConfig(run_dir=whole.run_dir))
    assert found["knn_top1"] > 0.5


@pytest.mark.multi_device
@pytest.mark.parametrize(
    ("loss", "settings"),
    [
        (CACRLoss(cost="rbf"), {"queue_size": 32, "ema_momentum": 0.9}),
        (CACRLoss(supervised=True), {}),
    ],
)
def test_two_replicas_train_like_one(loss, settings):
    batches = [(views(seed, 10), tf.range(10) % 3) for seed in range(3)]
    stacked = [tf.stack(part) for part in zip(*batches, strict=True)]
    stream = sharding_off(tf.data.Dataset.from_tensor_slices(tuple(stacked)))
    found = []
    for strategy in ("one_device", "mirrored"):
        with supcon_tf.make_strategy(strategy).scope():
            model = small_model(loss, **settings)
        losses = model.fit(stream, epochs=2, shuffle=False, verbose=0).history["loss"]
        found.append([*model.get_weights(), losses])
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.1}, "method cacr has no argument 'temperature'; it takes alpha, beta"),
        ({"num_views": 1}, "cacr needs two or more views of an image. Received: 1"),
        ({"method_args": {"t_negative": -1}}, "t_negative must be at least 0 and finite"),
        ({"method_args": {"supervised": True, "positive_prior": 0.1}}, "positive_prior cannot be"),
        ({"queue_size": 128}, "a queue of 128 rows must hold a whole batch. Received: 384"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    changes, message, small_config, tmp_path
):
    with pytest.raises(UserError, match=message):
        supcon_tf.pretrain(config(small_config, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()
