"""The shared training step: exact on several replicas, whatever takes part in it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from engine.models import BATCH, STEPS, batches, build

from supcon_tf import (
    PairwiseModel,
    ProjectionHead,
    SupConLoss,
    build_encoder,
    make_strategy,
)
from supcon_tf.engine.loss_scaling import SharedLossScale
from supcon_tf.engine.method import Method
from supcon_tf.engine.optimizer_factory import make_optimizer
from supcon_tf.networks.heads import build_classifier


def train(strategy_name, method="supcon_out", order=slice(None), **settings):
    """Weights, optimizer's state and losses after some steps."""
    model = build(strategy_name, method, **settings)
    before = [weight.numpy() for weight in model.trainable_weights]
    history = model.fit(batches(order), epochs=2, shuffle=False, verbose=0)
    moved = max(
        np.abs(weight.numpy() - old).max()
        for weight, old in zip(model.trainable_weights, before, strict=True)
    )
    assert moved > 1e-2
    variables = [*model.weights, *model.optimizer.variables]
    return [np.asarray(variable) for variable in variables], history.history["loss"]


# The slow ones are parts of the others, or are checked by themselves in test_optimizers.py.
_SLOW = pytest.mark.slow
_DECAY = keras.regularizers.L2(0.05)
_MOMENTUM_QUEUE = {"queue_size": 40, "ema_momentum": 0.9}


@pytest.mark.multi_device
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        pytest.param("supcon_out", {"regularizer": _DECAY}, id="regularizer", marks=_SLOW),
        pytest.param("cross_entropy", {"regularizer": _DECAY}, id="cross_entropy"),
        pytest.param("supcon_out", _MOMENTUM_QUEUE, id="momentum_queue"),
        pytest.param("supcon_out", {"optimizer": "lars"}, id="lars", marks=_SLOW),
        pytest.param("supcon_out", {"clip_norm": 0.1}, id="clipping", marks=_SLOW),
        pytest.param("supcon_in", {"queue_size": 40}, id="queue", marks=_SLOW),
        pytest.param("cross_entropy", {"ema_momentum": 0.9}, id="ema", marks=_SLOW),
    ],
)
def test_two_replicas_equal_one(method, settings):
    one, one_loss = train("one_device", method, **settings)
    two, two_loss = train("mirrored", method, **settings)
    assert len(tf.config.list_logical_devices("CPU")) == 2
    np.testing.assert_allclose(two_loss, one_loss, rtol=1e-5)
    for left, right in zip(one, two, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=2e-5)


@pytest.mark.slow
@pytest.mark.multi_device
def test_micro_batches_of_two_replicas_equal_those_of_one():
    """Batch norm sees a micro-batch of both replicas, which one device gets in another order."""
    halves = np.arange(BATCH).reshape(2, BATCH // 4, 2)
    together = halves.transpose(1, 0, 2).reshape(-1)
    one, one_loss = train("one_device", order=together, micro_batch_size=4)
    two, two_loss = train("mirrored", micro_batch_size=2)
    np.testing.assert_allclose(two_loss, one_loss, rtol=1e-5)
    for left, right in zip(one, two, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=2e-5)


@pytest.mark.multi_device
def test_an_overflow_on_one_replica_is_skipped_on_both():
    strategy = make_strategy("mirrored")
    with strategy.scope():
        variable = keras.Variable([1.0, 2.0])
        optimizer = SharedLossScale(make_optimizer("sgd", 1.0), initial_scale=1.0)
        optimizer.build([variable])

    @tf.function
    def step():
        def on_replica():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            gradient = tf.where(replica == 1, [np.inf, 0.0], [0.5, 0.5])
            optimizer.apply([gradient], [variable])

        strategy.run(on_replica)

    step()
    np.testing.assert_array_equal(np.asarray(variable), [1.0, 2.0])


@pytest.fixture(scope="module")
def plain_training():
    return train("one_device")


def test_compiling_with_xla_changes_nothing(plain_training):
    plain, plain_loss = plain_training
    compiled, compiled_loss = train("one_device", compiled=True)
    np.testing.assert_allclose(plain_loss, compiled_loss, rtol=1e-4)
    for left, right in zip(plain, compiled, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-4)


def test_regularizer_changes_the_step(plain_training):
    plain, _ = plain_training
    regularized, _ = train("one_device", regularizer=_DECAY)
    assert max(np.abs(a - b).max() for a, b in zip(plain, regularized, strict=True)) > 1e-3


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_trains_with_a_float32_loss_and_weights(precision, plain_training):
    model = build("one_device", precision=precision)
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}
    assert model.encoder.get_layer("stage2_block1_1_conv").compute_dtype == precision[6:]
    views, labels = next(iter(batches()))
    outputs = model.forward((views, labels))
    assert outputs["embeddings"].dtype == tf.float32
    assert model.compute_losses(outputs)["supcon"].dtype == tf.float32
    _, losses = train("one_device", precision=precision)
    _, exact = plain_training
    np.testing.assert_allclose(losses, exact, rtol=0.03)
    assert losses != exact
    assert losses[1] < losses[0]


def test_average_follows_the_weights():
    model = build("one_device", ema_momentum=0.99)
    conv = model.encoder.get_layer("stem_conv").kernel
    average = model.ema_encoder.get_layer("stem_conv").kernel
    expected = conv.numpy().astype(np.float64)
    for step, batch in enumerate(batches()):
        model.train_step(batch)
        momentum = min(0.99, (1 + step) / (10 + step))
        expected = momentum * expected + (1 - momentum) * conv.numpy()
    np.testing.assert_allclose(average.numpy(), expected, rtol=1e-5, atol=1e-7)
    assert np.abs(average.numpy() - conv.numpy()).max() > 1e-4
    assert model.evaluation_encoder is model.ema_encoder
    assert not any("ema" in weight.path for weight in model.trainable_weights)


def test_queue_holds_the_latest_embeddings_and_takes_part():
    model = build("one_device", queue_size=40)
    views, labels = next(iter(batches()))
    outputs = model.forward((views, labels))
    without = float(model.compute_losses(outputs)["supcon"])
    assert not model.queue.contents()[2].numpy().any()  # The loss changes nothing.
    model.after_step(outputs)
    kept, rows, filled = (part.numpy() for part in model.queue.contents())
    np.testing.assert_array_equal(filled, np.arange(40) < 32)
    embeddings = outputs["embeddings"].numpy().reshape(32, -1)
    np.testing.assert_allclose(rows[:32], embeddings, rtol=1e-6)
    np.testing.assert_array_equal(kept[:32], np.repeat(labels, 2))
    with_queue = float(model.compute_losses(outputs)["supcon"])
    assert with_queue > without + 0.3  # Twice the contrasts: about log 2 more.


def test_simclr_counts_the_views_of_an_image_as_positives():
    model = build("one_device", "simclr")
    model.measure(model.forward(next(iter(batches()))))
    found = {metric.name: float(metric.result()) for metric in model.pair_metrics}
    assert found["positives_per_anchor"] == 1.0
    assert found["anchors_without_positives"] == 0.0


class _Counting(Method):
    """Two named terms, and state of its own that advances after the step."""

    def __init__(self, encoder):
        super().__init__(encoder, ("first", "second"))
        self.steps = self.add_weight(shape=(), dtype="int32", trainable=False, name="steps")
        self.built = True

    def forward(self, batch, training=True):
        return self.encoder(batch[0][:, 0], training=training)

    def compute_losses(self, outputs):
        return {"first": tf.reduce_mean(outputs), "second": 2 * tf.reduce_mean(outputs)}

    def after_step(self, outputs):
        self.steps.assign_add(1)


def test_terms_are_summed_and_logged_and_state_advances():
    model = _Counting(build_encoder("resnet8", 8, 0.25))
    model.compile(optimizer=make_optimizer("sgd", 1e-6))
    logs = model.fit(batches(), shuffle=False, verbose=0).history
    assert set(logs) == {"loss", "first", "second"}
    np.testing.assert_allclose(logs["loss"], np.add(logs["first"], logs["second"]), rtol=1e-5)
    assert int(model.steps.numpy()) == STEPS


def test_base_class_is_abstract():
    with pytest.raises(TypeError, match="compute_losses"):
        Method(build_encoder("resnet8", 8, 0.25), ())


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"ema_momentum": 1.0}, "ema_momentum must be in .0, 1.. Received: 1.0"),
        ({"micro_batch_size": 0}, "micro_batch_size must be at least 1. Received: 0"),
    ],
)
def test_refuses_settings_out_of_range(engine, message):
    with pytest.raises(ValueError, match=message):
        PairwiseModel(
            build_encoder("resnet8", 8, 0.25), ProjectionHead(4, ()), SupConLoss(), **engine
        )


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
