"""Common parts of the pairwise losses: shapes, masks, a masked log-sum-exp, the Keras class."""

import dataclasses
import types

import keras
import tensorflow as tf
from keras import ops

from supcon_tf.losses.labels import class_ids, one_per_image, static_or_dynamic

# exp(-1e30 - x) is exactly 0 in float32 and, unlike -inf, leaves no NaN in a gradient.
MASKED = -1e30


def unit_norm(rows):
    """Scales the last axis to unit norm: float32 in, float32 out; zeros stay zeros.

    Args:
        rows: float [..., D].

    Returns:
        float32 [..., D].
    """
    rows = ops.cast(rows, "float32")
    # Scaling by the largest entry first: a float16 row such as 6e4 squares to infinity otherwise.
    largest = ops.stop_gradient(ops.max(ops.abs(rows), axis=-1, keepdims=True))
    rows = rows / ops.where(largest > 0, largest, 1.0)
    squared = ops.sum(ops.square(rows), axis=-1, keepdims=True)
    return rows * ops.where(squared > 0, ops.rsqrt(ops.where(squared > 0, squared, 1.0)), 0.0)


def choice(name, value, allowed):
    """Raises a ValueError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}. Received: {value!r}.")


def num_views(embeddings):
    """V of embeddings float [B, V, D]; 1 for [B, D].

    Raises:
        ValueError: if they have neither two nor three axes, or V or D is not known.
    """
    shape = tf.TensorShape(embeddings.shape)
    if shape.rank not in (2, 3) or None in shape[1:]:
        raise ValueError(
            "embeddings must be [B, V, D] or [B, D], of a known number of views and dimensions "
            f"(tf.ensure_shape). Received: shape {shape}."
        )
    return shape[1] if shape.rank == 3 else 1


def flatten_views(labels, embeddings, normalize=True):
    """Flattens a multi-view batch to rows, view-major, in float32.

    Args:
        labels: int [B], or None if every image is a class of its own.
        embeddings: float [B, V, D], or [B, D] for one view.
        normalize: whether rows are scaled to unit norm. A zero row stays zero, with a zero
            gradient.

    Returns:
        labels int [V * B] and rows float32 [V * B, D]: all of view 0, then all of view 1, ...

    Raises:
        ValueError: if `embeddings` has other axes or `labels` a different shape.
    """
    embeddings = tf.cast(embeddings, tf.float32)
    views, dim = num_views(embeddings), embeddings.shape[-1]
    batch = static_or_dynamic(embeddings)
    labels = class_ids(labels, batch)
    by_view = tf.transpose(tf.reshape(embeddings, [batch, views, dim]), [1, 0, 2])
    rows = tf.reshape(by_view, [views * batch, dim])
    return tf.tile(labels, [views]), unit_norm(rows) if normalize else rows


def check_temperature(temperature):
    """Raises a ValueError unless it is above 0 and finite."""
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be above 0 and finite. Received: {temperature}.")


def check_count(name, value):
    """Raises a ValueError unless the value is an int of at least 1."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an int >= 1. Received: {value!r}.")


def check_switch(name, value):
    """Raises a ValueError unless the value is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false. Received: {value!r}.")


def check_block_size(block_size):
    """Raises a ValueError unless it is None or an int of at least 1."""
    if block_size is not None and (not isinstance(block_size, int) or block_size < 1):
        raise ValueError(f"block_size must be None or an int >= 1. Received: {block_size!r}.")


def masked_logsumexp(logits, mask):
    """log(sum(exp(logits))) over the entries of each row that `mask` keeps.

    Args:
        logits: float32 [A, N].
        mask: bool [A, N].

    Returns:
        float32 [A]; about -1e30 for a row that keeps nothing.
    """
    logits = tf.where(mask, logits, MASKED)
    largest = tf.stop_gradient(tf.reduce_max(logits, axis=1, keepdims=True))
    # A row that keeps nothing has exp(0) everywhere; its gradient is stopped by the mask.
    total = tf.reduce_sum(tf.exp(logits - largest), axis=1)
    return tf.math.log(total) + largest[:, 0]


class AnchorLoss(keras.losses.Loss):
    """A Keras loss of labels and embeddings with one value per anchor.

    Unlike `keras.losses.Loss` it keeps integer labels (float32 would merge ids above 2**24), takes
    None for labels, and repeats `sample_weight` over the views. Anchors that a loss excludes take
    part in no reduction: with l, w and c the values, the weights and 1 where an anchor counts,
    "sum" is sum(c w l), "sum_over_batch_size" and "mean" are sum(c w l) / sum(c), and
    "mean_with_sample_weight" is sum(c w l) / sum(c w).

    A subclass is a dataclass (`eq=False`), whose fields are its constructor's arguments and its
    attributes; among them are `reduction`, as in `keras.losses.Loss`, where "none" returns one
    value per anchor, and `name`. It checks the others in `__post_init__`, and its `call` passes
    them, as `**vars(self.options)`, to the function that it wraps.
    """

    # Whether the classes determine the positives.
    uses_labels = True

    def __post_init__(self):
        super().__init__(name=self.name, reduction=self.reduction, dtype="float32")

    @property
    def options(self):
        """The arguments of the wrapped function: all fields but reduction and name."""
        names = [field.name for field in dataclasses.fields(self)]
        own = {name: getattr(self, name) for name in names if name not in ("reduction", "name")}
        return types.SimpleNamespace(**own)

    def __call__(self, y_true, y_pred, sample_weight=None, **pairs):
        """The reduced loss.

        Args:
            y_true: int [B] class ids, or None.
            y_pred: float [B, V, D] or [B, D] embeddings.
            sample_weight: float [B], the weight of each image's anchors, or a single weight for
                all; None for 1.
            **pairs: further arguments of `call`.

        Returns:
            float32 scalar, or one value per anchor without reduction.
        """
        y_pred = tf.convert_to_tensor(y_pred)
        y_true = None if y_true is None else tf.convert_to_tensor(y_true)
        if self.reduction in (None, "none"):
            losses, counted = self.call(y_true, y_pred, **pairs), None
        else:
            losses, counted = self.counted_losses(y_true, y_pred, **pairs)
        if sample_weight is not None:
            weight = tf.cast(sample_weight, tf.float32)
            if weight.shape.rank != 0:  # Keras takes one number for all as well.
                weight = one_per_image("sample_weight", weight, static_or_dynamic(y_pred))
            weight = tf.reshape(weight, [-1])
            repeats = tf.shape(losses)[0] // tf.shape(weight)[0]
            sample_weight = tf.reshape(tf.tile(weight, [repeats]), tf.shape(losses))
        if counted is not None:
            counted = tf.stop_gradient(counted)
            sample_weight = counted if sample_weight is None else counted * sample_weight
            if self.reduction in ("mean", "sum_over_batch_size"):  # Of the anchors that count.
                share = tf.reduce_mean(counted)
                losses /= tf.where(share > 0, share, 1.0)
        # Reduction, and division by the number of replicas, as for every Keras loss.
        return _reduce(losses, sample_weight, self.reduction)

    def counted_losses(self, y_true, y_pred, **pairs):
        """The losses, and which anchors count.

        The second is float32 of the same shape, 1 where an anchor counts and 0 elsewhere; None if
        all count.
        """
        return self.call(y_true, y_pred, **pairs), None

    def collapsed_value(self, num_rows):
        """The loss of a batch of N identical embeddings, if it is known; else None."""
        return None

    def get_config(self):
        """The constructor's arguments."""
        return {**vars(self.options), "reduction": self.reduction, "name": self.name}


class AnchorMean(keras.losses.Loss):
    """The mean of values, one per anchor, that are given as the prediction."""

    def call(self, y_true, y_pred):
        """Float [N] in, float [N] out; `y_true` is not used."""
        return y_pred


def _reduce(losses, sample_weight, reduction):
    return AnchorMean(name="reduce", reduction=reduction, dtype="float32")(
        losses, losses, sample_weight
    )
