"""The graph of an exported model: preprocessing, encoder, head, and the index of neighbours."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from supcon_tf.data.images import decode, preprocess
from supcon_tf.stages.class_scores import THRESHOLD


@dataclasses.dataclass(frozen=True)
class Head:
    """From features to probabilities: a linear classifier and, perhaps, added classes.

    Attributes:
        kernel: float32 [F, C].
        bias: float32 [C].
        temperature: divides the logits.
        prototypes: float32 [C + A, F], unit norm: the mean direction of each class, the A added
            ones last; None if none were added.
        prototype_scale: factor on the cosines to the prototypes.
        multi_label: whether an image may have any number of classes, each with its own probability.
    """

    kernel: np.ndarray
    bias: np.ndarray
    temperature: float = 1.0
    prototypes: np.ndarray | None = None
    prototype_scale: float = 1.0
    multi_label: bool = False


@dataclasses.dataclass(frozen=True)
class Index:
    """Training images to find neighbours among.

    Attributes:
        embeddings: float32 [N, F], unit norm.
        labels: int32 [N].
        distances: float32 [M], ascending: the distance (1 - cosine) to the k-th neighbour of
            images of the training distribution.
        neighbors: k; at most N.
        names: of each label; None if they are those of the classes.
    """

    embeddings: np.ndarray
    labels: np.ndarray
    distances: np.ndarray
    neighbors: int
    names: Sequence[str] | None = None


def read_head(model: Any) -> Head:
    """The head of a `Servable` that `tf.saved_model.load` has loaded."""
    head = Head(model.kernel.numpy(), model.bias.numpy(), float(model.temperature.numpy()))
    if not hasattr(model, "prototypes"):
        return head
    scale = float(model.prototype_scale.numpy())
    return dataclasses.replace(head, prototypes=model.prototypes.numpy(), prototype_scale=scale)


class Servable(tf.Module):
    """The model that is saved; `tf.saved_model.load` returns its variables and traced functions.

    Args:
        encode: from images float32 [B, S, S, 3] in [0, 1] to features float32 [B, F].
        variables: what `encode` reads.
        head: the classifier.
        index: the index, or None.
        class_names: C + A names.
        image_size_px: S.
    """

    def __init__(
        self,
        encode: Callable,
        variables: Sequence[tf.Variable],
        head: Head,
        index: Index | None,
        class_names: Sequence[str],
        image_size_px: int,
    ):
        super().__init__()
        self.encode, self.encoder_variables = encode, list(variables)
        self.kernel, self.bias = _constant(head.kernel), _constant(head.bias)
        self.temperature = _constant(np.float32(head.temperature))
        self.multi_label = head.multi_label
        self.has_prototypes, self.has_index = head.prototypes is not None, index is not None
        if self.has_prototypes:
            self.prototypes = _constant(head.prototypes)
            self.prototype_scale = _constant(np.float32(head.prototype_scale))
        if self.has_index:
            self.index_embeddings = _constant(index.embeddings)
            self.index_labels = _constant(index.labels.astype(np.int32))
            self.index_distances = _constant(index.distances)
            self.neighbors = index.neighbors
            self.index_names = list(index.names or class_names)
        self.class_names = list(class_names)
        self.image_size_px = image_size_px
        # `preprocess` for one image, without the cost of its loop.
        self.preprocess_one = tf.function(
            self._preprocess_one,
            input_signature=[tf.TensorSpec([], tf.string)],
            autograph=False,
        )

    def _preprocess_one(self, encoded):
        return preprocess(decode(encoded), self.image_size_px)

    def probabilities(self, features: tf.Tensor) -> tf.Tensor:
        """Probabilities float32 [B, C + A] for features [B, F].

        A softmax over the cosines to all prototypes gives each added class its share; the trained
        classes divide the rest as the trained classifier does. If images have several classes,
        sigmoids are used.
        """
        logits = (features @ self.kernel + self.bias) / self.temperature
        if self.multi_label:
            return tf.nn.sigmoid(logits)
        trained = tf.nn.softmax(logits)
        if not self.has_prototypes:
            return trained
        embeddings = tf.math.l2_normalize(features, axis=1)
        cosines = tf.matmul(embeddings, self.prototypes, transpose_b=True)
        shares = tf.nn.softmax(self.prototype_scale * cosines)  # [B, C + A]
        count = self.kernel.shape[1]
        left = tf.reduce_sum(shares[:, :count], axis=1, keepdims=True)
        return tf.concat([left * trained, shares[:, count:]], axis=1)

    def classify(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Classifies images float32 [B, S, S, 3] in [0, 1].

        Returns:
            `probabilities` float32 [B, C + A], and `embeddings` float32 [B, F] of unit norm.
        """
        features = self.encode(images)
        embeddings = tf.math.l2_normalize(features, axis=1)
        return {"probabilities": self.probabilities(features), "embeddings": embeddings}

    def outputs(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """As `classify`, with `class_id` int32 [B] and `class_name` string [B].

        Both are those of the most probable class. If images have several, the name joins those of
        all classes with a probability of 0.5 or more, if there are any, with | between.
        """
        found = self.classify(images)
        class_id = tf.argmax(found["probabilities"], axis=1, output_type=tf.int32)
        name = tf.gather(tf.constant(self.class_names), class_id)
        if self.multi_label:
            name = self._joined_names(found["probabilities"], class_id)
        return {"class_id": class_id, "class_name": name, **found}

    def _joined_names(self, probabilities, class_id):
        """The names of the classes that are predicted, string [B], with | between."""
        best = tf.range(len(self.class_names)) == class_id[:, None]
        shown = (probabilities >= THRESHOLD) | best  # [B, C]
        texts = tf.where(shown, tf.constant([f"|{name}" for name in self.class_names]), "")
        return tf.strings.substr(tf.strings.reduce_join(texts, axis=1), 1, 2**30)

    def nearest(self, embeddings: tf.Tensor) -> dict[str, tf.Tensor]:
        """The nearest images of the index.

        Args:
            embeddings: float32 [B, F], unit norm.

        Returns:
            `neighbor_ids` int32 [B, k] (rows of the index), `neighbor_labels` int32 [B, k],
            `neighbor_class_names` string [B, k], `similarities` float32 [B, k] (cosines), and
            `out_of_distribution` float32 [B]: the share of images of the training distribution
            that are nearer to their k-th neighbour.

        Reference:
            Sun et al. 2022, "Out-of-Distribution Detection with Deep Nearest Neighbors". Differs:
            the distance is given as its rank among the known ones.
        """
        cosines = tf.matmul(embeddings, self.index_embeddings, transpose_b=True)
        found = tf.math.top_k(cosines, self.neighbors)
        labels = tf.gather(self.index_labels, found.indices)
        distance = 1.0 - found.values[:, -1]
        rank = tf.searchsorted(self.index_distances, distance)
        count = tf.size(self.index_distances)
        return {
            "neighbor_ids": found.indices,
            "neighbor_labels": labels,
            "neighbor_class_names": tf.gather(tf.constant(self.index_names), labels),
            "similarities": found.values,
            "out_of_distribution": tf.cast(rank / count, tf.float32),
        }

    def decode_all(self, encoded: tf.Tensor) -> tf.Tensor:
        """Images float32 [B, S, S, 3] in [0, 1] from encoded ones, string [B]."""
        size = self.image_size_px
        return tf.map_fn(
            self._preprocess_one,
            encoded,
            fn_output_signature=tf.TensorSpec([size, size, 3], tf.float32),
        )

    def signatures(self) -> dict[str, Callable]:
        """The signatures by name, traced."""
        size, width = self.image_size_px, self.kernel.shape[0]
        encoded = tf.TensorSpec([None], tf.string, name="encoded")
        pixels = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")
        raw = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
        ready = tf.TensorSpec([None, size, size, 3], tf.float32, name="images")
        embeddings = tf.TensorSpec([None, width], tf.float32, name="embeddings")

        def from_pixels(images):
            return self.outputs(preprocess(images, size))

        def embed(encoded):
            return self.classify(self.decode_all(encoded))["embeddings"]

        functions = {
            "serving_default": (from_pixels, pixels),
            "serving_uint8": (from_pixels, raw),
            "serving_bytes": (lambda encoded: self.outputs(self.decode_all(encoded)), encoded),
            "embed": (lambda encoded: {"embeddings": embed(encoded)}, encoded),
            "preprocess": (lambda encoded: {"images": self.decode_all(encoded)}, encoded),
            "scale": (lambda images: {"images": preprocess(images, size)}, pixels),
            "classify": (self.classify, ready),
        }
        if self.has_index:
            functions["neighbors"] = (lambda encoded: self.nearest(embed(encoded)), encoded)
            functions["nearest"] = (self.nearest, embeddings)
        return {
            name: tf.function(function, input_signature=[spec], autograph=False)
            for name, (function, spec) in functions.items()
        }

    def save(self, folder: Path) -> None:
        """Writes the SavedModel into a folder."""
        tf.saved_model.save(self, str(folder), signatures=self.signatures())


def of_keras(
    encoder: keras.Model, head: Head, index: Index | None, class_names: Sequence[str]
) -> Servable:
    """The servable of an encoder from images [B, S, S, 3] in [0, 1] to features [B, F]."""
    size = encoder.input_shape[1]

    spec = tf.TensorSpec([None, size, size, 3], tf.float32, name="images")

    @tf.function(input_signature=[spec], autograph=False)
    def encode(images):
        return tf.cast(encoder(images, training=False), tf.float32)

    variables = [variable.value for variable in encoder.variables]
    return Servable(encode, variables, head, index, class_names, size)


def _constant(value):
    """A variable rather than a constant of the graph, which may not exceed 2 GB."""
    return tf.Variable(value, trainable=False)
