"""Triplet losses within a batch.

Schroff et al. 2015, "FaceNet", eq. 1 and section 3.2; Hermans et al. 2017, "In Defense of the
Triplet Loss for Person Re-Identification", eq. 5 (batch hard) and section 2 (soft margin).
"""

import dataclasses

import keras
import tensorflow as tf

from supcon_tf.losses.blocks import evaluate_anchors
from supcon_tf.losses.labels import static_or_dynamic
from supcon_tf.losses.pairs import (
    AnchorLoss,
    check_block_size,
    choice,
    flatten_views,
    safe_sqrt,
    squared_distances,
)

# Larger than any distance, and its square still a float32.
_FAR = 1e18
# Soft triplets of one anchor are a matrix of rows by rows.
_SOFT_LIMIT_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class TripletOptions:
    """The settings of `triplet_loss`, checked; its arguments."""

    margin: float | None = 0.2
    distance: str = "squared"
    mining: str = "semi_hard"
    average: str = "all"
    normalize: bool = True
    block_size: int | None = None

    def __post_init__(self):
        if self.margin is not None and not 0 <= self.margin < float("inf"):
            raise ValueError(f"margin must be None (soft) or at least 0. Received: {self.margin}.")
        choice("distance", self.distance, ("squared", "euclidean"))
        choice("mining", self.mining, ("all", "hard", "semi_hard"))
        choice("average", self.average, ("all", "active"))
        if self.margin is None and self.average == "active":
            raise ValueError("average='active' needs a margin: a soft triplet is always active.")
        check_block_size(self.block_size)


def triplet_loss(labels, embeddings, **options):
    """Triplet loss within the batch, one value per anchor.

    With d the distance, an anchor i, a positive p and a negative n give

        max(0, d_ip - d_in + margin),    or log(1 + exp(d_ip - d_in)) with the soft margin.

    Args:
        labels: int [B], class ids; None makes every image a class of its own.
        embeddings: float [B, V, D]; [B, D] is taken as one view.
        **options: the fields of `TripletOptions`:
            margin: float >= 0, of a distance; None for the soft margin. 0.2.
            distance: "squared" Euclidean, as in FaceNet, or "euclidean".
            mining: "all" triplets; or for each anchor its "hard" one, the farthest positive and the
                nearest negative; or for each anchor and positive the "semi_hard" one, the nearest
                negative farther than the positive, or where there is none the farthest negative.
            average: the mean over the anchors is the mean over "all" triplets so chosen, or over
                the "active" ones, whose hinge is above 0.
            normalize: whether the embeddings are scaled to unit norm first; True.
            block_size: anchors a block; None chooses.

    Returns:
        float32 [V * B], view-major: the sum over an anchor's triplets, scaled by anchors / triplets
        in all, so that the mean over the anchors is the mean over the triplets. 0 without triplets.

    Raises:
        ValueError: if an argument is out of range, or all soft triplets of more than 4096 rows are
            asked for: their number grows with the cube of the rows.

    Reference:
        Schroff et al. 2015, eq. 1; Hermans et al. 2017, eq. 5. Memory is linear in the rows; time
        grows with their square, times a logarithm for "all" and "semi_hard" (sorting).
    """
    options = TripletOptions(**options)
    labels, rows = flatten_views(labels, embeddings, options.normalize)
    count = static_or_dynamic(rows)
    all_soft = options.mining == "all" and options.margin is None
    if all_soft and isinstance(count, int) and count > _SOFT_LIMIT_ROWS:
        raise ValueError(
            f"all soft triplets take {4 * count**2 / 2**30:.1f} GiB an anchor for {count} rows; at "
            f"most {_SOFT_LIMIT_ROWS} are allowed. Use a margin, or another mining."
        )
    choose = {"all": _all_soft if all_soft else _all_hinge, "hard": _hard, "semi_hard": _semi_hard}

    def block_sums(indices, anchors, rows):
        distance = squared_distances(anchors, rows)
        if options.distance == "euclidean":
            distance = safe_sqrt(distance)
        same = tf.gather(labels, indices)[:, None] == labels[None, :]
        itself = indices[:, None] == tf.range(count)[None, :]
        return choose[options.mining](distance, same & ~itself, ~same, options)

    elements = None
    if isinstance(count, int):
        # Sorting holds several arrays of twice the rows.
        elements = count * count if all_soft else count if options.mining == "hard" else 8 * count
    sums, triplets = evaluate_anchors(
        block_sums, rows, count, options.block_size, outputs=2, elements=elements
    )
    total = tf.reduce_sum(tf.stop_gradient(triplets))
    return sums * tf.cast(count, tf.float32) / tf.maximum(total, 1.0)


def _penalty(difference, options):
    """The penalty of d_ip - d_in, and 1 where the triplet counts in the mean."""
    if options.margin is None:
        return tf.nn.softplus(difference), tf.ones_like(difference)
    hinge = tf.maximum(0.0, difference + options.margin)
    if options.average == "all":
        return hinge, tf.ones_like(hinge)
    return hinge, tf.cast(hinge > 0, tf.float32)


def _hard(distance, positive, negative, options):
    """The farthest positive against the nearest negative: sums [R] and numbers of triplets [R]."""
    farthest = tf.reduce_max(tf.where(positive, distance, -_FAR), axis=1)
    nearest = tf.reduce_min(tf.where(negative, distance, _FAR), axis=1)
    valid = tf.reduce_any(positive, axis=1) & tf.reduce_any(negative, axis=1)
    penalty, counts = _penalty(tf.where(valid, farthest - nearest, 0.0), options)
    return tf.where(valid, penalty, 0.0), tf.where(valid, counts, 0.0)


def _all_soft(distance, positive, negative, options):
    difference = distance[:, :, None] - distance[:, None, :]  # [R, N (positive), N (negative)]
    valid = positive[:, :, None] & negative[:, None, :]
    penalty, counts = _penalty(difference, options)
    penalty, counts = tf.where(valid, penalty, 0.0), tf.where(valid, counts, 0.0)
    return tf.reduce_sum(penalty, axis=[1, 2]), tf.reduce_sum(counts, axis=[1, 2])


def _ranked(distance, positive, negative, offset):
    """Sorts each anchor's negatives together with its positives shifted by the offset.

    Returns:
        In sorted order, [R, 2N]: the shifted distance of a positive, whether it is one, how many
        negatives are at most as far, and the sum of their distances.
    """
    near = tf.where(negative, distance, _FAR)
    shifted = tf.where(positive, distance + offset, _FAR)
    values = tf.concat([near, shifted], axis=1)
    # Stable: a negative that ties stands before the positive.
    order = tf.argsort(tf.stop_gradient(values), axis=1, stable=True)
    values = tf.gather(values, order, batch_dims=1)
    kinds = tf.concat([tf.cast(negative, tf.int32), 2 * tf.cast(positive, tf.int32)], axis=1)
    kinds = tf.gather(kinds, order, batch_dims=1)
    before = tf.cumsum(tf.cast(kinds == 1, tf.int32), axis=1)
    total = tf.cumsum(tf.where(kinds == 1, values, 0.0), axis=1)
    return values, kinds == 2, before, total


def _all_hinge(distance, positive, negative, options):
    """All triplets without forming them: sum over n of max(0, t_p - d_n) from sums in order."""
    shifted, is_positive, before, total = _ranked(distance, positive, negative, options.margin)
    before = tf.cast(before, tf.float32)
    sums = tf.where(is_positive, before * tf.where(is_positive, shifted, 0.0) - total, 0.0)
    if options.average == "active":
        counts = tf.reduce_sum(tf.where(is_positive, before, 0.0), axis=1)
    else:
        kinds = [tf.reduce_sum(tf.cast(mask, tf.float32), axis=1) for mask in (positive, negative)]
        counts = kinds[0] * kinds[1]
    return tf.reduce_sum(sums, axis=1), counts


def _semi_hard(distance, positive, negative, options):
    own, is_positive, before, _ = _ranked(distance, positive, negative, 0.0)
    near = tf.where(negative, distance, _FAR)
    order = tf.argsort(tf.stop_gradient(near), axis=1)
    ordered = tf.gather(near, order, batch_dims=1)
    available = tf.reduce_sum(tf.cast(negative, tf.int32), axis=1, keepdims=True)
    place = tf.minimum(before, tf.maximum(available - 1, 0))
    chosen = tf.gather(ordered, place, batch_dims=1)
    valid = is_positive & (available > 0)
    penalty, counts = _penalty(tf.where(valid, own - chosen, 0.0), options)
    penalty, counts = tf.where(valid, penalty, 0.0), tf.where(valid, counts, 0.0)
    return tf.reduce_sum(penalty, axis=1), tf.reduce_sum(counts, axis=1)


@keras.saving.register_keras_serializable("supcon_tf")
class TripletLoss(AnchorLoss):
    """`triplet_loss` as a Keras loss: `loss(labels, embeddings)` is its mean over the triplets.

    Args:
        margin: float >= 0; None for the soft margin.
        distance: "squared" or "euclidean".
        mining: "all", "hard" or "semi_hard".
        average: over "all" triplets or the "active" ones.
        normalize: whether the embeddings are scaled to unit norm first.
        block_size: anchors a block; None chooses.
        reduction: as in `keras.losses.Loss`; "none" returns one value per anchor.
        name: name of the loss.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        Schroff et al. 2015, eq. 1; Hermans et al. 2017, eq. 5.
    """

    def __init__(
        self,
        margin=0.2,
        *,
        distance="squared",
        mining="semi_hard",
        average="all",
        normalize=True,
        block_size=None,
        reduction="sum_over_batch_size",
        name="triplet",
    ):
        super().__init__(
            TripletOptions(margin, distance, mining, average, normalize, block_size),
            reduction=reduction,
            name=name,
        )

    def call(self, y_true, y_pred):
        """Labels int [B] or None and embeddings float [B, V, D] in, float32 [V * B] out."""
        return triplet_loss(y_true, y_pred, **dataclasses.asdict(self.options))
