"""The supervised contrastive loss.

Khosla et al. 2020, "Supervised Contrastive Learning", equations 2 (L_out) and 3 (L_in).
"""

import dataclasses
import math

import keras
import tensorflow as tf

from supcon_tf.losses.blocks import evaluate_anchors, sizes, symmetric_logsumexp
from supcon_tf.losses.labels import class_segments, pairs_of_batch, static_or_dynamic
from supcon_tf.losses.pairs import (
    AnchorLoss,
    check_block_size,
    check_temperature,
    choice,
    flatten_views,
    num_views,
)
from supcon_tf.losses.rows import followed_by_queue, losses_from_pairs

# Below this, exp(-2 / temperature) leaves the range of float32.
_SYMMETRIC_TEMPERATURE = 0.025


def supcon_loss(
    labels,
    embeddings,
    *,
    positive_weights=None,
    queue=None,
    temperature=0.1,
    summation_location="out",
    contrast_mode="all",
    denominator_mode="all",
    margin=0.0,
    positives_cap=None,
    positives_cap_seed=None,
    scale_by_temperature=False,
    normalize=True,
    anchors_without_positives="exclude",
    block_size=None,
):
    r"""Supervised contrastive loss, one value per anchor.

    With rows z_i, P(i) the other rows of i's class, N(i) the rows of other classes, A(i) all other
    rows and s_ij = z_i . z_j / temperature,

        L_out,i = -1/|P(i)| sum_{p in P(i)} log(exp s_ip / sum_{a in A(i)} exp s_ia)
        L_in,i  = -log(1/|P(i)| sum_{p in P(i)} exp s_ip / sum_{a in A(i)} exp s_ia)

    The loss is computed in float32 whatever the inputs' dtype. An anchor's similarity with itself
    is masked before the row maximum is taken, so the loss stays finite at low temperatures. Above
    1,024 rows (8,192 on a GPU) no matrix of all pairs exists: memory is linear in the rows. (A
    batch of unknown size is computed with the matrix, and refused above 16,384 rows.)

    Args:
        labels: int [B], class ids; None makes every image a class of its own (SimCLR).
        embeddings: float [B, V, D], V views of each image; [B, D] is taken as one view.
        positive_weights: float or bool [B, B] instead of labels: how much image j is a positive of
            image i; 0 makes it a negative, and a number below 0 leaves the pair out. The diagonal
            is the weight of an image's own other views. An anchor's weights are scaled to sum to
            1. No gradient flows into them.
        queue: `(labels int [Q], embeddings float [Q, D], filled bool [Q])` of earlier batches:
            further contrasts, which are positives for the anchors of their class (negatives for
            all if `labels` is None). They are not anchors; no gradient flows into them, and rows
            that are not filled take no part. None for no queue.
        temperature: float > 0, dimensionless.
        summation_location: "out" (eq. 2) or "in" (eq. 3), whether the sum over positives is
            outside the logarithm or in it.
        contrast_mode: "all" rows are anchors, or only those of the first view, "one".
        denominator_mode: the sum of the denominator runs over "all" other rows; or over the
            negatives and the "one_positive" of the numerator (SINCERE); or over "only_negatives".
        margin: float >= 0, epsilon, in nats; needs denominator_mode "one_positive". With it
            (epsilon-SupInfoNCE) a positive's term is -log(exp s_ip / (exp(s_ip - margin) +
            sum_{n in N(i)} exp s_in)), at least -margin: its gradient stays large until s_ip is
            a margin further above the negatives. In similarity this is margin * temperature.
        positives_cap: keep at most this many positives, a multiple of V, in addition to the
            anchor's own views; a dropped positive is not a negative either. None for no cap.
        positives_cap_seed: the images kept are the first of the class in the batch, or, with
            a seed, the first in an order drawn from it.
        scale_by_temperature: multiply the result by the temperature.
        normalize: whether the embeddings are scaled to unit norm first.
        anchors_without_positives: such anchors (and, with "only_negatives", those without
            negatives) get 0. With "exclude" the others are scaled by anchors / anchors that
            count, so that the mean over all is the mean over those that count; with "zero"
            they count as 0.
        block_size: anchors per block; None chooses the fastest way for the shape. A block size
            of at least the number of anchors still recomputes that one block.

    Returns:
        float32 [V * B], in nats, view-major: all anchors of view 0, then of view 1, ...; [B] with
        contrast_mode "one".

    Raises:
        ValueError: if an argument is out of range, or two mutually exclusive ones are given.

    Reference:
        Khosla et al. 2020, eq. 2 and 3. Differs: the paper does not say what becomes of anchors
        without positives, and the public implementations multiply by a second temperature.
        "one_positive": Feeney and Hughes 2023. `margin`: Barbano et al. 2023; as in the authors'
        code it acts on logits, after the division by the temperature.
    """
    _check_modes(summation_location, contrast_mode, denominator_mode, anchors_without_positives)
    losses, counted = _anchor_losses(
        labels,
        embeddings,
        positive_weights=positive_weights,
        queue=queue,
        temperature=temperature,
        summation_location=summation_location,
        contrast_mode=contrast_mode,
        denominator_mode=denominator_mode,
        margin=margin,
        positives_cap=positives_cap,
        positives_cap_seed=positives_cap_seed,
        scale_by_temperature=scale_by_temperature,
        normalize=normalize,
        block_size=block_size,
    )
    return _scaled_to_counted(losses, counted) if anchors_without_positives == "exclude" else losses


def _anchor_losses(
    labels,
    embeddings,
    *,
    positive_weights,
    queue,
    temperature,
    summation_location,
    contrast_mode,
    denominator_mode,
    margin,
    positives_cap,
    positives_cap_seed,
    scale_by_temperature,
    normalize,
    block_size,
):
    """The losses of `supcon_loss`, not scaled; and 1 where an anchor counts, else 0."""
    check_temperature(temperature)
    _check_limits(margin, denominator_mode, positives_cap, positives_cap_seed, block_size)
    _check_combination(labels, positive_weights, queue, positives_cap)
    ids, rows = flatten_views(labels, embeddings, normalize)
    views = num_views(embeddings)
    batch = static_or_dynamic(rows) // views
    plain = positive_weights is queue is positives_cap is block_size is None
    plain = plain and contrast_mode == denominator_mode == "all"
    if plain and normalize and _takes_half_of_the_blocks(rows, temperature):
        losses, counted = _symmetric_losses(ids, rows, temperature, summation_location)
    else:
        cap = positives_cap, positives_cap_seed
        pairs_of = pairs_of_batch(ids, batch, views, positive_weights, *cap, queue, labels is None)
        rows = followed_by_queue(rows, queue, normalize)
        modes = summation_location, denominator_mode, margin
        block_losses = losses_from_pairs(pairs_of, temperature, *modes)
        anchors = batch if contrast_mode == "one" else batch * views
        losses, counted = evaluate_anchors(block_losses, rows, anchors, block_size, outputs=2)
    return losses * temperature if scale_by_temperature else losses, counted


def _check_modes(summation_location, contrast_mode, denominator_mode, anchors_without_positives):
    choice("summation_location", summation_location, ("out", "in"))
    choice("contrast_mode", contrast_mode, ("all", "one"))
    choice("denominator_mode", denominator_mode, ("all", "one_positive", "only_negatives"))
    choice("anchors_without_positives", anchors_without_positives, ("exclude", "zero"))


def _check_limits(margin, denominator_mode, cap, seed, block_size):
    check_block_size(block_size)
    if not 0 <= margin < float("inf"):
        raise ValueError(f"margin must be at least 0 and finite. Received: {margin}.")
    if margin and denominator_mode != "one_positive":
        raise ValueError(
            f'margin needs denominator_mode "one_positive". Received: {denominator_mode!r}.'
        )
    if cap is not None and (not isinstance(cap, int) or cap < 0):
        raise ValueError(f"positives_cap must be None or an int >= 0. Received: {cap!r}.")
    if seed is not None and cap is None:
        raise ValueError("positives_cap_seed needs a positives_cap. Received: positives_cap=None.")


def _check_combination(labels, positive_weights, queue, positives_cap):
    if labels is not None and positive_weights is not None:
        raise ValueError("labels and positive_weights are mutually exclusive. Give one of them.")
    if positive_weights is not None and positives_cap is not None:
        raise ValueError(
            f"positives_cap is for labels, not for positive_weights. Received: {positives_cap}."
        )
    given = {"positive_weights": positive_weights, "positives_cap": positives_cap}
    for name, value in given.items():
        if queue is not None and value is not None:
            raise ValueError(f"{name} cannot be combined with a queue. Received: {name} and queue.")


def _scaled_to_counted(losses, counted):
    """Losses whose mean over all anchors is the mean over the anchors that count."""
    share = tf.reduce_mean(tf.stop_gradient(counted))
    return losses / tf.where(share > 0, share, 1.0)


def _takes_half_of_the_blocks(rows, temperature):
    """Whether `symmetric_logsumexp` can be used, and is faster than the whole matrix."""
    count = rows.shape[0]
    large = count is not None and count**2 > sizes().matrix
    return large and temperature >= _SYMMETRIC_TEMPERATURE


def _symmetric_losses(ids, rows, temperature, summation_location):
    segments, num_positives = class_segments(ids)
    inside = summation_location == "in"
    log_all, log_positive = symmetric_logsumexp(rows, segments, temperature, inside)
    divisor = tf.maximum(num_positives, 1.0)
    if inside:
        log_numerator = log_positive - tf.math.log(divisor)
    else:
        # The sum over positives is a product with the class's sum: no pairs are needed.
        sums = tf.math.unsorted_segment_sum(rows, segments, rows.shape[0])
        others = tf.gather(sums, segments) - rows
        log_numerator = tf.reduce_sum(rows * others, axis=1) / (divisor * temperature)
    counted = num_positives > 0
    return tf.where(counted, log_all - log_numerator, 0.0), tf.cast(counted, tf.float32)


@keras.saving.register_keras_serializable("supcon_tf")
@dataclasses.dataclass(eq=False)
class SupConLoss(AnchorLoss):
    """`supcon_loss` as a Keras loss: `loss(labels, embeddings)` is its mean over the anchors.

    Called with `labels` int [B] (or None: SimCLR) and `embeddings` float [B, V, D] or [B, D];
    `loss(None, embeddings, positive_weights=...)` takes pairwise weights instead, and
    `sample_weight` float [B] weights the anchors of each image. Under a `tf.distribute` strategy
    pass the gathered global batch (`supcon_tf.gather_batch`): Keras divides the mean by the number
    of replicas.

    Its arguments are the options of `supcon_loss`, plus `reduction` and `name` as in
    `keras.losses.Loss`; with reduction "none" it returns one value per anchor.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        As `supcon_loss`.

    Example:
        >>> loss = SupConLoss(temperature=0.1)
        >>> loss(labels, embeddings)  # [B], [B, 2, 128]
    """

    temperature: float = 0.1
    _: dataclasses.KW_ONLY
    summation_location: str = "out"
    contrast_mode: str = "all"
    denominator_mode: str = "all"
    margin: float = 0.0
    positives_cap: int | None = None
    positives_cap_seed: int | None = None
    scale_by_temperature: bool = False
    normalize: bool = True
    anchors_without_positives: str = "exclude"
    block_size: int | None = None
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "supcon"

    def __post_init__(self):
        super().__post_init__()
        check_temperature(self.temperature)
        _check_modes(
            self.summation_location,
            self.contrast_mode,
            self.denominator_mode,
            self.anchors_without_positives,
        )
        caps = self.positives_cap, self.positives_cap_seed
        _check_limits(self.margin, self.denominator_mode, *caps, self.block_size)

    def call(self, y_true, y_pred, positive_weights=None, queue=None):
        """Labels int [B] or None and embeddings float [B, V, D] in, float32 [anchors] out."""
        pairs = {"positive_weights": positive_weights, "queue": queue}
        return supcon_loss(y_true, y_pred, **pairs, **vars(self.options))

    def counted_losses(self, y_true, y_pred, positive_weights=None, queue=None):
        """As `call`, not scaled, and which anchors count: None for all."""
        options = {**vars(self.options), "positive_weights": positive_weights, "queue": queue}
        excludes = options.pop("anchors_without_positives") == "exclude"
        losses, counted = _anchor_losses(y_true, y_pred, **options)
        return losses, counted if excludes else None

    def collapsed_value(self, num_rows):
        """The loss of identical embeddings, log(N - 1); None if it depends on the labels."""
        if self.denominator_mode != "all" or self.positives_cap is not None:
            return None
        scale = self.temperature if self.scale_by_temperature else 1.0
        return scale * math.log(max(1, num_rows - 1))
