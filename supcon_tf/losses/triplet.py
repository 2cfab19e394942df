"""Triplet losses within a batch.

Schroff et al. 2015, "FaceNet", eq. 1 and section 3.2; Hermans et al. 2017, "In Defense of the
Triplet Loss for Person Re-Identification", eq. 5 (batch hard) and section 2 (soft margin); Xuan
et al. 2020, "Improved Embeddings with Easy Positive Triplet Mining".
"""

import dataclasses
import typing

import keras
import tensorflow as tf

from supcon_tf.losses.blocks import evaluate_anchors
from supcon_tf.losses.distances import safe_sqrt, squared_distances
from supcon_tf.losses.labels import positives_and_negatives, static_or_dynamic
from supcon_tf.losses.pairs import (
    AnchorLoss,
    check_block_size,
    check_switch,
    choice,
    flatten_views,
)

# Larger than any distance, while its square still fits in float32.
_FAR = 1e18
# All soft triplets of one anchor fill a matrix of rows by rows.
_SOFT_LIMIT_ROWS = 4096


def triplet_loss(
    labels,
    embeddings,
    *,
    margin=0.2,
    distance="squared",
    mining="semi_hard",
    average="all",
    normalize=True,
    soft=False,
    block_size=None,
):
    """Triplet loss within the batch, one value per anchor.

    With d the distance, an anchor i, a positive p and a negative n give

        max(0, d_ip - d_in + margin),    or, soft, log(1 + exp(d_ip - d_in + margin)).

    Args:
        labels: int [B], class ids; None makes every image a class of its own.
        embeddings: float [B, V, D]; [B, D] is taken as one view.
        margin: float >= 0, a distance; None means `soft` with margin 0.
        distance: "squared" Euclidean, as in FaceNet, or "euclidean".
        mining: "all" triplets; or for each anchor its "hard" one, the farthest positive and the
            nearest negative; or its "easy_positive" one, the nearest positive and the nearest
            negative (Xuan et al. 2020); or for each anchor and positive the "semi_hard" one, the
            nearest negative farther than the positive or, if there is none, the farthest negative.
        average: the mean over the anchors is the mean over "all" triplets so chosen, or over the
            "active" ones, whose hinge is above 0.
        normalize: whether the embeddings are scaled to unit norm first.
        soft: whether the hinge is replaced by its smooth form.
        block_size: anchors per block; None for automatic.

    Returns:
        float32 [V * B], view-major: the sum over an anchor's triplets, scaled by anchors / triplets
        in all, so that the mean over the anchors is the mean over the triplets. 0 for an anchor
        without triplets.

    Raises:
        ValueError: if an argument is out of range, or if all soft triplets of more than 4096 rows
            (known when the graph is built) are requested: their number grows with the cube of
            the rows.

    Reference:
        Schroff et al. 2015, eq. 1; Hermans et al. 2017, eq. 5. Memory is linear in the rows; time
        grows with their square, times a logarithm for "all" and "semi_hard" (sorting).
    """
    _check_options(margin, distance, mining, average, soft, block_size)
    soft, margin = soft or margin is None, margin or 0.0
    labels, rows = flatten_views(labels, embeddings, normalize)
    count = static_or_dynamic(rows)
    all_soft = mining == "all" and soft
    if all_soft:
        _check_all_soft(count)
        mine = _all_soft
    else:
        mine = _MINERS[mining]

    def block_sums(indices, anchors, rows):
        distances = squared_distances(anchors, rows, indices)
        if distance == "euclidean":
            distances = safe_sqrt(distances)
        return mine(distances, *positives_and_negatives(labels, indices), margin, average, soft)

    elements = None
    if isinstance(count, int):
        # Sorting holds several arrays of twice the rows.
        elements = count * count if all_soft else count if mining in _ONE_EACH else 8 * count
    sums, triplets = evaluate_anchors(
        block_sums, rows, count, block_size, outputs=2, elements=elements
    )
    total = tf.reduce_sum(tf.stop_gradient(triplets))
    return sums * tf.cast(count, tf.float32) / tf.maximum(total, 1.0)


def _check_options(margin, distance, mining, average, soft, block_size):
    if margin is not None and not 0 <= margin < float("inf"):
        raise ValueError(f"margin must be None (soft) or at least 0. Received: {margin}.")
    choice("distance", distance, ("squared", "euclidean"))
    choice("mining", mining, tuple(_MINERS))
    check_switch("soft", soft)
    choice("average", average, ("all", "active"))
    if (soft or margin is None) and average == "active":
        raise ValueError(
            "average='active' needs a hinge (a margin, and soft=False). Received: soft."
        )
    check_block_size(block_size)


def _check_all_soft(count):
    if isinstance(count, int) and count > _SOFT_LIMIT_ROWS:
        raise ValueError(
            f"all soft triplets take {4 * count**2 / 2**30:.1f} GiB per anchor for {count} rows; "
            f"at most {_SOFT_LIMIT_ROWS} are allowed. Use a margin, or another mining."
        )


def _penalty(difference, valid, margin, average, soft):
    """The penalty of d_ip - d_in, and 1 where the triplet counts in the mean; 0 if not valid."""
    if soft:
        penalty, counted = tf.nn.softplus(difference + margin), valid
    else:
        penalty = tf.maximum(0.0, difference + margin)
        counted = valid & (penalty > 0) if average == "active" else valid
    return tf.where(valid, penalty, 0.0), tf.cast(counted, tf.float32)


# The functions below mine the triplets of some anchors: from distances float32 [R, N] and which of
# the rows are positives and which negatives, bool [R, N] each, to the sums of their penalties
# float32 [R] and the numbers of triplets that count float32 [R].


def _hard(distances, positives, negatives, margin, average, soft):
    """The farthest positive against the nearest negative."""
    farthest = tf.reduce_max(tf.where(positives, distances, -_FAR), axis=1)
    nearest = tf.reduce_min(tf.where(negatives, distances, _FAR), axis=1)
    valid = tf.reduce_any(positives, axis=1) & tf.reduce_any(negatives, axis=1)
    return _penalty(farthest - nearest, valid, margin, average, soft)


def _easy_positive(distances, positives, negatives, margin, average, soft):
    """The nearest positive against the nearest negative."""
    kinds = positives, negatives
    positive, negative = (tf.reduce_min(tf.where(kind, distances, _FAR), axis=1) for kind in kinds)
    valid = tf.reduce_any(positives, axis=1) & tf.reduce_any(negatives, axis=1)
    return _penalty(positive - negative, valid, margin, average, soft)


def _all_soft(distances, positives, negatives, margin, average, soft):
    """Every positive with every negative, in a matrix of rows by rows per anchor."""
    difference = distances[:, :, None] - distances[:, None, :]  # [R, N (positive), N (negative)]
    valid = positives[:, :, None] & negatives[:, None, :]
    penalty, counts = _penalty(difference, valid, margin, average, soft)
    return tf.reduce_sum(penalty, axis=[1, 2]), tf.reduce_sum(counts, axis=[1, 2])


def _all_hinge(distances, positives, negatives, margin, average, soft):
    """Every positive with every negative, without forming the triplets.

    With t = d_ip + margin, the sum over n of max(0, t - d_in) is t times the number of negatives
    nearer than t, minus the sum of their distances.
    """
    ranked = _rank(distances, positives, negatives, margin)
    nearer = tf.cast(ranked.nearer, tf.float32)
    reach = tf.where(ranked.is_positive, ranked.values, 0.0)
    sums = tf.where(ranked.is_positive, nearer * reach - ranked.sum_of_nearer, 0.0)
    if average == "active":
        counts = tf.reduce_sum(tf.where(ranked.is_positive, nearer, 0.0), axis=1)
    else:
        numbers = [
            tf.reduce_sum(tf.cast(kind, tf.float32), axis=1) for kind in (positives, negatives)
        ]
        counts = numbers[0] * numbers[1]
    return tf.reduce_sum(sums, axis=1), counts


def _semi_hard(distances, positives, negatives, margin, average, soft):
    """Every positive with the nearest negative farther than it, or else the farthest negative."""
    ranked = _rank(distances, positives, negatives, 0.0)
    ascending = _ordered(tf.where(negatives, distances, _FAR))[0]
    number = tf.reduce_sum(tf.cast(negatives, tf.int32), axis=1, keepdims=True)
    place = tf.minimum(ranked.nearer, tf.maximum(number - 1, 0))
    chosen = tf.gather(ascending, place, batch_dims=1)
    valid = ranked.is_positive & (number > 0)
    penalty, counts = _penalty(ranked.values - chosen, valid, margin, average, soft)
    return tf.reduce_sum(penalty, axis=1), tf.reduce_sum(counts, axis=1)


_MINERS = {
    "all": _all_hinge,
    "hard": _hard,
    "easy_positive": _easy_positive,
    "semi_hard": _semi_hard,
}
# The kinds of mining that choose one triplet for each anchor.
_ONE_EACH = ("hard", "easy_positive")


class _Ranked(typing.NamedTuple):
    """Each anchor's negatives and positives in one ascending order of distance, [R, 2N] each.

    Attributes:
        values: float32, the distance.
        is_positive: bool; whether it is that of a positive.
        nearer: int32, how many negatives are at most as far away.
        sum_of_nearer: float32, the sum of their distances.
    """

    values: tf.Tensor
    is_positive: tf.Tensor
    nearer: tf.Tensor
    sum_of_nearer: tf.Tensor


def _rank(distances, positives, negatives, offset):
    """Sorts each anchor's negatives together with its positives, which are shifted by `offset`."""
    near = tf.where(negatives, distances, _FAR)
    shifted = tf.where(positives, distances + offset, _FAR)
    # The negatives come first, so that in a tie a negative comes before a positive.
    values, order = _ordered(tf.concat([near, shifted], axis=1))
    # 1 for a negative, 2 for a positive, 0 for a row that is neither; gathered once.
    kinds = tf.concat([tf.cast(negatives, tf.int32), 2 * tf.cast(positives, tf.int32)], axis=1)
    kinds = tf.gather(kinds, order, batch_dims=1)
    is_negative, is_positive = kinds == 1, kinds == 2
    nearer = tf.cumsum(tf.cast(is_negative, tf.int32), axis=1)
    sum_of_nearer = tf.cumsum(tf.where(is_negative, values, 0.0), axis=1)
    return _Ranked(values, is_positive, nearer, sum_of_nearer)


def _ordered(values):
    """Each row of values [R, M] in ascending order, and the order's indices; the sort is stable."""
    order = tf.argsort(tf.stop_gradient(values), axis=1, stable=True)
    return tf.gather(values, order, batch_dims=1), order


@keras.saving.register_keras_serializable("supcon_tf")
@dataclasses.dataclass(eq=False)
class TripletLoss(AnchorLoss):
    """`triplet_loss` as a Keras loss: `loss(labels, embeddings)` is its mean over the triplets.

    Its arguments are the options of `triplet_loss`, plus `reduction` and `name` as in
    `keras.losses.Loss`; with reduction "none" it returns one value per anchor.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        Schroff et al. 2015, eq. 1; Hermans et al. 2017, eq. 5.
    """

    margin: float | None = 0.2
    _: dataclasses.KW_ONLY
    distance: str = "squared"
    mining: str = "semi_hard"
    average: str = "all"
    normalize: bool = True
    soft: bool = False
    block_size: int | None = None
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "triplet"

    def __post_init__(self):
        super().__post_init__()
        kind = self.distance, self.mining, self.average, self.soft
        _check_options(self.margin, *kind, self.block_size)

    def call(self, y_true, y_pred):
        """Labels int [B] or None and embeddings float [B, V, D] in, float32 [V * B] out."""
        return triplet_loss(y_true, y_pred, **vars(self.options))
