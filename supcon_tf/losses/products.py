"""Products of rows in full float32, even where a GPU would round the factors to TF32."""

import tensorflow as tf

# Bits of float32's mantissa that TF32 lacks.
_LOST_BITS = 13


def row_products(anchors, rows):
    """The products of all anchors with all rows, each to the precision of their dtype.

    A GPU multiplies float32 in TF32 unless TensorFlow is told not to, with 10 bits of mantissa
    instead of 23; divided by a temperature, the error enters an exponent. On a GPU each factor is
    split into the part that TF32 holds and the rest, and the three products that matter are summed
    by one product three times as long. The gradients are plain products.

    Args:
        anchors: float [..., R, D].
        rows: float [N, D], of the same dtype.

    Returns:
        float [..., R, N].
    """
    if anchors.dtype != tf.float32 or not _rounds_to_tf32():
        return tf.matmul(anchors, rows, transpose_b=True)

    @tf.custom_gradient
    def products(anchors, rows):
        def gradient(upstream):
            of_rows = tf.tensordot(upstream, anchors, [list(range(upstream.shape.rank - 1))] * 2)
            return tf.matmul(upstream, rows), of_rows

        return split_products(anchors, rows), gradient

    return products(anchors, rows)


def split_products(anchors, rows):
    """`row_products` of float32 from factors that TF32 holds."""
    (high, low), (row_high, row_low) = _split(anchors), _split(rows)
    left = tf.concat([high, high, low], axis=-1)
    right = tf.concat([row_high, row_low, row_high], axis=-1)
    return tf.matmul(left, right, transpose_b=True)


def _split(values):
    """The nearest numbers with TF32's mantissa, and what they lack."""
    half = 1 << (_LOST_BITS - 1)
    bits = (tf.bitcast(values, tf.int32) + half) & -(1 << _LOST_BITS)
    high = tf.bitcast(bits, tf.float32)
    return high, values - high


def _rounds_to_tf32():
    enabled = tf.config.experimental.tensor_float_32_execution_enabled()
    return enabled and bool(tf.config.list_physical_devices("GPU"))
