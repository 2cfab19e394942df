"""Metrics of a contrastive batch, in the calling convention of the losses."""

import keras
import tensorflow as tf

from supcon_tf.labels import class_segments


def positives_per_anchor(labels, embeddings):
    """How many positives each anchor has: the other rows of its class.

    Args:
        labels: int [B], class ids; None makes every image a class of its own.
        embeddings: [B, V, D] or [B, D]; only the shape is used.

    Returns:
        float32 [B], alike for all views of an image.
    """
    views = embeddings.shape[1] if len(embeddings.shape) == 3 else 1
    labels = tf.range(tf.shape(embeddings)[0]) if labels is None else tf.reshape(labels, [-1])
    others = class_segments(labels)[1]
    return views * (others + 1.0) - 1.0


@keras.saving.register_keras_serializable("supcon_tf")
class PositivesPerAnchor(keras.metrics.Mean):
    """Mean number of positives per anchor; `update_state(labels [B], embeddings [B, V, D])`."""

    def __init__(self, name="positives_per_anchor", **kwargs):
        super().__init__(name=name, **kwargs)

    def update_state(self, labels, embeddings, sample_weight=None):
        """Counts one batch: labels int [B] or None, embeddings [B, V, D] or [B, D]."""
        super().update_state(positives_per_anchor(labels, embeddings), sample_weight)


@keras.saving.register_keras_serializable("supcon_tf")
class AnchorsWithoutPositives(keras.metrics.Mean):
    """Share of the anchors that have no positive; `update_state(labels, embeddings)`."""

    def __init__(self, name="anchors_without_positives", **kwargs):
        super().__init__(name=name, **kwargs)

    def update_state(self, labels, embeddings, sample_weight=None):
        """Counts one batch: labels int [B] or None, embeddings [B, V, D] or [B, D]."""
        none = tf.cast(positives_per_anchor(labels, embeddings) < 1, tf.float32)
        super().update_state(none, sample_weight)
