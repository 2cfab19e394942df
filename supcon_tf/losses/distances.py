"""Euclidean distances of rows, accurate where rows are near each other too."""

import tensorflow as tf

from supcon_tf.losses.products import row_products

# A squared distance below this share of |a|^2 + |b|^2 is not left to float32, whose rounding would
# be one percent of it or more.
_NEAR = 1e-4
# Below this share, float64's own rounding is all that is left: the rows are duplicates.
_EQUAL = 1e-14


def squared_distances(anchors, rows, indices=None):
    """Squared Euclidean distances of anchors and rows; those of duplicates are exactly 0.

    |a|^2 + |b|^2 - 2 a . b cancels where the distance is small compared with the norms. The rows
    are therefore centred first; if some pair is near even so, as when every class has collapsed to
    a point of its own, the products are taken in float64, which takes about twice the time.

    Args:
        anchors: float32 [R, D].
        rows: float32 [N, D].
        indices: int32 [R], the places of the anchors among the rows; None if they are not there.

    Returns:
        float32 [R, N].
    """
    centre = tf.stop_gradient(tf.reduce_mean(rows, axis=0))

    @tf.custom_gradient
    def distances(anchors, rows):
        squared, near = _float32_distances(anchors - centre, rows - centre, indices)
        squared = tf.cond(near, lambda: _float64_distances(anchors, rows, centre), lambda: squared)

        def gradient(upstream):
            def in_precision(dtype):
                return _gradient(anchors, rows, centre, upstream, dtype)

            return tf.cond(near, lambda: in_precision(tf.float64), lambda: in_precision(tf.float32))

        return squared, gradient

    return distances(anchors, rows)


def _float32_distances(anchors, rows, indices):
    """Squared distances [R, N] of centred rows, and whether one is too small for float32."""
    norms, squared = _norms_and_squared(anchors, rows)
    near = squared < _NEAR * norms
    if indices is not None:
        own = indices[:, None] == tf.range(tf.shape(rows)[0])
        squared = tf.where(own, 0.0, squared)
        near &= ~own
    return squared, tf.reduce_any(near)


def _float64_distances(anchors, rows, centre):
    norms, squared = _norms_and_squared(*_centred(anchors, rows, centre, tf.float64))
    zero = tf.zeros([], tf.float64)
    return tf.cast(tf.where(squared > _EQUAL * norms, squared, zero), tf.float32)


def _norms_and_squared(anchors, rows):
    squares = [tf.reduce_sum(tf.square(points), axis=1) for points in (anchors, rows)]
    norms = squares[0][:, None] + squares[1][None, :]
    return norms, norms - 2.0 * row_products(anchors, rows)


def _centred(anchors, rows, centre, dtype):
    return [tf.cast(points, dtype) - tf.cast(centre, dtype) for points in (anchors, rows)]


def _gradient(anchors, rows, centre, upstream, dtype):
    """The gradients with respect to anchors and rows, 2 sum_j g_ij (a_i - b_j) and the like.

    The two terms cancel where rows are near, so both have the full precision of the dtype.
    """
    a, b = _centred(anchors, rows, centre, dtype)
    g = 2.0 * tf.cast(upstream, dtype)
    of_anchors = tf.reduce_sum(g, axis=1)[:, None] * a - row_products(g, tf.transpose(b))
    of_rows = tf.reduce_sum(g, axis=0)[:, None] * b - row_products(tf.transpose(g), tf.transpose(a))
    return tf.cast(of_anchors, tf.float32), tf.cast(of_rows, tf.float32)


def safe_sqrt(squared):
    """The square root, with gradient 0 at 0."""
    positive = squared > 0
    return tf.where(positive, tf.sqrt(tf.where(positive, squared, 1.0)), 0.0)


def log_near_one(log, mean_minus_one):
    """The logarithm of a mean of exp(-distance), lost in rounding if all distances are small.

    Args:
        log: float32, the logarithm as computed.
        mean_minus_one: float32, the mean minus 1, summed from `expm1`, which is used near 1.
    """
    return tf.where(mean_minus_one < -0.5, log, tf.math.log1p(tf.maximum(mean_minus_one, -0.5)))
