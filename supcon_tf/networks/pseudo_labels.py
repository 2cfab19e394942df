"""The state that pseudo-labels are made with: recent class probabilities, and a memory bank."""

import keras
import tensorflow as tf

from supcon_tf.losses.pseudo_labels import align_distribution, smooth_pseudo_labels
from supcon_tf.networks.queue import MemoryQueue


class ClassQueue(keras.layers.Layer):
    """A `MemoryQueue` of embeddings and class probabilities.

    Args:
        size: int >= 1, rows kept.
        embedding_dim: int >= 1.
        num_classes: int >= 1.
        **kwargs: as for `keras.layers.Layer`.
    """

    def __init__(self, size, embedding_dim, num_classes, **kwargs):
        super().__init__(trainable=False, dtype="float32", **kwargs)
        self.num_classes = num_classes
        self.queue = MemoryQueue(size, embedding_dim + num_classes, name="rows")
        self.built = True

    def contents(self):
        """Embeddings [Q, D], probabilities [Q, C], bool [Q]: which rows are filled."""
        _, rows, filled = self.queue.contents()
        return rows[:, : -self.num_classes], rows[:, -self.num_classes :], filled

    def push(self, embeddings, probabilities):
        """Puts float [N, D] and [N, C] in the place of the oldest rows."""
        rows = tf.concat([embeddings, probabilities], axis=1)
        self.queue.push(tf.zeros(tf.shape(rows)[:1], tf.int64), rows)


class PseudoLabeler(keras.layers.Layer):
    """Pseudo-labels: aligned with the recent average prediction, and smoothed by similar images.

    Args:
        embedding_dim: int >= 1.
        num_classes: int >= 1.
        history: batches that the average of class probabilities is taken over, the current one
            included.
        bank_size: rows of the memory bank, which smooths once it is full; 0 for no smoothing.
        temperature: as `smooth_pseudo_labels`.
        alpha: as `smooth_pseudo_labels`.
        **kwargs: as for `keras.layers.Layer`.

    Call arguments:
        logits: float32 [N, C].
        embeddings: float32 [N, D], unit rows.

    Returns:
        The aligned probabilities p and the smoothed pseudo-labels q, float32 [N, C]; no gradient.
    """

    def __init__(
        self, embedding_dim, num_classes, history, bank_size, temperature, alpha, **kwargs
    ):
        super().__init__(trainable=False, dtype="float32", **kwargs)
        self.temperature, self.alpha = temperature, alpha
        self.bank = None
        if bank_size:
            self.bank = ClassQueue(bank_size, embedding_dim, num_classes, name="bank")
        alike = {"trainable": False, "aggregation": "only_first_replica", "initializer": "zeros"}
        self.history = self.add_weight((history, num_classes), name="history", **alike)
        self.batches = self.add_weight((), dtype="int64", name="batches", **alike)
        self.built = True

    def call(self, logits, embeddings):
        """Logits [N, C] and embeddings [N, D] in, p and q [N, C] out."""
        probabilities = tf.nn.softmax(tf.stop_gradient(logits))
        history, count = self._history(probabilities)
        aligned = align_distribution(probabilities, tf.reduce_sum(history, axis=0) / count)
        if self.bank is None:
            return aligned, aligned
        bank = self.bank.contents()
        smoothed = smooth_pseudo_labels(
            aligned,
            tf.stop_gradient(embeddings),
            bank,
            temperature=self.temperature,
            alpha=self.alpha,
        )
        return aligned, tf.where(tf.reduce_all(bank[2]), smoothed, aligned)

    def _history(self, probabilities):
        """The history with this batch in the place of the oldest, and the batches in it."""
        history, batches = tf.convert_to_tensor(self.history), tf.convert_to_tensor(self.batches)
        place = tf.cast(batches % history.shape[0], tf.int32)
        mean = tf.reduce_mean(probabilities, axis=0)
        history = tf.tensor_scatter_nd_update(history, [[place]], mean[None])
        return history, tf.cast(tf.minimum(batches + 1, history.shape[0]), tf.float32)

    def push(self, logits, embeddings, probabilities):
        """Takes a batch into the history and, if there is one, into the bank.

        Args:
            logits: float32 [N, C], those of the call.
            embeddings: float32 [M_i, D] each, of unlabelled and of labelled images; not used
                without a bank.
            probabilities: float32 [M_i, C] each, their aligned probabilities and one-hot labels.
        """
        if self.bank is not None:
            self.bank.push(tf.concat(embeddings, axis=0), tf.concat(probabilities, axis=0))
        history, _ = self._history(tf.nn.softmax(logits))
        self.history.assign(history)
        self.batches.assign_add(1)
