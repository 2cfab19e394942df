"""The max-margin loss of pairs, often called the contrastive loss.

Hadsell, Chopra and LeCun 2006, "Dimensionality Reduction by Learning an Invariant Mapping", eq. 4.
"""

import dataclasses

import keras
import tensorflow as tf

from supcon_tf.losses.blocks import evaluate_anchors
from supcon_tf.losses.labels import class_segments, static_or_dynamic
from supcon_tf.losses.pairs import (
    AnchorLoss,
    check_block_size,
    choice,
    flatten_views,
    safe_sqrt,
    squared_distances,
)


@dataclasses.dataclass(frozen=True)
class MaxMarginOptions:
    """The settings of `max_margin_loss`, checked; its arguments."""

    margin: float = 1.0
    average: str = "all"
    normalize: bool = True
    block_size: int | None = None

    def __post_init__(self):
        if not 0 < self.margin < float("inf"):
            raise ValueError(f"margin must be above 0 and finite. Received: {self.margin}.")
        choice("average", self.average, ("all", "balanced"))
        check_block_size(self.block_size)


def max_margin_loss(labels, embeddings, **options):
    """Max-margin loss of all pairs of rows, one value per anchor.

    With d the Euclidean distance of two rows and y = 1 for two rows of one class,

        l = y d^2 + (1 - y) max(0, margin - d)^2

    without the factor 1/2 of the paper. A row is not paired with itself.

    Args:
        labels: int [B], class ids; None makes every image a class of its own.
        embeddings: float [B, V, D]; [B, D] is taken as one view.
        **options: the fields of `MaxMarginOptions`:
            margin: float > 0, a distance; 1.
            average: the mean over the anchors is the mean over "all" ordered pairs; or, "balanced",
                half the mean over the positive pairs plus half the mean over the negative ones.
            normalize: whether the embeddings are scaled to unit norm first; True.
            block_size: anchors a block; None chooses.

    Returns:
        float32 [V * B], view-major.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        Hadsell et al. 2006, eq. 4. Differs: no factor 1/2.
    """
    options = MaxMarginOptions(**options)
    labels, rows = flatten_views(labels, embeddings, options.normalize)
    count = static_or_dynamic(rows)
    anchors = tf.cast(count, tf.float32)
    num_positives = tf.reduce_sum(class_segments(labels)[1])
    num_negatives = anchors * (anchors - 1) - num_positives
    if options.average == "all":
        positive_weight = negative_weight = anchors / tf.maximum(anchors * (anchors - 1), 1.0)
    else:
        positive_weight = 0.5 * anchors / tf.maximum(num_positives, 1.0)
        negative_weight = 0.5 * anchors / tf.maximum(num_negatives, 1.0)

    def block_losses(indices, anchors, rows):
        squared = squared_distances(anchors, rows)
        same = tf.gather(labels, indices)[:, None] == labels[None, :]
        itself = indices[:, None] == tf.range(count)[None, :]
        apart = tf.square(tf.maximum(0.0, options.margin - safe_sqrt(squared)))
        positive = tf.reduce_sum(tf.where(same & ~itself, squared, 0.0), axis=1)
        negative = tf.reduce_sum(tf.where(same, 0.0, apart), axis=1)
        return positive_weight * positive + negative_weight * negative

    return evaluate_anchors(block_losses, rows, count, options.block_size)


@keras.saving.register_keras_serializable("supcon_tf")
class MaxMarginLoss(AnchorLoss):
    """`max_margin_loss` as a Keras loss: `loss(labels, embeddings)` is its mean.

    Args:
        margin: float > 0, a distance.
        average: "all" pairs alike, or "balanced" between positive and negative ones.
        normalize: whether the embeddings are scaled to unit norm first.
        block_size: anchors a block; None chooses.
        reduction: as in `keras.losses.Loss`; "none" returns one value per anchor.
        name: name of the loss.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        Hadsell et al. 2006, eq. 4. Differs: no factor 1/2.
    """

    def __init__(
        self,
        margin=1.0,
        *,
        average="all",
        normalize=True,
        block_size=None,
        reduction="sum_over_batch_size",
        name="max_margin",
    ):
        super().__init__(
            MaxMarginOptions(margin, average, normalize, block_size),
            reduction=reduction,
            name=name,
        )

    def call(self, y_true, y_pred):
        """Labels int [B] or None and embeddings float [B, V, D] in, float32 [V * B] out."""
        return max_margin_loss(y_true, y_pred, **dataclasses.asdict(self.options))
