"""The shared training step: exact on several replicas, regularizers and all."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from supcon_tf import MomentumSGD, ProjectionHead, build_encoder, make_strategy, warmup_cosine
from supcon_tf.data.pipeline import sharding_off
from supcon_tf.methods import build_model
from supcon_tf.models.classifier import build_classifier
from supcon_tf.models.contrastive import ContrastiveModel
from supcon_tf.training import initial_weights

STEPS, BATCH = 5, 16


def batches():
    rng = np.random.default_rng(0)
    # Brightness and class depend on the position, so that the replicas' halves differ.
    views = rng.random((STEPS * BATCH, 2, 8, 8, 3)) * np.linspace(0.2, 1, BATCH).repeat(
        STEPS
    ).reshape(-1, 1, 1, 1, 1)
    labels = rng.integers(0, 3, STEPS * BATCH)
    data = tf.data.Dataset.from_tensor_slices((views.astype(np.float32), labels.astype(np.int32)))
    return sharding_off(data.batch(BATCH, drop_remainder=True))


def train(strategy_name, method, regularizer=None):
    """Weights and loss after some steps with batch norm, momentum, weight decay and a schedule."""
    strategy = make_strategy(strategy_name)
    with strategy.scope(), initial_weights(0):
        encoder = build_encoder("resnet8", 8, 0.25)
        if regularizer:
            encoder.get_layer("stem_conv").kernel.regularizer = regularizer
        model = build_model(method, encoder, lambda: ProjectionHead(8, (16,)), num_classes=3)
        optimizer = MomentumSGD(warmup_cosine(0.1, 2 * STEPS, 2), momentum=0.9, l2=1e-2)
        model.compile(optimizer=optimizer, jit_compile=strategy.num_replicas_in_sync == 1)
    before = [weight.numpy() for weight in model.trainable_weights]
    history = model.fit(batches(), epochs=2, shuffle=False, verbose=0)
    moved = max(
        np.abs(weight.numpy() - old).max()
        for weight, old in zip(model.trainable_weights, before, strict=True)
    )
    assert moved > 1e-2
    return [weight.numpy() for weight in model.weights], history.history["loss"]


@pytest.mark.multi_device
@pytest.mark.parametrize("method", ["supcon_out", "cross_entropy"])
def test_two_replicas_equal_one(method):
    one, one_loss = train("one_device", method, keras.regularizers.L2(0.05))
    two, two_loss = train("mirrored", method, keras.regularizers.L2(0.05))
    assert len(tf.config.list_logical_devices("CPU")) == 2
    np.testing.assert_allclose(two_loss, one_loss, rtol=1e-5)
    for left, right in zip(one, two, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=2e-5)


def test_regularizer_changes_the_step():
    plain, _ = train("one_device", "supcon_out")
    regularized, _ = train("one_device", "supcon_out", keras.regularizers.L2(0.05))
    assert max(np.abs(a - b).max() for a, b in zip(plain, regularized, strict=True)) > 1e-3


class _Counting(ContrastiveModel):
    """Two named terms, and state of its own that advances after the step."""

    def __init__(self, encoder):
        super().__init__(encoder, ("first", "second"))
        self.steps = self.add_weight(shape=(), dtype="int32", trainable=False, name="steps")
        self.built = True

    def compute_losses(self, data):
        views, _ = data
        features = self.encoder(views[:, 0])
        return {"first": tf.reduce_mean(features), "second": 2 * tf.reduce_mean(features)}

    def after_step(self):
        self.steps.assign_add(1)


def test_terms_are_summed_and_logged_and_state_advances():
    model = _Counting(build_encoder("resnet8", 8, 0.25))
    model.compile(optimizer=MomentumSGD(1e-6))
    logs = model.fit(batches(), shuffle=False, verbose=0).history
    assert set(logs) == {"loss", "first", "second"}
    np.testing.assert_allclose(logs["loss"], np.add(logs["first"], logs["second"]), rtol=1e-5)
    assert int(model.steps.numpy()) == STEPS


def test_base_class_is_abstract():
    with pytest.raises(TypeError, match="compute_losses"):
        ContrastiveModel(build_encoder("resnet8", 8, 0.25), ())


def test_classifier_freezes_the_encoder_and_joins_the_head():
    encoder = build_encoder("resnet8", 8, 0.25)
    head = keras.layers.Dense(3, name="logits")
    classifier = build_classifier(encoder, head)
    images = np.random.default_rng(0).random((4, 8, 8, 3)).astype(np.float32)
    found = classifier(images, training=True)
    np.testing.assert_allclose(found["features"], encoder(images, training=False), rtol=1e-6)
    np.testing.assert_allclose(found["logits"], head(found["features"]), rtol=1e-6)
    assert [weight.path for weight in classifier.trainable_weights] == [
        weight.path for weight in head.weights
    ]
