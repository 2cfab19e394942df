"""The supervised contrastive loss.

Khosla et al. 2020, "Supervised Contrastive Learning", equations 2 (L_out) and 3 (L_in).
"""

import dataclasses
import math

import keras
import tensorflow as tf

from supcon_tf.losses.blocks import FULL_MATRIX_ELEMENTS, evaluate_anchors, symmetric_logsumexp
from supcon_tf.losses.labels import class_segments, order_in_class, static_or_dynamic
from supcon_tf.losses.pairs import (
    AnchorLoss,
    check_block_size,
    choice,
    flatten_views,
    masked_logsumexp,
)

# Below it exp(-2 / temperature) leaves float32.
_SYMMETRIC_TEMPERATURE = 0.025


@dataclasses.dataclass(frozen=True)
class SupConOptions:
    """The settings of `supcon_loss`, checked.

    Attributes are the arguments of `supcon_loss`.
    """

    temperature: float = 0.1
    summation_location: str = "out"
    contrast_mode: str = "all"
    denominator_mode: str = "all"
    positives_cap: int | None = None
    positives_cap_seed: int | None = None
    scale_by_temperature: bool = False
    normalize: bool = True
    anchors_without_positives: str = "exclude"
    block_size: int | None = None

    def __post_init__(self):
        if not 0 < self.temperature < float("inf"):
            raise ValueError(
                f"temperature must be above 0 and finite. Received: {self.temperature}."
            )
        choice("summation_location", self.summation_location, ("out", "in"))
        choice("contrast_mode", self.contrast_mode, ("all", "one"))
        choice("denominator_mode", self.denominator_mode, ("all", "one_positive", "only_negatives"))
        choice("anchors_without_positives", self.anchors_without_positives, ("exclude", "zero"))
        check_block_size(self.block_size)
        cap = self.positives_cap
        if cap is not None and (not isinstance(cap, int) or cap < 0):
            raise ValueError(f"positives_cap must be None or an int >= 0. Received: {cap!r}.")
        if self.positives_cap_seed is not None and self.positives_cap is None:
            raise ValueError("positives_cap_seed needs a positives_cap. Received: None.")


def supcon_loss(labels, embeddings, *, positive_weights=None, queue=None, **options):
    r"""Supervised contrastive loss, one value per anchor.

    With rows z_i, P(i) the other rows of i's class, N(i) the rows of other classes, A(i) all other
    rows and s_ij = z_i . z_j / temperature,

        L_out,i = -1/|P(i)| sum_{p in P(i)} log(exp s_ip / sum_{a in A(i)} exp s_ia)
        L_in,i  = -log(1/|P(i)| sum_{p in P(i)} exp s_ip / sum_{a in A(i)} exp s_ia)

    Computed in float32 whatever the inputs' dtype. An anchor's similarity with itself is masked
    before the row maximum is taken, so the loss stays finite at low temperatures. Above 1024 rows
    no matrix of all pairs exists: memory is linear in the rows, in every mode. (A batch of unknown
    size is computed with the matrix, and refused above 16,384 rows.)

    Args:
        labels: int [B], class ids; None makes every image a class of its own (SimCLR).
        embeddings: float [B, V, D], V views of each image; [B, D] is taken as one view.
        positive_weights: float or bool [B, B] instead of labels: how much image j is a positive of
            image i, at least 0; 0 makes it a negative. The diagonal is the weight of an image's
            own other views. An anchor's weights are scaled to sum to 1. No gradient flows into it.
        queue: `(labels int [Q], embeddings float [Q, D], filled bool [Q])` of earlier batches:
            further contrasts, and positives of the anchors of their class (negatives of all
            where `labels` is None). They are no anchors; no gradient flows into them, and rows
            that are not filled take no part. None for no queue.
        **options: the fields of `SupConOptions`:
            temperature: float > 0, dimensionless; 0.1.
            summation_location: "out" or "in", where the sum over positives stands.
            contrast_mode: "all" rows are anchors, or only those of view "one".
            denominator_mode: the sum of the denominator runs over "all" other rows; or over the
                negatives and the "one_positive" of the numerator; or over "only_negatives".
            positives_cap: keep at most so many positives beside the anchor's own views, a multiple
                of V; a dropped positive is no negative either. None for no cap.
            positives_cap_seed: the images kept are the first of the class in the batch, or, with
                a seed, the first in an order drawn from it.
            scale_by_temperature: multiply the result by the temperature.
            normalize: whether the embeddings are scaled to unit norm first.
            anchors_without_positives: such anchors (and, with "only_negatives", those without
                negatives) get 0. With "exclude" the others are scaled by anchors / anchors that
                count, so that the mean over all is the mean over those that count; with "zero"
                they count as 0.
            block_size: anchors a block; None chooses the fastest way for the shape. A block size
                of at least the number of anchors still recomputes that one block.

    Returns:
        float32 [V * B], in nats, view-major: all anchors of view 0, then of view 1, ...; [B] with
        contrast_mode "one".

    Raises:
        ValueError: if an argument is out of range, or two that exclude each other are given.

    Reference:
        Khosla et al. 2020, eq. 2 and 3. Differs: the paper does not say what becomes of anchors
        without positives, and the public implementations multiply by a second temperature.
    """
    options = SupConOptions(**options)
    if labels is not None and positive_weights is not None:
        raise ValueError("labels and positive_weights exclude each other; give one of them.")
    if positive_weights is not None and options.positives_cap is not None:
        raise ValueError(
            f"positives_cap is for labels, not for positive_weights. Received: "
            f"{options.positives_cap}."
        )
    unlabelled = labels is None
    labels, rows = flatten_views(labels, embeddings, options.normalize)
    if queue is not None:
        _check_queue(positive_weights, options)
        queue = _queue_rows(queue, unlabelled, options.normalize)
    views = 1 if len(embeddings.shape) == 2 else embeddings.shape[1]
    if options.positives_cap is not None and options.positives_cap % views:
        raise ValueError(
            f"positives_cap must be a multiple of the {views} views. Received: "
            f"{options.positives_cap}."
        )
    if queue is None and _symmetric(options, positive_weights, rows):
        losses, counted = _symmetric_losses(labels, rows, options)
    else:
        losses, counted = _Batch(labels, rows, positive_weights, views, options, queue).losses()
    if options.anchors_without_positives == "exclude":
        share = tf.reduce_mean(tf.stop_gradient(counted))
        losses = losses / tf.where(share > 0, share, 1.0)
    return losses * options.temperature if options.scale_by_temperature else losses


def _check_queue(positive_weights, options):
    given = {"positive_weights": positive_weights, "positives_cap": options.positives_cap}
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name} cannot be combined with a queue. Received: {name} and queue.")


def _queue_rows(queue, unlabelled, normalize):
    """The queue as contrasts: labels int [Q], rows float32 [Q, D], filled bool [Q]."""
    labels, embeddings, filled = queue
    _, rows = flatten_views(None, tf.stop_gradient(embeddings), normalize)
    if unlabelled:
        labels = tf.fill(tf.shape(filled), -1)  # An image's class is its number, from 0 on.
    return labels, rows, filled


def _symmetric(options, positive_weights, rows):
    """Whether half of the blocks suffice."""
    return (
        options.contrast_mode == "all"
        and options.denominator_mode == "all"
        and options.positives_cap is None
        and options.block_size is None
        and options.normalize
        and options.temperature >= _SYMMETRIC_TEMPERATURE
        and positive_weights is None
        and rows.shape[0] is not None
        and rows.shape[0] ** 2 > FULL_MATRIX_ELEMENTS
    )


def _symmetric_losses(labels, rows, options):
    segments, num_positives = class_segments(labels)
    inside = options.summation_location == "in"
    log_all, log_positive = symmetric_logsumexp(rows, segments, options.temperature, inside)
    divisor = tf.maximum(num_positives, 1.0)
    if inside:
        log_numerator = log_positive - tf.math.log(divisor)
    else:
        # The sum over positives is a product with the class's sum: no pairs are needed.
        sums = tf.math.unsorted_segment_sum(rows, segments, rows.shape[0])
        others = tf.gather(sums, segments) - rows
        log_numerator = tf.reduce_sum(rows * others, axis=1) / (divisor * options.temperature)
    counted = num_positives > 0
    return tf.where(counted, log_all - log_numerator, 0.0), tf.cast(counted, tf.float32)


class _Batch:
    """The pairs of one batch, a few anchors at a time: any mode, whole or block by block."""

    def __init__(self, labels, rows, positive_weights, views, options, queue=None):
        self.views, self.options = views, options
        self.batch = static_or_dynamic(rows) // views
        self.num_anchors = self.batch * views if options.contrast_mode == "all" else self.batch
        self.filled = None
        if queue is not None:
            # The queue stands behind the batch; the anchors are the first rows.
            labels = tf.concat([labels, tf.cast(queue[0], labels.dtype)], axis=0)
            self.filled = tf.concat([tf.fill(tf.shape(rows)[:1], True), queue[2]], axis=0)
            rows = tf.concat([rows, queue[1]], axis=0)
        self.labels, self.rows = labels, rows
        self.num_rows = static_or_dynamic(rows)
        self.weights = None
        if positive_weights is not None:
            self.weights = tf.stop_gradient(tf.cast(positive_weights, tf.float32))  # [B, B]
        self.order = None
        if options.positives_cap is not None:
            self.order = order_in_class(labels[: self.batch], options.positives_cap_seed)

    def _weights_of(self, indices):
        """Positive weights [R, N]; and bool [R, N], whether the pair takes part at all."""
        row = tf.range(self.num_rows)
        takes_part = indices[:, None] != row[None, :]
        if self.filled is not None:
            takes_part &= self.filled[None, :]
        if self.weights is not None:
            weights = tf.tile(tf.gather(self.weights, indices % self.batch), [1, self.views])
            return tf.where(takes_part, weights, 0.0), takes_part
        same = tf.gather(self.labels, indices)[:, None] == self.labels[None, :]
        if self.order is not None:
            image, images = indices % self.batch, row % self.batch
            mine, theirs = tf.gather(self.order, image)[:, None], tf.gather(self.order, images)
            # The place of each image among the others of the class, without the anchor's own.
            place = theirs - tf.cast(theirs > mine, tf.int32)
            dropped = place >= self.options.positives_cap // self.views
            takes_part &= ~(same & dropped & (image[:, None] != images[None, :]))
        return tf.cast(same & takes_part, tf.float32), takes_part

    def _losses_of(self, indices, anchors, rows):
        similarity = tf.matmul(anchors, rows, transpose_b=True) / self.options.temperature
        return row_losses(similarity, *self._weights_of(indices), self.options)

    def losses(self):
        """Losses float32 [A], and 1 or 0 float32 [A] for the anchors that count."""
        return evaluate_anchors(
            self._losses_of, self.rows, self.num_anchors, self.options.block_size, outputs=2
        )


def row_losses(logits, weights, takes_part, options):
    """The losses of some anchors from their complete rows of logits.

    Args:
        logits: float32 [R, N], similarities over the temperature.
        weights: float32 [R, N], positive weights, 0 for a negative.
        takes_part: bool [R, N], false for the anchor itself and for dropped positives.
        options: `SupConOptions`.

    Returns:
        Losses float32 [R], and float32 [R]: 1 for an anchor with a positive and, where the
        denominator consists of them, a negative. The loss of the others is 0.
    """
    negative = takes_part & (weights <= 0)
    total = tf.reduce_sum(weights, axis=1)
    counted = total > 0
    if options.denominator_mode == "only_negatives":
        counted &= tf.reduce_any(negative, axis=1)
    losses = _row_losses(logits, weights, tf.where(total > 0, total, 1.0), takes_part, options)
    return tf.where(counted, losses, 0.0), tf.cast(counted, tf.float32)


def _row_losses(logits, weights, total, takes_part, options):
    negative = takes_part & (weights <= 0)
    inside = options.summation_location == "in"
    if options.denominator_mode == "one_positive":
        # Each positive against the negatives: -log(e^s / (e^s + sum e^n)) = softplus(log sum - s).
        own = tf.nn.softplus(masked_logsumexp(logits, negative)[:, None] - logits)  # [R, N]
        if not inside:
            return tf.reduce_sum(weights * own, axis=1) / total
        return tf.math.log(total) - _weighted_logsumexp(-own, weights)
    mask = negative if options.denominator_mode == "only_negatives" else takes_part
    log_denominator = masked_logsumexp(logits, mask)
    if not inside:
        return log_denominator - tf.reduce_sum(weights * logits, axis=1) / total
    return log_denominator + tf.math.log(total) - _weighted_logsumexp(logits, weights)


def _weighted_logsumexp(logits, weights):
    positive = weights > 0
    return masked_logsumexp(logits + tf.math.log(tf.where(positive, weights, 1.0)), positive)


@keras.saving.register_keras_serializable("supcon_tf")
class SupConLoss(AnchorLoss):
    """`supcon_loss` as a Keras loss: `loss(labels, embeddings)` is its mean over the anchors.

    Called with `labels` int [B] (or None: SimCLR) and `embeddings` float [B, V, D] or [B, D];
    `loss(None, embeddings, positive_weights=...)` takes pairwise weights instead, and
    `sample_weight` float [B] weighs the anchors of each image. Under a `tf.distribute` strategy
    pass the gathered global batch (`supcon_tf.gather_batch`): Keras divides the mean by the number
    of replicas.

    Args:
        temperature: float > 0, dimensionless.
        summation_location: "out" (eq. 2) or "in" (eq. 3).
        contrast_mode: "all" rows are anchors, or those of the first view ("one").
        denominator_mode: "all", "one_positive" or "only_negatives"; see `supcon_loss`.
        positives_cap: at most so many positives beside the anchor's own views; None for no cap.
        positives_cap_seed: None keeps the first in the batch; an int draws them.
        scale_by_temperature: multiply the loss by the temperature.
        normalize: whether the embeddings are scaled to unit norm first.
        anchors_without_positives: "exclude" them from the mean, or count them as "zero".
        block_size: anchors a block; None chooses.
        reduction: as in `keras.losses.Loss`; "none" returns one value per anchor.
        name: name of the loss.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        Khosla et al. 2020, eq. 2 and 3.

    Example:
        >>> loss = SupConLoss(temperature=0.1)
        >>> loss(labels, embeddings)  # [B], [B, 2, 128]
    """

    def __init__(
        self,
        temperature=0.1,
        *,
        summation_location="out",
        contrast_mode="all",
        denominator_mode="all",
        positives_cap=None,
        positives_cap_seed=None,
        scale_by_temperature=False,
        normalize=True,
        anchors_without_positives="exclude",
        block_size=None,
        reduction="sum_over_batch_size",
        name="supcon",
    ):
        super().__init__(
            SupConOptions(
                temperature=temperature,
                summation_location=summation_location,
                contrast_mode=contrast_mode,
                denominator_mode=denominator_mode,
                positives_cap=positives_cap,
                positives_cap_seed=positives_cap_seed,
                scale_by_temperature=scale_by_temperature,
                normalize=normalize,
                anchors_without_positives=anchors_without_positives,
                block_size=block_size,
            ),
            reduction=reduction,
            name=name,
        )

    def call(self, y_true, y_pred, positive_weights=None, queue=None):
        """Labels int [B] or None and embeddings float [B, V, D] in, float32 [anchors] out."""
        options = dataclasses.asdict(self.options)
        pairs = {"positive_weights": positive_weights, "queue": queue}
        return supcon_loss(y_true, y_pred, **pairs, **options)

    def collapsed_value(self, num_rows):
        """The loss of identical embeddings, log(N - 1); None where it depends on the labels."""
        options = self.options
        usual = options.denominator_mode == "all" and options.positives_cap is None
        value = math.log(max(1, num_rows - 1))
        scale = options.temperature if options.scale_by_temperature else 1.0
        return scale * value if usual else None
