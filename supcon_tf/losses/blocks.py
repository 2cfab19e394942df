"""Losses over all pairs of a batch without the matrix of all pairs.

Blocks of the similarity matrix are computed, reduced and forgotten in the forward pass, and
computed again in the backward pass, so that memory grows with the number of rows and not with its
square. Works eagerly, in `tf.function` and under XLA.
"""

import tensorflow as tf

# Elements of one block of anchors by contrasts: 16 MiB in float32.
BLOCK_ELEMENTS = 2**22
# Up to so many, the matrix of all pairs (4 MiB) is kept for the backward pass: it is faster.
FULL_MATRIX_ELEMENTS = 2**20
# A matrix of all pairs of more rows than this is refused.
FULL_MATRIX_LIMIT_ROWS = 2**14
# Rows and columns of a square block of the symmetric path.
SQUARE_BLOCK = 512


def evaluate_anchors(block_losses, rows, num_anchors, block_size, outputs=1, elements=None):
    """Evaluates a loss of anchors against all rows: whole where that is faster, else in blocks.

    Args:
        block_losses: from the indices int32 [R] of some anchors, their rows float32 [R, D] and all
            rows float32 [N, D] to float32 [R], or a tuple of such. It may be called again in the
            backward pass.
        rows: float32 [N, D]; the anchors are the first of them.
        num_anchors: int, or a scalar tensor where the batch is not static.
        block_size: anchors a block; None chooses.
        outputs: how many values `block_losses` returns.
        elements: elements that one anchor takes, where that is not N.

    Returns:
        float32 [num_anchors], or a tuple of such.

    Raises:
        ValueError: if a `block_size` is given for a batch that is not static.
    """
    static = isinstance(num_anchors, int)
    if not static:
        if block_size is not None:
            raise ValueError(
                f"block_size needs a batch of static size (drop_remainder=True). Received: "
                f"{block_size} for embeddings of unknown batch size."
            )
        _check_full_matrix(num_anchors)
    elements = elements or rows.shape[0] or 0
    if not static or (block_size is None and num_anchors * elements <= FULL_MATRIX_ELEMENTS):
        return block_losses(tf.range(num_anchors), rows[:num_anchors], rows)
    size = block_size or max(1, BLOCK_ELEMENTS // elements)
    return _map_blocks(block_losses, rows, num_anchors, min(size, num_anchors), outputs)


def _check_full_matrix(num_rows):
    """Refuses, when the graph runs, a matrix of all pairs that would exhaust the machine."""
    tf.debugging.assert_less_equal(
        num_rows,
        FULL_MATRIX_LIMIT_ROWS,
        "a batch of unknown size is computed with the matrix of all pairs, which would take more "
        "than 1 GiB several times over. Give the batch a static size (drop_remainder=True).",
    )


def _map_blocks(block_losses, rows, num_anchors, block_size, outputs):
    num_blocks = -(-num_anchors // block_size)

    def indices_of(block):
        # The last block begins early enough to be full; what it repeats is not counted again.
        start = tf.minimum(block * block_size, num_anchors - block_size)
        return start + tf.range(block_size)

    @tf.custom_gradient
    def evaluate(rows):
        def one(block):
            indices = indices_of(block)
            return block_losses(indices, tf.gather(rows, indices), rows)

        spec = tf.TensorSpec([block_size], tf.float32)
        stacked = tf.map_fn(
            one,
            tf.range(num_blocks),
            fn_output_signature=spec if outputs == 1 else (spec,) * outputs,
            parallel_iterations=1,
        )
        anchor = tf.range(num_anchors)
        block = anchor // block_size
        start = tf.minimum(block * block_size, num_anchors - block_size)
        place = block * block_size + anchor - start
        values = tf.nest.map_structure(
            lambda blocks: tf.gather(tf.reshape(blocks, [-1]), place), stacked
        )

        def gradient(*upstream):
            def step(block, total):
                indices = indices_of(block)
                counted = tf.cast(indices >= block * block_size, tf.float32)
                wanted = [counted * tf.gather(one, indices) for one in upstream]
                anchors = tf.gather(rows, indices)
                with tf.GradientTape() as tape:
                    tape.watch([anchors, rows])
                    again = tf.nest.flatten(block_losses(indices, anchors, rows))
                of_anchors, of_rows = tape.gradient(
                    again, [anchors, rows], wanted, unconnected_gradients="zero"
                )
                total = tf.tensor_scatter_nd_add(total + of_rows, indices[:, None], of_anchors)
                return block + 1, total

            _, total = tf.while_loop(
                lambda block, total: block < num_blocks,
                step,
                (tf.constant(0), tf.zeros_like(rows)),
                parallel_iterations=1,
            )
            return total

        return values, gradient

    return evaluate(rows)


def symmetric_logsumexp(rows, labels, temperature, with_positives):
    """log-sum-exp of every row's similarities with the other rows, from half of the blocks.

    The similarity matrix is symmetric: a block above the diagonal serves its rows and its columns.
    All exponents are shifted by the largest possible similarity, 1 / temperature, so every
    exponential is computed once; that underflows for temperatures below about 0.025.

    Args:
        rows: float32 [N, D], unit norm or zero; N static.
        labels: int [N].
        temperature: float >= 0.025.
        with_positives: whether the log-sum-exp over the positives alone is wanted as well.

    Returns:
        float32 [N] over all other rows, and float32 [N] over the other rows of the class (about
        -87 where there are none), or None.
    """
    count, dim = rows.shape
    size = min(SQUARE_BLOCK, count)
    blocks = -(-count // size)
    first, second = zip(*((a, b) for a in range(blocks) for b in range(a, blocks)), strict=True)
    first, second = tf.constant(first), tf.constant(second)
    pairs = blocks * (blocks + 1) // 2
    scale, shift = 1.0 / temperature, 1.0 / temperature
    padding = blocks * size - count
    # Padding has a label of its own kind: index `count` and above is masked.
    labels = tf.reshape(tf.pad(labels, [[0, padding]]), [blocks, size])
    tiny = 1e-38

    def load(padded, pair):
        a, b = first[pair], second[pair]
        return a, b, padded[a], padded[b]

    def exponentials(a, b, rows_a, rows_b):
        """exp(s_ij - shift) [size, size], 0 for self and padding; and the positives' mask."""
        similarity = tf.matmul(rows_a, rows_b, transpose_b=True)
        index_a, index_b = a * size + tf.range(size), b * size + tf.range(size)
        valid = index_a[:, None] != index_b[None, :]
        if padding:
            valid &= (index_a < count)[:, None] & (index_b < count)[None, :]
        values = tf.where(valid, tf.exp(similarity * scale - shift), 0.0)
        same = tf.equal(labels[a][:, None], labels[b][None, :]) if with_positives else None
        return values, same

    def add(total, index, value):
        return tf.tensor_scatter_nd_add(total, [[index]], [value])

    @tf.custom_gradient
    def sums(rows):
        padded = tf.reshape(tf.pad(rows, [[0, padding], [0, 0]]), [blocks, size, dim])

        def forward(pair, every, positive):
            a, b, rows_a, rows_b = load(padded, pair)
            values, same = exponentials(a, b, rows_a, rows_b)
            off_diagonal = tf.cast(a != b, tf.float32)
            every = add(every, a, tf.reduce_sum(values, axis=1))
            every = add(every, b, off_diagonal * tf.reduce_sum(values, axis=0))
            if with_positives:
                values = tf.where(same, values, 0.0)
                positive = add(positive, a, tf.reduce_sum(values, axis=1))
                positive = add(positive, b, off_diagonal * tf.reduce_sum(values, axis=0))
            return pair + 1, every, positive

        _, every, positive = tf.while_loop(
            lambda pair, *_: pair < pairs,
            forward,
            (tf.constant(0), tf.zeros([blocks, size]), tf.zeros([blocks, size])),
            parallel_iterations=1,
        )

        def gradient(upstream_every, upstream_positive):
            def spread(upstream):
                upstream = tf.reshape(tf.pad(upstream, [[0, padding]]), [blocks, size])
                return scale * upstream

            weight = spread(upstream_every)
            weight_positive = spread(upstream_positive)

            def backward(pair, total):
                a, b, rows_a, rows_b = load(padded, pair)
                values, same = exponentials(a, b, rows_a, rows_b)
                factor = weight[a][:, None] + weight[b][None, :]
                if with_positives:
                    both = weight_positive[a][:, None] + weight_positive[b][None, :]
                    factor += tf.where(same, both, 0.0)
                values *= factor
                off_diagonal = tf.cast(a != b, tf.float32)
                total = add(total, a, tf.matmul(values, rows_b))
                to_b = tf.matmul(values, rows_a, transpose_a=True)
                return pair + 1, add(total, b, off_diagonal * to_b)

            _, total = tf.while_loop(
                lambda pair, _: pair < pairs,
                backward,
                (tf.constant(0), tf.zeros_like(padded)),
                parallel_iterations=1,
            )
            return tf.reshape(total, [blocks * size, dim])[:count]

        flat = tf.reshape(every, [-1])[:count], tf.reshape(positive, [-1])[:count]
        return flat, gradient

    every, positive = sums(rows)
    log_every = shift + tf.math.log(tf.maximum(every, tiny))
    return log_every, shift + tf.math.log(tf.maximum(positive, tiny)) if with_positives else None
