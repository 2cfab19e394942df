"""Layers around the encoder."""

import keras
import tensorflow as tf
from keras import ops


def unit_norm(rows):
    """Scales the last axis to unit norm: float32 in, float32 out; zeros stay zeros.

    Args:
        rows: float [..., D].

    Returns:
        float32 [..., D].
    """
    rows = ops.cast(rows, "float32")
    # Scaling by the largest entry first: a float16 row such as 6e4 squares to infinity otherwise.
    largest = ops.stop_gradient(ops.max(ops.abs(rows), axis=-1, keepdims=True))
    rows = rows / ops.where(largest > 0, largest, 1.0)
    squared = ops.sum(ops.square(rows), axis=-1, keepdims=True)
    return rows * ops.where(squared > 0, ops.rsqrt(ops.where(squared > 0, squared, 1.0)), 0.0)


@keras.saving.register_keras_serializable("supcon_tf")
class ProjectionHead(keras.layers.Layer):
    """The projection network: dense and ReLU per hidden layer, a dense without bias, unit norm.

    Args:
        embedding_dim: int > 0, outputs.
        hidden_dims: units of the hidden layers; empty for a linear head.
        **kwargs: as `keras.layers.Layer`.

    Call arguments:
        features: float [B, F].

    Returns:
        float32 [B, embedding_dim], unit norm.

    Raises:
        ValueError: if a size is below 1.

    Reference:
        Khosla et al. 2020, section 3.1 (Proj(.), one hidden layer of 2048, output 128).
    """

    def __init__(self, embedding_dim=128, hidden_dims=(2048,), **kwargs):
        super().__init__(**kwargs)
        if min((embedding_dim, *hidden_dims)) < 1:
            raise ValueError(
                f"embedding_dim and hidden_dims must be at least 1. Received: {embedding_dim} and "
                f"{hidden_dims}."
            )
        self.embedding_dim = embedding_dim
        self.hidden_dims = tuple(hidden_dims)
        self.hidden = [
            keras.layers.Dense(units, "relu", dtype=self.dtype_policy, name=f"hidden{index + 1}")
            for index, units in enumerate(self.hidden_dims)
        ]
        self.projection = keras.layers.Dense(
            embedding_dim, use_bias=False, dtype=self.dtype_policy, name="projection"
        )

    def build(self, input_shape):
        """Builds the dense layers for features [B, F]."""
        for layer in (*self.hidden, self.projection):
            layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)

    def call(self, features):
        """Features float [B, F] in, unit-norm embeddings float32 [B, embedding_dim] out."""
        for layer in self.hidden:
            features = layer(features)
        return unit_norm(self.projection(features))

    def compute_output_shape(self, input_shape):
        """[B, F] in, [B, embedding_dim] out."""
        return (*input_shape[:-1], self.embedding_dim)

    def get_config(self):
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "embedding_dim": self.embedding_dim,
            "hidden_dims": self.hidden_dims,
        }


@keras.saving.register_keras_serializable("supcon_tf")
class MemoryQueue(keras.layers.Layer):
    """The embeddings and labels of the latest batches, first in, first out.

    Its state is three weights, which are in the checkpoint and alike on every replica.

    Args:
        size: int >= 1, rows kept.
        embedding_dim: int >= 1.
        **kwargs: as `keras.layers.Layer`.

    Raises:
        ValueError: if a size is below 1.

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
        self.labels = self.add_weight((size,), dtype="int32", name="labels", **alike)
        self.pushed = self.add_weight((), dtype="int64", name="pushed", **alike)
        self.built = True

    def contents(self):
        """Labels int32 [Q], embeddings float32 [Q, D], and bool [Q]: which rows are filled."""
        rows = tf.range(self.size, dtype=tf.int64)
        filled = rows < tf.convert_to_tensor(self.pushed)
        return tf.convert_to_tensor(self.labels), tf.convert_to_tensor(self.embeddings), filled

    def push(self, labels, embeddings):
        """Puts a batch in the place of the oldest rows.

        Args:
            labels: int [N].
            embeddings: float [N, D].

        Raises:
            ValueError: if the batch has more rows than the queue.
        """
        count = embeddings.shape[0]
        if count is None or count > self.size:
            raise ValueError(
                f"a queue of {self.size} rows must hold a whole batch of known size. Received: "
                f"{count} rows. Raise queue_size."
            )
        pushed = tf.convert_to_tensor(self.pushed)
        places = (pushed + tf.range(count, dtype=tf.int64)) % self.size
        for stored, rows in ((self.labels, labels), (self.embeddings, embeddings)):
            old, rows = tf.convert_to_tensor(stored), tf.stop_gradient(rows)
            rows = tf.cast(rows, old.dtype)
            stored.assign(tf.tensor_scatter_nd_update(old, places[:, None], rows))
        self.pushed.assign(pushed + count)

    def get_config(self):
        """The constructor's arguments."""
        config = super().get_config()
        own = {"size": self.size, "embedding_dim": self.embedding_dim}
        return {"name": config["name"], **own}
