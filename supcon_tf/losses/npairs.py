"""The N-pairs loss.

Sohn 2016, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", eq. 3 and 6.
"""

import dataclasses

import keras
import tensorflow as tf

from supcon_tf.losses.blocks import evaluate_anchors
from supcon_tf.losses.labels import same_class, static_or_dynamic
from supcon_tf.losses.pairs import (
    AnchorLoss,
    check_block_size,
    check_temperature,
    flatten_views,
    num_views,
)
from supcon_tf.losses.products import row_products


def npairs_loss(labels, embeddings, *, temperature=1.0, normalize=False, block_size=None):
    """N-pairs loss of two views, one value per image.

    With anchors a_i (view 0), positives b_j (view 1) and logits s_ij = a_i . b_j / temperature,

        l_i = log sum_j exp(s_ij) - mean_{j: y_j = y_i} s_ij

    which with one image of each class is log(1 + sum_{j != i} exp(s_ij - s_ii)). Images of a
    repeated class share the target evenly. The contrasts are view 1 alone.

    As published, the embeddings may have any length and the temperature is 1. Embeddings that
    already have unit norm are taken as they are, so that `normalize` changes nothing: the logits
    are then cosines over the temperature, and at temperature 1 no loss is below
    log(1 + (B - 1) exp(-2)).

    Args:
        labels: int [B]; None makes every image a class of its own.
        embeddings: float [B, 2, D].
        temperature: float > 0, dimensionless.
        normalize: whether the embeddings are scaled to unit norm first, unlike in the paper.
        block_size: anchors per block; None for automatic.

    Returns:
        float32 [B], in nats.

    Raises:
        ValueError: if an argument is out of range or there are not two views.

    Reference:
        Sohn 2016, eq. 3 and 6. Differs: no L2 term on the embeddings.
    """
    check_temperature(temperature)
    check_block_size(block_size)
    if num_views(embeddings) != 2:
        raise ValueError(f"embeddings must be [B, 2, D]. Received: shape {embeddings.shape}.")
    labels, rows = flatten_views(labels, embeddings, normalize)
    batch = static_or_dynamic(rows) // 2
    labels = labels[:batch]

    def block_losses(indices, anchors, rows):
        logits = row_products(anchors, rows[batch:]) / temperature
        target = tf.cast(same_class(labels, indices), tf.float32)
        target /= tf.reduce_sum(target, axis=1, keepdims=True)
        return tf.reduce_logsumexp(logits, axis=1) - tf.reduce_sum(target * logits, axis=1)

    return evaluate_anchors(block_losses, rows, batch, block_size)


@keras.saving.register_keras_serializable("supcon_tf")
@dataclasses.dataclass(eq=False)
class NPairsLoss(AnchorLoss):
    """`npairs_loss` as a Keras loss: `loss(labels, embeddings)` is its mean over the images.

    Its arguments are the options of `npairs_loss`, plus `reduction` and `name` as in
    `keras.losses.Loss`; with reduction "none" it returns one value per image. It does not normalize
    by default, as published; with embeddings that already have unit norm, such as those of a
    `ProjectionHead`, its logits are cosines: see `npairs_loss`.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        Sohn 2016, eq. 3 and 6. Differs: no L2 term on the embeddings.
    """

    # The contrasts are the second view alone.
    pairs_views = True

    temperature: float = 1.0
    _: dataclasses.KW_ONLY
    normalize: bool = False
    block_size: int | None = None
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "npairs"

    def __post_init__(self):
        super().__post_init__()
        check_temperature(self.temperature)
        check_block_size(self.block_size)

    def call(self, y_true, y_pred):
        """Labels int [B] or None and embeddings float [B, 2, D] in, float32 [B] out."""
        return npairs_loss(y_true, y_pred, **vars(self.options))
