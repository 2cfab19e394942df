"""Metrics of a contrastive batch, in the calling convention of the losses."""

import keras
import tensorflow as tf

from supcon_tf.losses.distances import log_near_one, squared_distances
from supcon_tf.losses.label_overlap import are_several, jaccard_overlap
from supcon_tf.losses.labels import class_ids, class_segments, static_or_dynamic
from supcon_tf.losses.pairs import num_views, unit_norm

# The most rows of a batch whose pairs `uniformity` compares.
_UNIFORMITY_ROWS = 256


def positives_per_anchor(labels, embeddings):
    """The number of positives of each anchor: other rows of its class, or with a class in common.

    Args:
        labels: int [B], class ids; bool [B, C] of several classes; None makes every image a class
            of its own.
        embeddings: [B, V, D] or [B, D]; only the shape is used.

    Returns:
        float32 [B], the same for all views of an image.
    """
    views = num_views(embeddings)
    if are_several(labels):
        images = tf.reduce_sum(tf.cast(jaccard_overlap(labels) > 0, tf.float32), axis=1)
        return views * images - 1.0
    others = class_segments(class_ids(labels, static_or_dynamic(embeddings)))[1]
    return views * (others + 1.0) - 1.0


def _without_positives(labels, embeddings):
    """1 for the anchors without a positive, else 0: float32 [B]."""
    return tf.cast(positives_per_anchor(labels, embeddings) < 1, tf.float32)


def alignment(labels, embeddings):
    """Mean squared distance between each row and the other rows of its class, on the unit sphere.

        mean_{i, p in P(i)} |z_i - z_p|^2

    With several classes per image, pairs are weighted by `jaccard_overlap`.

    Args:
        labels: int [B], class ids; bool [B, C] of several classes; None makes every image a class
            of its own.
        embeddings: float [B, V, D] or [B, D].

    Returns:
        float32 scalar in [0, 4]; 0 without positives.

    Reference:
        Wang and Isola 2020, "Understanding Contrastive Representation Learning through Alignment
        and Uniformity on the Hypersphere", section 4 (alpha = 2), with all positives.
    """
    rows, views = _rows(embeddings)
    if are_several(labels):
        return _weighted_alignment(rows, views, jaccard_overlap(labels))
    labels = class_ids(labels, static_or_dynamic(embeddings))
    segments, others = class_segments(tf.repeat(labels, views))
    sizes = others + 1.0
    # A second time, because a mean of many rows is rounded.
    for _ in range(2):
        sums = tf.math.unsorted_segment_sum(rows, segments, tf.shape(rows)[0])
        rows -= tf.gather(sums, segments) / sizes[:, None]
    # The pairs of a class of n rows: 2n times the sum of squared distances from its mean.
    total = 2.0 * tf.reduce_sum(sizes * tf.reduce_sum(tf.square(rows), axis=1))
    return total / tf.maximum(tf.reduce_sum(others), 1.0)


def _weighted_alignment(rows, views, weights):
    """The mean squared distance of rows [B * V, D] of images whose pairs have weights [B, B]."""
    rows = tf.reshape(rows, [-1, views, rows.shape[-1]])
    sums = tf.reduce_sum(rows, axis=1)
    squares = tf.reduce_sum(tf.square(rows), axis=[1, 2])  # 0 for rows of zeros.
    # Over all V x V pairs of views of two images; a row and itself add 0.
    distances = views * (squares[:, None] + squares[None, :])
    distances -= 2.0 * tf.matmul(sums, sums, transpose_b=True)
    pairs = views**2 * tf.reduce_sum(weights) - views * tf.linalg.trace(weights)
    total = tf.reduce_sum(weights * distances)
    return tf.maximum(tf.where(pairs > 0, total / tf.maximum(pairs, 1e-12), 0.0), 0.0)


def uniformity(embeddings):
    """Log of the mean Gaussian potential of pairs of rows: lower is more spread out.

        log mean_{i != j} exp(-2 |z_i - z_j|^2)

    Over at most 256 rows, evenly taken from a batch of known size; otherwise over all.

    Args:
        embeddings: float [B, V, D] or [B, D].

    Returns:
        float32 scalar in [-8, 0]; 0 for identical rows.

    Reference:
        Wang and Isola 2020, section 4.1 (t = 2).
    """
    rows, _ = _rows(embeddings)
    rows = rows[:: max(1, -(-(rows.shape[0] or 0) // _UNIFORMITY_ROWS))]
    count = tf.shape(rows)[0]
    others = 1.0 - tf.eye(count)
    pairs = tf.maximum(tf.reduce_sum(others), 1.0)
    logs = -2.0 * squared_distances(rows, rows, tf.range(count))
    log = tf.math.log(tf.maximum(tf.reduce_sum(others * tf.exp(logs)), 1e-30) / pairs)
    return log_near_one(log, tf.reduce_sum(others * tf.math.expm1(logs)) / pairs)


def _rows(embeddings):
    """All unit-norm rows float32 [B * V, D], and V."""
    views = num_views(embeddings)
    return unit_norm(tf.reshape(embeddings, [-1, embeddings.shape[-1]])), views


class _BatchMetric(keras.metrics.MeanMetricWrapper):
    """The mean over batches of a function of labels int [B] or None and embeddings [B, V, D]."""

    def get_config(self):
        """The constructor's arguments; a subclass knows its function."""
        return {"name": self.name, "dtype": self.dtype}


@keras.saving.register_keras_serializable("supcon_tf")
class PositivesPerAnchor(_BatchMetric):
    """Mean number of positives per anchor; `update_state(labels [B], embeddings [B, V, D])`."""

    def __init__(self, name="positives_per_anchor", dtype=None):
        super().__init__(positives_per_anchor, name, dtype)


@keras.saving.register_keras_serializable("supcon_tf")
class AnchorsWithoutPositives(_BatchMetric):
    """Share of the anchors that have no positive; `update_state(labels, embeddings)`."""

    def __init__(self, name="anchors_without_positives", dtype=None):
        super().__init__(_without_positives, name, dtype)


@keras.saving.register_keras_serializable("supcon_tf")
class Alignment(_BatchMetric):
    """Mean of `alignment` over batches; `update_state(labels, embeddings)`."""

    def __init__(self, name="alignment", dtype=None):
        super().__init__(alignment, name, dtype)


@keras.saving.register_keras_serializable("supcon_tf")
class Uniformity(_BatchMetric):
    """Mean of `uniformity` over batches; `update_state(labels, embeddings)`."""

    def __init__(self, name="uniformity", dtype=None):
        super().__init__(lambda labels, embeddings: uniformity(embeddings), name, dtype)


@keras.saving.register_keras_serializable("supcon_tf")
class EffectiveRank(keras.metrics.Metric):
    """The number of dimensions that an epoch's embeddings use; `update_state(labels, embeddings)`.

    exp of the entropy of the normalized singular values of all rows: 1 if they lie on a line, D if
    they fill the space evenly. It needs an eigendecomposition, so the training loop computes it at
    the end of each epoch, not at each step.

    Args:
        dim: int >= 1, D.
        name: name of the metric.
        **kwargs: as for `keras.metrics.Metric`.

    Reference:
        Roy and Vetterli 2007, "The effective rank: A measure of effective dimensionality", eq. 4;
        used for embeddings by Garrido et al. 2023 (RankMe).
    """

    once_an_epoch = True

    def __init__(self, dim, name="effective_rank", **kwargs):
        super().__init__(name=name, **kwargs)
        self.dim = dim
        self.products = self.add_variable((dim, dim), "zeros", name="products")

    def update_state(self, labels, embeddings, sample_weight=None):
        """Counts one batch: labels are not used, embeddings [B, V, D] or [B, D]."""
        rows, _ = _rows(embeddings)
        self.products.assign_add(tf.matmul(rows, rows, transpose_a=True))

    def result(self):
        """float32 scalar from 1 to D; 0 before the first batch."""
        values = tf.linalg.eigvalsh(tf.cast(tf.convert_to_tensor(self.products), tf.float64))
        singular = tf.sqrt(tf.maximum(values, 0.0))
        shares = singular / tf.maximum(tf.reduce_sum(singular), 1e-30)
        entropy = -tf.reduce_sum(tf.math.xlogy(shares, shares))
        rank = tf.where(tf.reduce_sum(singular) > 0, tf.exp(entropy), 0.0)
        return tf.cast(rank, tf.float32)

    def get_config(self):
        """The constructor's arguments."""
        return {**super().get_config(), "dim": self.dim}


def pair_metrics(dim):
    """The metrics that training logs for a batch of pairs.

    Args:
        dim: int >= 1, D of the embeddings.
    """
    return [
        PositivesPerAnchor(),
        AnchorsWithoutPositives(),
        Alignment(),
        Uniformity(),
        EffectiveRank(dim),
    ]
