"""Supervised contrastive losses of anchors from their complete rows of similarities."""

import tensorflow as tf

from supcon_tf.losses.pairs import flatten_views, masked_logsumexp
from supcon_tf.losses.products import row_products


def losses_from_pairs(pairs_of, temperature, *modes):
    """A function for `evaluate_anchors` that gives the `row_losses` of some anchors.

    Args:
        pairs_of: from indices of anchors int32 [R] to weights and negatives, as in `row_losses`.
        temperature: float > 0.
        *modes: the further arguments of `row_losses`.
    """

    def block_losses(indices, anchors, rows):
        logits = row_products(anchors, rows) / temperature
        return row_losses(logits, *pairs_of(indices), *modes)

    return block_losses


def row_losses(logits, weights, negative, summation_location, denominator_mode, margin=0.0):
    """The losses of some anchors from their complete rows of logits.

    Args:
        logits: float32 [R, N], similarities over the temperature.
        weights: float32 [R, N], positive weights, 0 where a row is not a positive.
        negative: bool [R, N]; a row that is not a positive either takes no part.
        summation_location: as in `supcon_loss`.
        denominator_mode: as in `supcon_loss`.
        margin: as in `supcon_loss`.

    Returns:
        Losses float32 [R], and float32 [R]: 1 for an anchor with a positive and, if the
        denominator consists of negatives, a negative; else 0, and then the loss is 0.
    """
    total = tf.reduce_sum(weights, axis=1)
    counted = total > 0
    divisor = tf.where(counted, total, 1.0)
    if denominator_mode == "only_negatives":
        counted &= tf.reduce_any(negative, axis=1)
    if denominator_mode == "one_positive":
        # Each positive against the negatives, with margin m:
        # -log(e^s / (e^(s - m) + sum e^n)) = softplus(log sum e^n - s + m) - m.
        log_negatives = masked_logsumexp(logits, negative)[:, None]
        logits = margin - tf.nn.softplus(log_negatives - logits + margin)  # [R, N]
        log_denominator = 0.0
    else:
        mask = negative if denominator_mode == "only_negatives" else negative | (weights > 0)
        log_denominator = masked_logsumexp(logits, mask)
    if summation_location == "out":
        log_numerator = tf.reduce_sum(weights * logits, axis=1) / divisor
    else:
        log_numerator = _weighted_logsumexp(logits, weights) - tf.math.log(divisor)
    losses = tf.where(counted, log_denominator - log_numerator, 0.0)
    return losses, tf.cast(counted, tf.float32)


def followed_by_queue(rows, queue, normalize):
    """Rows [N, D], followed by those of a queue if there is one; the latter have no gradient."""
    if queue is None:
        return rows
    _, queued = flatten_views(None, tf.stop_gradient(queue[1]), normalize)
    return tf.concat([rows, queued], axis=0)


def _weighted_logsumexp(logits, weights):
    positive = weights > 0
    return masked_logsumexp(logits + tf.math.log(tf.where(positive, weights, 1.0)), positive)
