"""Heads on the encoder: a projection to the unit sphere, a linear classifier."""

import keras
from keras import ops

from supcon_tf.losses.pairs import unit_norm


@keras.saving.register_keras_serializable("supcon_tf")
class ProjectionHead(keras.layers.Layer):
    """The projection network: dense and ReLU per hidden layer, a dense without bias, unit norm.

    Args:
        embedding_dim: int > 0, outputs.
        hidden_dims: units of the hidden layers; empty for a linear head.
        normalize: whether the embeddings are scaled to unit norm.
        **kwargs: as for `keras.layers.Layer`.

    Call arguments:
        features: float [B, F].

    Returns:
        float32 [B, embedding_dim], of unit norm unless `normalize` is off.

    Raises:
        ValueError: if a size is below 1.

    Reference:
        Khosla et al. 2020, section 3.1 (Proj(.), one hidden layer of 2048, output 128).
    """

    def __init__(self, embedding_dim=128, hidden_dims=(2048,), normalize=True, **kwargs):
        super().__init__(**kwargs)
        if min((embedding_dim, *hidden_dims)) < 1:
            raise ValueError(
                f"embedding_dim and hidden_dims must be at least 1. Received: {embedding_dim} and "
                f"{hidden_dims}."
            )
        self.embedding_dim = embedding_dim
        self.hidden_dims = tuple(hidden_dims)
        self.normalize = normalize
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
        """Features float [B, F] in, embeddings float32 [B, embedding_dim] out."""
        for layer in self.hidden:
            features = layer(features)
        embeddings = self.projection(features)
        return unit_norm(embeddings) if self.normalize else ops.cast(embeddings, "float32")

    def compute_output_shape(self, input_shape):
        """[B, F] in, [B, embedding_dim] out."""
        return (*input_shape[:-1], self.embedding_dim)

    def get_config(self):
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "embedding_dim": self.embedding_dim,
            "hidden_dims": self.hidden_dims,
            "normalize": self.normalize,
        }


def project_views(head, features, training):
    """Applies a head to the features of each view.

    Args:
        head: a layer from features [N, F] to outputs [N, D].
        features: float [B, V, F].
        training: whether the head's batch norm and dropout, if it has them, train.

    Returns:
        float [B, V, D].
    """
    batch, num_views, dim = features.shape
    outputs = head(ops.reshape(features, [-1, dim]), training=training)
    return ops.reshape(outputs, [-1 if batch is None else batch, num_views, outputs.shape[-1]])


def classification_head(num_classes: int) -> keras.layers.Dense:
    """A linear layer from features [B, F] to logits float32 [B, num_classes]."""
    return keras.layers.Dense(num_classes, dtype="float32", name="logits")


def build_classifier(encoder: keras.Model, head: keras.layers.Dense) -> keras.Model:
    """Joins an encoder and a classification head; the encoder is frozen.

    Args:
        encoder: a functional model from images [B, S, S, 3] to features [B, F].
        head: a layer from features [B, F] to logits [B, num_classes].

    Returns:
        A functional model of Keras's own layers from float32 images [B, S, S, 3] in [0, 1] to
        `{"logits": [B, num_classes], "features": [B, F]}`.
    """
    encoder.trainable = False
    images = keras.Input(encoder.input_shape[1:], name="images")
    features = encoder(images, training=False)
    return keras.Model(images, {"logits": head(features), "features": features}, name="classifier")


def features_of(classifier: keras.Model) -> keras.Model:
    """The encoder inside a classifier, from images [B, S, S, 3] to features [B, F]."""
    return keras.Model(classifier.input, classifier.output["features"])
