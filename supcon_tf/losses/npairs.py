"""The N-pairs loss.

Sohn 2016, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", eq. 3 and 6.
"""

import dataclasses

import keras
import tensorflow as tf

from supcon_tf.losses.blocks import evaluate_anchors
from supcon_tf.losses.pairs import AnchorLoss, check_block_size, flatten_views


@dataclasses.dataclass(frozen=True)
class NPairsOptions:
    """The settings of `npairs_loss`, checked; its arguments."""

    temperature: float = 1.0
    normalize: bool = False
    block_size: int | None = None

    def __post_init__(self):
        if not 0 < self.temperature < float("inf"):
            raise ValueError(
                f"temperature must be above 0 and finite. Received: {self.temperature}."
            )
        check_block_size(self.block_size)


def npairs_loss(labels, embeddings, **options):
    """N-pairs loss of two views, one value per image.

    With anchors a_i (view 0), positives b_j (view 1) and logits a_i . b_j / temperature,

        l_i = log sum_j exp(a_i . b_j) - mean_{j: y_j = y_i} a_i . b_j

    which with one image of each class is log(1 + sum_{j != i} exp(a_i . b_j - a_i . b_i)). Images
    of a repeated class share the target evenly. The contrasts are view 1 alone.

    Args:
        labels: int [B]; None makes every image a class of its own.
        embeddings: float [B, 2, D].
        **options: the fields of `NPairsOptions`:
            temperature: float > 0, dimensionless; 1.
            normalize: whether the embeddings are scaled to unit norm first; False, as published.
            block_size: anchors a block; None chooses.

    Returns:
        float32 [B], in nats.

    Raises:
        ValueError: if an argument is out of range or there are not two views.

    Reference:
        Sohn 2016, eq. 3 and 6. Differs: no L2 term on the embeddings.
    """
    options = NPairsOptions(**options)
    if len(embeddings.shape) != 3 or embeddings.shape[1] != 2:
        raise ValueError(f"embeddings must be [B, 2, D]. Received: shape {embeddings.shape}.")
    labels, rows = flatten_views(labels, embeddings, options.normalize)
    batch = rows.shape[0] // 2 if rows.shape[0] is not None else tf.shape(rows)[0] // 2
    labels = labels[:batch]

    def block_losses(indices, anchors, rows):
        logits = tf.matmul(anchors, rows[batch:], transpose_b=True) / options.temperature
        same = tf.gather(labels, indices)[:, None] == labels[None, :]
        target = tf.cast(same, tf.float32)
        target /= tf.reduce_sum(target, axis=1, keepdims=True)
        return tf.reduce_logsumexp(logits, axis=1) - tf.reduce_sum(target * logits, axis=1)

    return evaluate_anchors(block_losses, rows, batch, options.block_size)


@keras.saving.register_keras_serializable("supcon_tf")
class NPairsLoss(AnchorLoss):
    """`npairs_loss` as a Keras loss: `loss(labels, embeddings)` is its mean over the images.

    Args:
        temperature: float > 0, dimensionless.
        normalize: whether the embeddings are scaled to unit norm first.
        block_size: anchors a block; None chooses.
        reduction: as in `keras.losses.Loss`; "none" returns one value per image.
        name: name of the loss.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        Sohn 2016, eq. 3 and 6.
    """

    # The contrasts are the second view alone.
    pairs_views = True

    def __init__(
        self,
        temperature=1.0,
        *,
        normalize=False,
        block_size=None,
        reduction="sum_over_batch_size",
        name="npairs",
    ):
        super().__init__(
            NPairsOptions(temperature, normalize, block_size), reduction=reduction, name=name
        )

    def call(self, y_true, y_pred):
        """Labels int [B] or None and embeddings float [B, 2, D] in, float32 [B] out."""
        return npairs_loss(y_true, y_pred, **dataclasses.asdict(self.options))
