"""Cross entropy: the baseline, with the same encoder and views."""

import keras
import tensorflow as tf

from supcon_tf.engine.method import Method, encode_views
from supcon_tf.methods.spec import MethodSpec, Parts
from supcon_tf.networks.copies import frozen_copy
from supcon_tf.networks.heads import build_classifier, project_views


@keras.saving.register_keras_serializable("supcon_tf")
class CrossEntropyModel(Method):
    """The baseline: the same encoder and views, a linear classifier, cross entropy.

    Batches are `(views [B, V, H, W, C], labels [B])`, or `(views, labels, sample_weight [B])`.

    Args:
        encoder: a built model from images [N, H, W, C] to features [N, F].
        num_classes: int >= 2.
        label_smoothing: float in [0, 1).
        **kwargs: as `Method`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, encoder, num_classes, label_smoothing=0.0, **kwargs):
        super().__init__(encoder, ("cross_entropy",), **kwargs)
        if not isinstance(label_smoothing, int | float) or not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1). Received: {label_smoothing!r}.")
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2. Received: {num_classes}.")
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        self.classification_head = keras.layers.Dense(num_classes, name="logits", dtype="float32")
        self.classification_head.build(encoder.output_shape)
        if self.ema_momentum is not None:
            self.ema_head = frozen_copy(self.classification_head, encoder.output_shape)
        self.cross_entropy = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=label_smoothing
        )

    def averaged_networks(self):
        """As the base's, and the head."""
        pairs = super().averaged_networks()
        return [*pairs, (self.classification_head, self.ema_head)] if pairs else []

    @property
    def evaluation_head(self):
        """The classifier to evaluate and keep: the moving average where there is one."""
        return self.classification_head if self.ema_momentum is None else self.ema_head

    def forward(self, batch, training=True):
        """Logits [b, V, C] and labels [b]."""
        views, labels, weights = keras.utils.unpack_x_y_sample_weight(batch)
        features = encode_views(self.encoder, views, training)
        outputs = {"logits": project_views(self.classification_head, features), "labels": labels}
        return outputs if weights is None else {**outputs, "sample_weight": weights}

    def compute_losses(self, outputs):
        """Cross entropy of every view."""
        logits, weights = outputs["logits"], outputs.get("sample_weight")
        _, num_views, num_classes = logits.shape
        targets = tf.one_hot(tf.repeat(tf.reshape(outputs["labels"], [-1]), num_views), num_classes)
        weights = None if weights is None else tf.repeat(tf.reshape(weights, [-1]), num_views)
        logits = tf.reshape(logits, [-1, num_classes])
        return {"cross_entropy": self.cross_entropy(targets, logits, weights)}

    def kept(self):
        """The encoder, and the classifier that was trained with it."""
        # A copy of its own, as the classifier freezes its encoder.
        classifier = build_classifier(super().kept()["encoder"], self.evaluation_head)
        return {**super().kept(), "classifier": classifier}

    def get_config(self):
        """The constructor's arguments."""
        own = {"num_classes": self.num_classes, "label_smoothing": self.label_smoothing}
        return {**super().get_config(), **own}


def _build(parts: Parts, *, label_smoothing=0.0):
    return CrossEntropyModel(parts.encoder, parts.num_classes, label_smoothing, **parts.engine)


SPEC = MethodSpec(_build)
