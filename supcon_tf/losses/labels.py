"""Facts that follow from the labels of a batch: classes, positives, negatives, places."""

import tensorflow as tf


def static_or_dynamic(rows):
    """The number of rows: an int if it is known, otherwise a scalar tensor."""
    return tf.shape(rows)[0] if rows.shape[0] is None else rows.shape[0]


def class_ids(labels, batch):
    """The class of each image, int64 [B].

    Args:
        labels: int [B] or [B, 1], of any integer dtype; None makes every image a class of its own,
            numbered from 0 on. No id is special, not even -1.
        batch: B, an int or a scalar tensor.

    Raises:
        ValueError: if they are not one class id per image.
    """
    if labels is None:
        return tf.range(tf.cast(batch, tf.int64))
    labels = one_per_image("labels", labels, batch)
    # Unsigned ids above the largest int64 become the negative ones: other ids, as many classes.
    integer = labels.dtype.is_integer or labels.dtype == tf.bool
    return tf.reshape(tf.cast(labels, tf.int64) if integer else labels, [-1])


def one_per_image(name, values, batch):
    """Converts to a tensor, and refuses shapes other than [B] or [B, 1].

    If B is unknown, it is compared when the graph runs.
    """
    values = tf.convert_to_tensor(values)
    shape, known = values.shape, isinstance(batch, int)
    vector = shape.is_compatible_with([None]) or shape.is_compatible_with([None, 1])
    if not vector or (known and shape.rank and shape[0] not in (batch, None)):
        kind = "class id" if name == "labels" else "number"
        advice = "; one-hot labels need argmax first" if name == "labels" else ""
        raise ValueError(
            f"{name} must be one {kind} per image, [{batch if known else 'B'}]. Received: shape "
            f"{shape}{advice}."
        )
    if known and shape.is_fully_defined():
        return values
    found = tf.stack([tf.shape(values)[0], tf.size(values)])
    check = tf.debugging.assert_equal(found, batch, f"{name} must be one per image, [B].")
    with tf.control_dependencies([] if check is None else [check]):
        return tf.identity(values)


def same_class(labels, indices):
    """Whether a row is of the anchor's class: bool [R, N] of labels [N] and anchors int32 [R]."""
    return tf.gather(labels, indices)[:, None] == labels[None, :]


def _other_rows(indices, count):
    """Whether a row is not the anchor itself: bool [R, N] for anchors int32 [R] and N rows."""
    return indices[:, None] != tf.range(count)[None, :]


def positives_and_negatives(labels, indices):
    """The other rows of each anchor's class, and the rows of other classes.

    Args:
        labels: int [N].
        indices: int32 [R], the anchors.

    Returns:
        bool [R, N] each.
    """
    same = same_class(labels, indices)
    return same & _other_rows(indices, static_or_dynamic(labels)), ~same


def pairs_of_batch(labels, batch, views, positive_weights, cap, seed, queue, unlabelled):
    """The pairs of a batch by weights, with a cap, with a queue, or by classes alone."""
    if positive_weights is not None:
        return weighted_pairs(positive_weights, batch, views)
    if cap is not None:
        return capped_pairs(labels, batch, views, cap, seed)
    if queue is not None:
        queue_labels, _, filled = queue
        return queued_pairs(labels, None if unlabelled else queue_labels, filled)
    return class_pairs(labels)


def class_pairs(labels):
    """The pairs of rows of known classes.

    Args:
        labels: int [N].

    Returns:
        A function from the indices int32 [R] of some anchors to the weights of their positives,
        float32 [R, N], 0 where a row is not one; and their negatives, bool [R, N]. A row that is
        neither, such as the anchor itself, takes no part.
    """

    def pairs_of(indices):
        positive, negative = positives_and_negatives(labels, indices)
        return tf.cast(positive, tf.float32), negative

    return pairs_of


def queued_pairs(labels, queue_labels, filled):
    """As `class_pairs`, for a batch followed by the queue.

    Args:
        labels: int [N], of the batch.
        queue_labels: int [Q]; None makes every row of the queue a negative.
        filled: bool [Q], false for the rows of the queue that take no part.
    """
    if queue_labels is None:
        queue_labels = tf.fill(tf.shape(filled), -1)  # An image's class is its number, from 0 on.
    queue_labels = tf.cast(class_ids(queue_labels, static_or_dynamic(filled)), labels.dtype)
    pairs_of_all = class_pairs(tf.concat([labels, queue_labels], axis=0))
    takes_part = tf.concat([tf.fill(tf.shape(labels), True), filled], axis=0)

    def pairs_of(indices):
        weights, negative = pairs_of_all(indices)
        return tf.where(takes_part, weights, 0.0), negative & takes_part

    return pairs_of


def capped_pairs(labels, batch, views, cap, seed):
    """As `class_pairs`, with at most `cap` positives in addition to the anchor's own views.

    Args:
        labels: int [V * B], view-major.
        batch: B.
        views: V.
        cap: a multiple of V.
        seed: as `order_in_class`; the first images of a class are kept.

    Raises:
        ValueError: if `cap` is not a multiple of V.
    """
    if cap % views:
        raise ValueError(f"positives_cap must be a multiple of the {views} views. Received: {cap}.")
    order = order_in_class(labels[:batch], seed)
    image_of_row = tf.range(batch * views) % batch

    def pairs_of(indices):
        positive, negative = positives_and_negatives(labels, indices)
        image = indices % batch
        mine, theirs = tf.gather(order, image)[:, None], tf.gather(order, image_of_row)[None, :]
        # The place of each image among the others of the class, without the anchor's own.
        place = theirs - tf.cast(theirs > mine, tf.int32)
        kept = (place < cap // views) | (image[:, None] == image_of_row[None, :])
        return tf.cast(positive & kept, tf.float32), negative

    return pairs_of


def weighted_pairs(positive_weights, batch, views):
    """As `class_pairs`, with given weights instead of classes.

    Args:
        positive_weights: float or bool [B, B], of pairs of images; 0 for a negative, below 0 for a
            pair that takes no part.
        batch: B.
        views: V.
    """
    of_images = tf.stop_gradient(tf.cast(positive_weights, tf.float32))

    def pairs_of(indices):
        weights = tf.tile(tf.gather(of_images, indices % batch), [1, views])
        others = _other_rows(indices, batch * views)
        return tf.where(others, tf.maximum(weights, 0.0), 0.0), others & (weights == 0)

    return pairs_of


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
    # In the drawn order, each image's place is its rank minus the rank of its class's first.
    segments, _ = class_segments(tf.gather(labels, key))
    by_class = tf.argsort(segments, stable=True)
    ordered = tf.gather(segments, by_class)
    first = tf.searchsorted(ordered, ordered, side="left")
    place = tf.gather(tf.range(batch) - first, tf.argsort(by_class))
    return tf.gather(place, inverse)
