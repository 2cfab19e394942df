"""Contrastive attraction and contrastive repulsion (CACR): conditional transport of embeddings.

Zheng et al. 2023, "Contrastive Attraction and Contrastive Repulsion for Representation Learning".
"""

import dataclasses

import keras
import tensorflow as tf

from supcon_tf.losses.blocks import evaluate_anchors
from supcon_tf.losses.distances import log_near_one, squared_distances
from supcon_tf.losses.labels import class_ids, positives_and_negatives, static_or_dynamic
from supcon_tf.losses.pairs import (
    MASKED,
    AnchorLoss,
    check_block_size,
    check_switch,
    choice,
    flatten_views,
    masked_logsumexp,
    num_views,
)

_RBF_T = 2.0


def cacr_loss(
    labels,
    embeddings,
    *,
    queue=None,
    keys=None,
    alpha=1.0,
    beta=1.0,
    t_positive=1.0,
    t_negative=0.9,
    cost="euclidean",
    rbf_t=None,
    positive_prior=None,
    detach_weights=False,
    supervised=False,
    block_size=None,
):
    r"""Contrastive attraction and contrastive repulsion, one value per anchor.

    Each query z_i pulls its positives, the far ones most, and pushes its negatives, the near ones
    most. With d2 the squared Euclidean distance of rows of unit norm,

        attraction_i = sum_p w_ip d2_ip,        w_ip = softmax over positives of ( t+ d2_ip)
        repulsion_i = -sum_n w_in d2_in,        w_in = softmax over negatives of (-t- d2_in)
        loss = alpha mean_i attraction_i + beta mean_i repulsion_i.

    The positives of a query are the other views of its image. Its negatives are the other images in
    each later view, one softmax per view; the mean is over the pairs of views x < y and the images.

    With `cost="rbf"` the repulsion of views x < y is log mean_i sum_n w_in exp(-rbf_t d2_in). With
    the prior tau+ it is (-tau+ d2 of the own pair - sum_n w_in d2_in) / (1 - tau+), with the
    sign of the authors' code: the own pair repels as well.

    With a queue, a query's negatives are the filled rows of the queue and the other images of its
    view, in one softmax; no gradient flows through the queue's part of it, nor through the weights
    of the attraction.

    Memory is linear in the rows, as in `supcon_loss`.

    Args:
        labels: int [B], class ids, used if `supervised`; None makes every image its own class.
        embeddings: float [B, V, D]; [B, D] is taken as one view. Scaled to unit norm.
        queue: `(labels int [Q], embeddings float [Q, D], filled bool [Q])` of earlier batches, as
            in `supcon_loss`; None for none.
        keys: float [B, V, D], the embeddings of a momentum encoder: the positives of a query are
            then the keys of its image's other views. They need a queue. None for none.
        alpha: float >= 0, the weight of the attraction.
        beta: float >= 0, the weight of the repulsion.
        t_positive: float >= 0, t+; 0 for uniform weights.
        t_negative: float >= 0, t-; 0 for uniform weights.
        cost: of the repulsion, "euclidean" (d2) or "rbf". The attraction's is d2.
        rbf_t: float > 0, of the cost "rbf"; None for 2.
        positive_prior: float in [0, 1), tau+ of the debiased repulsion; None for none.
        detach_weights: whether no gradient flows through any of the weights.
        supervised: an extension of this package, not in the paper: all other rows of the class are
            positives and all rows of other classes negatives, in one softmax each; a query
            without positives, or without negatives, has 0 for that term.
        block_size: anchors per block; None for automatic.

    Returns:
        float32 [V * B], view-major; its mean is the loss. An anchor's repulsion is scaled to that
        end: in the first of V views it counts for V - 1 pairs of views, in the last for none.
        With "rbf" it is the repulsion of the anchor's view.

    Raises:
        ValueError: if an argument is out of range, two cannot be combined, or there is a single
            view and not `supervised`.

    Reference:
        Zheng et al. 2023, CACR with K positives and its momentum variant. Differs: the paper has
        no supervised variant.
    """
    _check_options(alpha, beta, t_positive, t_negative, cost, rbf_t, positive_prior, block_size)
    _check_combination(supervised, positive_prior, queue, keys, embeddings)
    ids, rows = flatten_views(labels if supervised else None, embeddings)
    count, views = static_or_dynamic(rows), num_views(embeddings)
    groups = views if queue is None and not supervised else 1
    pairs_of = _pairs(ids, count // views, supervised, queue, keys is not None)
    live = 0 if detach_weights else count
    kernel = (rbf_t or _RBF_T) if cost == "rbf" else None

    def block_terms(indices, anchors, rows):
        distances = squared_distances(anchors, rows, indices)
        positive, negative = pairs_of(indices)
        pull = _detached(t_positive * distances, live if queue is None else 0)
        attraction = tf.reduce_sum(conditional_weights(pull, positive) * distances, axis=1)
        push = _detached(-t_negative * distances, live)
        pairs = distances, push, positive, negative
        return attraction, *_repulsions_of_groups(groups, pairs, kernel, positive_prior)

    rows = _followed_by(rows, keys, queue)
    attraction, *repulsions = evaluate_anchors(block_terms, rows, count, block_size, 1 + groups)
    if kernel is not None:
        repulsions = [_log_mean_of_views(one, views) for one in repulsions]
    return alpha * attraction + beta * tf.add_n(repulsions) * (2 / (views - 1) if groups > 1 else 1)


def _check_options(alpha, beta, t_positive, t_negative, cost, rbf_t, positive_prior, block_size):
    values = {"alpha": alpha, "beta": beta, "t_positive": t_positive, "t_negative": t_negative}
    for name, value in values.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be at least 0 and finite. Received: {value}.")
    choice("cost", cost, ("euclidean", "rbf"))
    if rbf_t is not None and not 0 < rbf_t < float("inf"):
        raise ValueError(f"rbf_t must be above 0 and finite. Received: {rbf_t}.")
    if rbf_t is not None and cost != "rbf":
        raise ValueError(f"rbf_t needs cost='rbf'. Received: rbf_t={rbf_t}.")
    if positive_prior is not None and not 0 <= positive_prior < 1:
        raise ValueError(f"positive_prior must be None or in [0, 1). Received: {positive_prior}.")
    if positive_prior is not None and cost == "rbf":
        raise ValueError(f"positive_prior needs cost='euclidean'. Received: {positive_prior}.")
    check_block_size(block_size)


def _check_combination(supervised, positive_prior, queue, keys, embeddings):
    if positive_prior is not None and (supervised or queue is not None):
        with_what = "supervised=True" if supervised else "a queue"
        raise ValueError(
            f"positive_prior cannot be combined with {with_what}. Received: {positive_prior}."
        )
    if keys is not None and queue is None:
        raise ValueError("keys need a queue; cacr_key_loss takes keys alone. Received: keys.")
    if keys is not None and tuple(keys.shape[1:]) != tuple(embeddings.shape[1:]):
        raise ValueError(
            f"keys must have the embeddings' shape {tuple(embeddings.shape)}. Received: "
            f"{tuple(keys.shape)}."
        )
    if not supervised and num_views(embeddings) < 2:
        raise ValueError("cacr needs two or more views of an image. Received: 1.")


def _pairs(ids, batch, supervised, queue, with_keys):
    """A function from some anchors int32 [R] to their positives and negatives, bool [R, N] each.

    The N columns are the V * B rows, the keys if there are any, and the queue.
    """
    view = tf.range(static_or_dynamic(ids)) // batch

    def pairs_of(indices):
        positive, negative = positives_and_negatives(ids, indices)
        if not supervised:
            own = tf.gather(view, indices)[:, None]
            negative &= view > own if queue is None else view == own
        none = tf.zeros_like(positive)
        parts = [(none, negative), (positive, none)] if with_keys else [(positive, negative)]
        if queue is not None:
            labels, _, filled = queue
            labels = tf.cast(class_ids(labels, static_or_dynamic(filled)), ids.dtype)
            of_class = tf.gather(ids, indices)[:, None] == labels
            same = of_class if supervised else tf.zeros_like(of_class)
            parts.append((same & filled, ~same & filled))
        return tuple(tf.concat(kind, axis=1) for kind in zip(*parts, strict=True))

    return pairs_of


def _followed_by(rows, keys, queue):
    others = [] if keys is None else [keys]
    others += [] if queue is None else [queue[1]]
    unit = [flatten_views(None, tf.stop_gradient(one))[1] for one in others]
    return tf.concat([rows, *unit], axis=0)


def _detached(logits, live):
    """The logits [R, N], with gradients through the first `live` columns alone."""
    return tf.where(tf.range(tf.shape(logits)[1]) < live, logits, tf.stop_gradient(logits))


def conditional_weights(logits, mask):
    """The conditional distribution of transport: a softmax over the entries that `mask` keeps.

    Args:
        logits: float32 [R, N].
        mask: bool [R, N].

    Returns:
        float32 [R, N]; each row sums to 1, or is 0 if `mask` keeps nothing of it.
    """
    return tf.where(mask, tf.nn.softmax(tf.where(mask, logits, MASKED), axis=1), 0.0)


def _repulsions_of_groups(groups, pairs, rbf_t, positive_prior):
    """`_repulsion` of pairs [R, N] for each of the equal groups of their columns: [R] each."""
    rows = static_or_dynamic(pairs[0]) * groups
    pairs = [tf.reshape(one, [rows, -1]) for one in pairs]
    values = tf.reshape(_repulsion(*pairs, rbf_t, positive_prior), [-1, groups])
    return tf.unstack(values, axis=1)


def _repulsion(distances, logits, positive, negative, rbf_t, positive_prior):
    """Minus the mean cost of transport to the negatives; with `rbf_t` the log of the mean kernel.

    0 without negatives.
    """
    if rbf_t is not None:
        value = masked_logsumexp(logits - rbf_t * distances, negative)
        value -= masked_logsumexp(logits, negative)
        less_one = conditional_weights(logits, negative) * tf.math.expm1(-rbf_t * distances)
        value = log_near_one(value, tf.reduce_sum(less_one, axis=1))
    else:
        value = -tf.reduce_sum(conditional_weights(logits, negative) * distances, axis=1)
        if positive_prior is not None:
            own = tf.reduce_sum(tf.where(positive, distances, 0.0), axis=1)
            value = (value - positive_prior * own) / (1.0 - positive_prior)
    return tf.where(tf.reduce_any(negative, axis=1), value, 0.0)


def _log_mean_of_views(logs, views):
    """From logs float32 [V * B] to the log of the mean over each view's images, one per row.

    Either every query of a view has negatives or none has, and then the result is 0 too.
    """
    logs = tf.reshape(logs, [views, -1])
    batch = tf.cast(tf.shape(logs)[1], tf.float32)
    mean = tf.reduce_logsumexp(logs, axis=1, keepdims=True) - tf.math.log(batch)
    mean = log_near_one(mean, tf.reduce_mean(tf.math.expm1(logs), axis=1, keepdims=True))
    return tf.reshape(tf.broadcast_to(mean, tf.shape(logs)), [-1])


@keras.saving.register_keras_serializable("supcon_tf")
@dataclasses.dataclass(eq=False)
class CACRLoss(AnchorLoss):
    """`cacr_loss` as a Keras loss: `loss(labels or None, embeddings)` is its mean over the anchors.

    Its arguments are the options of `cacr_loss`, plus `reduction` and `name` as in
    `keras.losses.Loss`; with reduction "none" it returns one value per anchor. `loss(labels,
    embeddings, queue=..., keys=...)` is the momentum variant.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        Zheng et al. 2023; `supervised` is an extension of this package.
    """

    alpha: float = 1.0
    beta: float = 1.0
    _: dataclasses.KW_ONLY
    t_positive: float = 1.0
    t_negative: float = 0.9
    cost: str = "euclidean"
    rbf_t: float | None = None
    positive_prior: float | None = None
    detach_weights: bool = False
    supervised: bool = False
    block_size: int | None = None
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "cacr"

    def __post_init__(self):
        super().__post_init__()
        options = vars(self.options).copy()
        for name in ("detach_weights", "supervised"):
            check_switch(name, options.pop(name))
        _check_options(**options)

    @property
    def uses_labels(self):
        """Whether the classes determine the positives."""
        return self.supervised

    def call(self, y_true, y_pred, queue=None, keys=None):
        """Labels int [B] or None and embeddings float [B, V, D] in, float32 [V * B] out."""
        return cacr_loss(y_true, y_pred, queue=queue, keys=keys, **vars(self.options))
