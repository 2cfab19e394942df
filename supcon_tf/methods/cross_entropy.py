"""Cross entropy: the baseline, with the same encoder and views."""

import keras
import tensorflow as tf

from supcon_tf.engine.model import ContrastiveModel, encode_views
from supcon_tf.networks.copies import frozen_copy


class CrossEntropyModel(ContrastiveModel):
    """The baseline: the same encoder and views, a linear classifier, cross entropy.

    Args:
        encoder: a built model from images [N, H, W, C] to features [N, F].
        num_classes: int >= 2.
        label_smoothing: float in [0, 1).
        **kwargs: as `ContrastiveModel`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, encoder, num_classes, label_smoothing=0.0, **kwargs):
        super().__init__(encoder, ("cross_entropy",), **kwargs)
        if not isinstance(label_smoothing, int | float) or not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1). Received: {label_smoothing!r}.")
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2. Received: {num_classes}.")
        self.num_classes = num_classes
        self.classification_head = keras.layers.Dense(num_classes, name="logits", dtype="float32")
        self.classification_head.build(encoder.output_shape)
        if self.ema_momentum is not None:
            self.ema_head = frozen_copy(self.classification_head, encoder.output_shape)
        self.cross_entropy = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=label_smoothing
        )
        self.built = True

    def averaged_networks(self):
        """As the base's, and the head."""
        pairs = super().averaged_networks()
        return [*pairs, (self.classification_head, self.ema_head)] if pairs else []

    @property
    def evaluation_head(self):
        """The classifier to evaluate and keep: the moving average where there is one."""
        return self.classification_head if self.ema_momentum is None else self.ema_head

    def forward(self, inputs):
        """Logits [b * V, C] of views [b, V, H, W, C]."""
        return self.classification_head(encode_views(self.encoder, inputs))

    def compute_losses(self, labels, outputs):
        """Cross entropy of every view; each replica's mean is over its own equal share."""
        views = tf.shape(outputs)[0] // tf.shape(labels)[0]
        targets = tf.one_hot(tf.repeat(labels, views), self.num_classes)
        return {"cross_entropy": self.cross_entropy(targets, outputs)}
