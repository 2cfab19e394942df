"""What the labels of a batch alone say: classes, positives, places."""

import tensorflow as tf


def static_or_dynamic(rows):
    """The number of rows: an int where it is known, otherwise a scalar tensor."""
    return tf.shape(rows)[0] if rows.shape[0] is None else rows.shape[0]


def class_segments(labels):
    """Renumbers labels to segments from 0 on, whatever ids occur, and counts positives.

    Args:
        labels: int [N].

    Returns:
        segments int32 [N] in [0, N), and the other rows of each row's class, float32 [N].
    """
    order = tf.argsort(labels, stable=True)
    ordered = tf.gather(labels, order)
    new = tf.cast(ordered[1:] != ordered[:-1], tf.int32)
    segments = tf.concat([tf.zeros([1], tf.int32), tf.cumsum(new)], axis=0)
    segments = tf.gather(segments, tf.argsort(order))
    count = static_or_dynamic(labels)
    sizes = tf.math.unsorted_segment_sum(tf.ones_like(segments), segments, count)
    return segments, tf.cast(tf.gather(sizes, segments) - 1, tf.float32)


def order_in_class(labels, seed=None):
    """The place of each image among those of its class.

    Args:
        labels: int [B].
        seed: None for the order in the batch, or an int for one drawn from it.

    Returns:
        int32 [B], from 0 on in each class.
    """
    batch = tf.shape(labels)[0]
    key = tf.range(batch)
    if seed is not None:
        key = tf.argsort(tf.random.stateless_uniform([batch], [seed, 0]))
    inverse = tf.argsort(key)
    # In the drawn order, each image's place is its rank less the rank of its class's first.
    segments, _ = class_segments(tf.gather(labels, key))
    by_class = tf.argsort(segments, stable=True)
    ordered = tf.gather(segments, by_class)
    first = tf.searchsorted(ordered, ordered, side="left")
    place = tf.gather(tf.range(batch) - first, tf.argsort(by_class))
    return tf.gather(place, inverse)
