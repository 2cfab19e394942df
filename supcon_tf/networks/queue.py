"""The memory queue: labelled embeddings of earlier batches."""

import keras
import tensorflow as tf

from supcon_tf.losses.labels import class_ids, static_or_dynamic


@keras.saving.register_keras_serializable("supcon_tf")
class MemoryQueue(keras.layers.Layer):
    """The embeddings and labels of the latest batches, first in, first out.

    Its state is three weights, which are in the checkpoint and identical on every replica.

    Args:
        size: int >= 1, rows kept.
        embedding_dim: int >= 1.
        **kwargs: as for `keras.layers.Layer`.

    Raises:
        ValueError: if an argument is below 1.

    Reference:
        He et al. 2020, "Momentum Contrast for Unsupervised Visual Representation Learning",
        section 3.1 (dictionary as a queue), here with labels.
    """

    def __init__(self, size, embedding_dim, **kwargs):
        super().__init__(trainable=False, dtype="float32", **kwargs)
        if min(size, embedding_dim) < 1:
            raise ValueError(
                f"size and embedding_dim must be at least 1. Received: {size} and {embedding_dim}."
            )
        self.size, self.embedding_dim = size, embedding_dim
        alike = {"trainable": False, "aggregation": "only_first_replica", "initializer": "zeros"}
        self.embeddings = self.add_weight((size, embedding_dim), name="embeddings", **alike)
        self.labels = self.add_weight((size,), dtype="int64", name="labels", **alike)
        self.pushed = self.add_weight((), dtype="int64", name="pushed", **alike)
        self.built = True

    def contents(self):
        """Labels int64 [Q], embeddings float32 [Q, D], and bool [Q]: which rows are filled."""
        rows = tf.range(self.size, dtype=tf.int64)
        filled = rows < tf.convert_to_tensor(self.pushed)
        return tf.convert_to_tensor(self.labels), tf.convert_to_tensor(self.embeddings), filled

    def push(self, labels, embeddings):
        """Replaces the oldest rows with a batch.

        Args:
            labels: int [N], of any integer dtype.
            embeddings: float [N, D].

        Raises:
            ValueError: if the batch has more rows than the queue.
        """
        count = embeddings.shape[0]
        if count is not None and count > self.size:
            raise ValueError(
                f"a queue of {self.size} rows must hold a whole batch. Received: {count} rows. "
                "Raise queue_size."
            )
        labels = class_ids(labels, static_or_dynamic(embeddings))
        count = tf.shape(embeddings, tf.int64)[0]
        pushed = tf.convert_to_tensor(self.pushed)
        # Of a batch of unknown size, the last rows that fit.
        kept = tf.range(tf.maximum(tf.constant(0, tf.int64), count - self.size), count)
        places = (pushed + kept) % self.size
        for stored, rows in ((self.labels, labels), (self.embeddings, embeddings)):
            old, rows = tf.convert_to_tensor(stored), tf.stop_gradient(tf.gather(rows, kept))
            rows = tf.cast(rows, old.dtype)
            stored.assign(tf.tensor_scatter_nd_update(old, places[:, None], rows))
        self.pushed.assign(pushed + count)

    def get_config(self):
        """The constructor's arguments."""
        config = super().get_config()
        own = {"size": self.size, "embedding_dim": self.embedding_dim}
        return {"name": config["name"], **own}
