"""Multi-crop: small views beside the large ones, from settings to the kept encoder."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from supcon_tf import (
    AUGMENTATIONS,
    ClassifierConfig,
    EvaluateConfig,
    PretrainConfig,
    UserError,
    evaluate,
    open_dataset,
    pretrain,
    train_classifier,
)
from supcon_tf.data.streams import views
from supcon_tf.data.views import Position, Views
from supcon_tf.engine.batches import encode_views, of_any_size
from supcon_tf.networks.copies import training_copy
from supcon_tf.networks.encoders import build_encoder
from supcon_tf.stages.building import encoder_of, stream_of
from supcon_tf.stages.checks import checked_batch, settings_checks


def config(data_dir, **changes):
    settings = {"data_dir": data_dir, "small_views": 3, "augmentation": "cifar", **changes}
    return PretrainConfig(image_size_px=16, batch_size=64, **settings)


def test_small_views_are_small_parts_of_the_images(digits, data_dir):
    found = next(iter(stream_of(config(data_dir), digits_at(data_dir))()))
    cifar = AUGMENTATIONS["cifar"]
    parts = dataclasses.replace(cifar, min_area=0.05, max_area=0.14)
    kinds = Views(cifar, 2, 16), Views(parts, 3, 8)
    expected = next(iter(views(digits.train, kinds, batch_size=64, position=Position(0))))
    assert [one.shape for one in found[0]] == [(64, 2, 16, 16, 3), (64, 3, 8, 8, 3)]
    for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_array_equal(one, other)
    wanted = config(data_dir, small_view_size_px=5)
    assert checked_batch(wanted, digits_at(data_dir), 1)[0][1].shape == (64, 3, 5, 5, 3)


def run_checks(settings):
    for check in settings_checks(settings):
        check()


def digits_at(data_dir):
    return open_dataset("digits", data_dir, image_size_px=16)


def test_an_encoder_of_one_size_encodes_views_of_several():
    encoder = training_copy(build_encoder("resnet8", 16, 0.25))
    rng = np.random.default_rng(0)
    large, small = (
        tf.constant(rng.random([2, n, s, s, 3], np.float32)) for n, s in ((2, 16), (3, 8))
    )
    found = encode_views(encoder, (large, small), training=False)
    assert found.shape == (2, 5, 16)
    free = of_any_size(encoder)
    assert of_any_size(encoder) is free
    assert {id(w) for w in free.weights} == {id(w) for w in encoder.weights}
    np.testing.assert_allclose(found[:, :2], encode_views(encoder, large, False), atol=1e-5)
    for image in range(2):
        for view in range(3):
            alone = free(small[image, view][None], training=False)[0]
            np.testing.assert_allclose(found[image, 2 + view], alone, atol=1e-5)

    @tf.function
    def in_graph(views):
        return encode_views(training_copy_of, views, training=False)

    training_copy_of = training_copy(build_encoder("resnet8", 16, 0.25))
    assert in_graph((large, small)).shape == (2, 5, 16)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_run_with_small_views_goes_on_as_any_other(tmp_path, data_dir):
    settings = {"width_multiplier": 0.25, "epochs": 2, "warmup_epochs": 1, "verbose": True}
    wanted = config(data_dir, run_dir=str(tmp_path / "run"), micro_batch_size=32, **settings)
    metrics = pretrain(wanted)
    assert np.isfinite(metrics["loss"])
    encoder = keras.saving.load_model(tmp_path / "run/encoder.keras")
    assert encoder.input_shape == (None, 16, 16, 3)
    train_classifier(ClassifierConfig(run_dir=wanted.run_dir, epochs=2))
    assert evaluate(EvaluateConfig(run_dir=wanted.run_dir))["top1"] > 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "suncet"}, "method suncet composes its own batches. Received: small_views=3"),
        ({"method": "comatch"}, "method comatch composes its own batches"),
    ],
)
def test_refuses_small_views_where_batches_are_composed(data_dir, changes, message):
    with pytest.raises(UserError, match=message):
        run_checks(config(data_dir, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "loco"}, "method loco: views of one size are needed. Received: 2 sizes"),
        ({"small_view_size_px": 16}, "small_view_size_px must be below the image's 16 pixels"),
    ],
)
def test_refuses_batches_that_do_not_fit(data_dir, changes, message):
    with pytest.raises(UserError, match=message):
        checked_batch(config(data_dir, **changes), digits_at(data_dir), 1)


def test_refuses_an_encoder_of_one_size_and_a_size_of_nothing(tmp_path, data_dir):
    images = keras.Input((16, 16, 3))
    flat = keras.layers.Dense(4)(keras.layers.Flatten()(images))
    keras.Model(images, flat).save(tmp_path / "flat.keras")
    with pytest.raises(
        UserError, match="small_views needs an encoder that takes images of 8 pixels too"
    ):
        encoder_of(config(data_dir, encoder=str(tmp_path / "flat.keras")), 16)
    with pytest.raises(UserError, match="small_view_size_px is for small_views. Received: 8"):
        PretrainConfig(small_view_size_px=8)
