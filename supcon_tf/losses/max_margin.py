"""The max-margin loss of pairs, often called the contrastive loss.

Hadsell, Chopra and LeCun 2006, "Dimensionality Reduction by Learning an Invariant Mapping", eq. 4.
"""

import dataclasses

import keras
import tensorflow as tf

from supcon_tf.losses.blocks import evaluate_anchors
from supcon_tf.losses.distances import safe_sqrt, squared_distances
from supcon_tf.losses.labels import class_segments, positives_and_negatives, static_or_dynamic
from supcon_tf.losses.pairs import (
    AnchorLoss,
    check_block_size,
    choice,
    flatten_views,
)


def max_margin_loss(
    labels, embeddings, *, margin=1.0, average="all", normalize=True, block_size=None
):
    """Max-margin loss of all pairs of rows, one value per anchor.

    With d the Euclidean distance of two rows and y = 1 for two rows of one class,

        l = y d^2 + (1 - y) max(0, margin - d)^2

    without the factor 1/2 of the paper. A row is not paired with itself.

    Args:
        labels: int [B], class ids; None makes every image a class of its own.
        embeddings: float [B, V, D]; [B, D] is taken as one view.
        margin: float > 0, a distance.
        average: the mean over the anchors is the mean over "all" ordered pairs; or, "balanced",
            half the mean over the positive pairs plus half the mean over the negative ones.
        normalize: whether the embeddings are scaled to unit norm first.
        block_size: anchors per block; None for automatic.

    Returns:
        float32 [V * B], view-major.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        Hadsell et al. 2006, eq. 4. Differs: no factor 1/2.
    """
    _check_options(margin, average, block_size)
    labels, rows = flatten_views(labels, embeddings, normalize)
    count = static_or_dynamic(rows)
    anchors = tf.cast(count, tf.float32)
    num_positives = tf.reduce_sum(class_segments(labels)[1])
    num_negatives = anchors * (anchors - 1) - num_positives
    if average == "all":
        positive_weight = negative_weight = anchors / tf.maximum(anchors * (anchors - 1), 1.0)
    else:
        positive_weight = 0.5 * anchors / tf.maximum(num_positives, 1.0)
        negative_weight = 0.5 * anchors / tf.maximum(num_negatives, 1.0)

    def block_losses(indices, anchors, rows):
        squared = squared_distances(anchors, rows, indices)
        positives, negatives = positives_and_negatives(labels, indices)
        apart = tf.square(tf.maximum(0.0, margin - safe_sqrt(squared)))
        positive = tf.reduce_sum(tf.where(positives, squared, 0.0), axis=1)
        negative = tf.reduce_sum(tf.where(negatives, apart, 0.0), axis=1)
        return positive_weight * positive + negative_weight * negative

    return evaluate_anchors(block_losses, rows, count, block_size)


def _check_options(margin, average, block_size):
    if not 0 < margin < float("inf"):
        raise ValueError(f"margin must be above 0 and finite. Received: {margin}.")
    choice("average", average, ("all", "balanced"))
    check_block_size(block_size)


@keras.saving.register_keras_serializable("supcon_tf")
@dataclasses.dataclass(eq=False)
class MaxMarginLoss(AnchorLoss):
    """`max_margin_loss` as a Keras loss: `loss(labels, embeddings)` is its mean.

    Its arguments are the options of `max_margin_loss`, plus `reduction` and `name` as in
    `keras.losses.Loss`; with reduction "none" it returns one value per anchor.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        Hadsell et al. 2006, eq. 4. Differs: no factor 1/2.
    """

    margin: float = 1.0
    _: dataclasses.KW_ONLY
    average: str = "all"
    normalize: bool = True
    block_size: int | None = None
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "max_margin"

    def __post_init__(self):
        super().__post_init__()
        _check_options(self.margin, self.average, self.block_size)

    def call(self, y_true, y_pred):
        """Labels int [B] or None and embeddings float [B, V, D] in, float32 [V * B] out."""
        return max_margin_loss(y_true, y_pred, **vars(self.options))
