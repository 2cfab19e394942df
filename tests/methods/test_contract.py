"""Mistakes in a method that are found before the work, by trying it on a batch of its stream."""

import keras
import pytest
import tensorflow as tf

from supcon_tf import PretrainConfig, UserError
from supcon_tf.engine.method import Method
from supcon_tf.methods import METHODS
from supcon_tf.methods.spec import MethodSpec
from supcon_tf.stages.checks import checked_batch


class Toy(Method):
    """The mean of the features, by a name, perhaps unreduced or through a layer made too late."""

    def __init__(self, encoder, returned="spread", reduce=True, late=False, **kwargs):
        super().__init__(encoder, ("spread",), **kwargs)
        self.returned, self.reduce = returned, reduce
        self.late = keras.layers.Dense(3) if late else None

    def forward(self, batch, training=True):
        features = self.encoder(batch[0][:, 0], training=training)
        return features if self.late is None else self.late(features)

    def compute_losses(self, outputs):
        means = tf.reduce_mean(outputs, axis=1)
        return {self.returned: tf.reduce_mean(means) if self.reduce else means}


def build(parts, *, returned="spread", reduce=True, late=False):
    return Toy(parts.encoder, returned, reduce, late, **parts.engine)


def build_with_queue(parts):
    return Toy(parts.encoder, late=parts.queue_size(least=8) < 8, **parts.engine)


@pytest.mark.parametrize(
    ("builder", "arguments", "message"),
    [
        (build, {"returned": "wrong"}, "compute_losses must return spread. Received: wrong"),
        (build, {"reduce": False}, r"loss spread must be a scalar. Received: shape \(16,\)"),
        (build, {"late": True}, "a layer has no weights before the first step; build it"),
        (build_with_queue, {}, "queue_size must be at least 8. Received: 0"),
    ],
)
def test_is_told_in_a_line(builder, arguments, message, digits, monkeypatch):
    monkeypatch.setitem(METHODS, "toy", MethodSpec(builder))
    config = PretrainConfig(method="toy", method_args=arguments, batch_size=16)
    with pytest.raises(UserError, match=f"method toy: {message}"):
        checked_batch(config, digits, replicas=1)


def test_a_sound_method_passes(digits, monkeypatch):
    monkeypatch.setitem(METHODS, "toy", MethodSpec(build))
    config = PretrainConfig(method="toy", batch_size=16)
    views, labels = checked_batch(config, digits, replicas=1)
    assert views.shape == (16, 2, 8, 8, 3)
    assert labels.shape == (16,)
