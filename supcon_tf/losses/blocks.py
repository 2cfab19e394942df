"""Losses over all pairs of a batch without the matrix of all pairs.

Blocks of the similarity matrix are computed, reduced and discarded in the forward pass, and
computed again in the backward pass, so that memory grows with the number of rows and not with its
square. Works eagerly, in `tf.function` and under XLA.
"""

import dataclasses

import tensorflow as tf

from supcon_tf.losses.products import row_products

# A matrix of all pairs of more rows than this is refused.
FULL_MATRIX_LIMIT_ROWS = 2**14
# The least sum of exponentials whose logarithm is taken; about exp(-87).
_LEAST_SUM = 1e-38


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The parts of the matrix of all pairs that are held at once.

    Attributes:
        matrix: up to this many elements, the matrix is kept whole for the backward pass: faster.
        block: elements of one block of anchors by contrasts.
        square: rows and columns of a square block of the symmetric path.
    """

    matrix: int
    block: int
    square: int


# A CPU's blocks stay in its caches; a GPU's are large enough to fill it: 16 and 256 MiB in float32.
ON_CPU = Sizes(matrix=2**20, block=2**22, square=512)
ON_GPU = Sizes(matrix=2**26, block=2**26, square=8192)


def sizes() -> Sizes:
    """The sizes for this machine's devices."""
    return ON_GPU if tf.config.list_physical_devices("GPU") else ON_CPU


def evaluate_anchors(block_losses, rows, num_anchors, block_size, outputs=1, elements=None):
    """Evaluates a loss of anchors against all rows: whole if that is faster, otherwise in blocks.

    Args:
        block_losses: a function from the indices int32 [R] of some anchors, their rows
            float32 [R, D] and all rows float32 [N, D] to float32 [R], or a tuple of such. It may
            be called again in the backward pass.
        rows: float32 [N, D]; the anchors are the first of them.
        num_anchors: int, or a scalar tensor if the batch is not static.
        block_size: anchors per block; None for automatic.
        outputs: how many values `block_losses` returns.
        elements: elements that one anchor takes, if not N.

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
    if not static or (block_size is None and num_anchors * elements <= sizes().matrix):
        return block_losses(tf.range(num_anchors), rows[:num_anchors], rows)
    size = block_size or max(1, sizes().block // elements)
    return _evaluate_blocks(block_losses, rows, _Blocks(num_anchors, size), outputs)


def _check_full_matrix(num_rows):
    """Refuses, when the graph runs, a matrix of all pairs that would exhaust the machine."""
    tf.debugging.assert_less_equal(
        num_rows,
        FULL_MATRIX_LIMIT_ROWS,
        "a batch of unknown size is computed with the matrix of all pairs, which would take more "
        "than 1 GiB several times over. Give the batch a static size (drop_remainder=True).",
    )


class _Blocks:
    """The anchors in blocks of one size.

    The last block begins early enough to be full: some of its anchors are also in the block before,
    and are counted only there.
    """

    def __init__(self, num_anchors, size):
        self.num_anchors = num_anchors
        self.size = min(size, num_anchors)
        self.number = -(-num_anchors // self.size)

    def indices(self, block):
        """The anchors int32 [R] of a block."""
        return self._start(block) + tf.range(self.size)

    def counted(self, block):
        """1 for the anchors of a block that belong to it, 0 for those of the block before."""
        return tf.cast(self.indices(block) >= block * self.size, tf.float32)

    def join(self, values):
        """One value per anchor [num_anchors] from those of the blocks [number, R]."""
        anchor = tf.range(self.num_anchors)
        block = anchor // self.size
        place = anchor - self._start(block)
        return tf.gather(tf.reshape(values, [-1]), block * self.size + place)

    def _start(self, block):
        return tf.minimum(block * self.size, self.num_anchors - self.size)


def _evaluate_blocks(block_losses, rows, blocks, outputs):
    @tf.custom_gradient
    def evaluate(rows):
        losses = _losses_of_blocks(block_losses, rows, blocks, outputs)
        return losses, lambda *upstream: _gradient_of_blocks(block_losses, rows, blocks, upstream)

    return evaluate(rows)


def _losses_of_blocks(block_losses, rows, blocks, outputs):
    def losses_of(block):
        indices = blocks.indices(block)
        return block_losses(indices, tf.gather(rows, indices), rows)

    spec = tf.TensorSpec([blocks.size], tf.float32)
    stacked = tf.map_fn(
        losses_of,
        tf.range(blocks.number),
        fn_output_signature=spec if outputs == 1 else (spec,) * outputs,
        parallel_iterations=1,
    )
    return tf.nest.map_structure(blocks.join, stacked)


def _gradient_of_blocks(block_losses, rows, blocks, upstream):
    """The gradient with respect to all rows, [N, D], from those of the losses, [anchors] each."""

    def add_block(block, total):
        indices = blocks.indices(block)
        anchors = tf.gather(rows, indices)
        with tf.GradientTape() as tape:
            tape.watch([anchors, rows])
            losses = tf.nest.flatten(block_losses(indices, anchors, rows))
        wanted = [blocks.counted(block) * tf.gather(one, indices) for one in upstream]
        of_anchors, of_rows = tape.gradient(
            losses, [anchors, rows], wanted, unconnected_gradients="zero"
        )
        total = tf.tensor_scatter_nd_add(total + of_rows, indices[:, None], of_anchors)
        return block + 1, total

    _, total = tf.while_loop(
        lambda block, total: block < blocks.number,
        add_block,
        (tf.constant(0), tf.zeros_like(rows)),
        parallel_iterations=1,
    )
    return total


def symmetric_logsumexp(rows, labels, temperature, with_positives):
    """log-sum-exp of every row's similarities with the other rows, from half of the blocks.

    The similarity matrix is symmetric: a block above the diagonal serves its rows and its columns.
    All exponents are shifted by the largest possible similarity, 1 / temperature, so
    exponentials are computed once; they underflow for temperatures below about 0.025.

    Args:
        rows: float32 [N, D], unit norm or zero; N static.
        labels: int [N].
        temperature: float >= 0.025.
        with_positives: whether to return the log-sum-exp over the positives as well.

    Returns:
        float32 [N] over all other rows, and float32 [N] over the other rows of the class (about
        1 / temperature - 87 if there are none), or None.
    """
    matrix = _SymmetricMatrix(rows.shape[0], labels, temperature, with_positives)

    @tf.custom_gradient
    def sums(rows):
        return matrix.sums(rows), lambda *upstream: matrix.gradient(rows, *upstream)

    of_others, of_positives = (
        1.0 / temperature + tf.math.log(tf.maximum(total, _LEAST_SUM)) for total in sums(rows)
    )
    return of_others, of_positives if with_positives else None


class _SymmetricMatrix:
    """exp((z_i . z_j - 1) / temperature) [N, N] without its diagonal, in square blocks.

    Only the blocks (a, b) with a <= b are computed: rows of block a against rows of block b. Rows
    are padded with zeros to whole blocks, and padding takes no part.
    """

    def __init__(self, count, labels, temperature, with_positives):
        self.count = count
        self.size = min(sizes().square, count)
        self.blocks = -(-count // self.size)
        self.scale = 1.0 / temperature
        self.with_positives = with_positives
        self.labels = self._split(labels)
        pairs = [(a, b) for a in range(self.blocks) for b in range(a, self.blocks)]
        self.num_pairs = len(pairs)
        self.first, self.second = (tf.constant(side) for side in zip(*pairs, strict=True))

    def sums(self, rows):
        """Each row's sum over all others, and over its positives: float32 [N] each."""
        split = self._split(rows)

        def add_pair(a, b, of_all, of_positives):
            values, same = self._block(a, b, split[a], split[b])
            of_all = self._add(of_all, a, b, *_sums_of_sides(values))
            if self.with_positives:
                values = tf.where(same, values, 0.0)
                of_positives = self._add(of_positives, a, b, *_sums_of_sides(values))
            return of_all, of_positives

        zeros = tf.zeros([self.blocks, self.size])
        return tuple(self._join(total) for total in self._over_pairs(add_pair, zeros, zeros))

    def gradient(self, rows, of_all, of_positives):
        """The gradient [N, D] with respect to the rows, from those [N] of the two sums."""
        split = self._split(rows)
        of_all, of_positives = (self.scale * self._split(one) for one in (of_all, of_positives))

        def add_pair(a, b, total):
            values, same = self._block(a, b, split[a], split[b])
            # A pair counts in the sum of its row and in that of its column.
            factor = of_all[a][:, None] + of_all[b][None, :]
            if self.with_positives:
                both = of_positives[a][:, None] + of_positives[b][None, :]
                factor += tf.where(same, both, 0.0)
            values *= factor
            by_a = tf.matmul(values, split[b])
            by_b = tf.matmul(values, split[a], transpose_a=True)
            return (self._add(total, a, b, by_a, by_b),)

        (total,) = self._over_pairs(add_pair, tf.zeros_like(split))
        return self._join(total)

    def _block(self, a, b, rows_a, rows_b):
        """The exponentials [size, size] of one block, and whether a pair is of one class."""
        similarity = row_products(rows_a, rows_b)
        index_a, index_b = (side * self.size + tf.range(self.size) for side in (a, b))
        valid = index_a[:, None] != index_b[None, :]
        if self.blocks * self.size > self.count:
            valid &= (index_a < self.count)[:, None] & (index_b < self.count)[None, :]
        values = tf.where(valid, tf.exp(similarity * self.scale - self.scale), 0.0)
        if not self.with_positives:
            return values, None
        return values, tf.equal(self.labels[a][:, None], self.labels[b][None, :])

    def _over_pairs(self, step, *totals):
        """The totals after `step(a, b, *totals)` of every pair of blocks, one after another."""
        _, *totals = tf.while_loop(
            lambda pair, *_: pair < self.num_pairs,
            lambda pair, *totals: (pair + 1, *step(self.first[pair], self.second[pair], *totals)),
            (tf.constant(0), *totals),
            parallel_iterations=1,
        )
        return totals

    def _add(self, total, a, b, of_a, of_b):
        """Adds to blocks a and b of a total; only once if they are the same."""
        off_diagonal = tf.cast(a != b, tf.float32)
        total = tf.tensor_scatter_nd_add(total, [[a]], [of_a])
        return tf.tensor_scatter_nd_add(total, [[b]], [off_diagonal * of_b])

    def _split(self, values):
        """From [N, ...] to [blocks, size, ...]."""
        padding = self.blocks * self.size - self.count
        padded = tf.pad(values, [[0, padding]] + [[0, 0]] * (values.shape.rank - 1))
        return tf.reshape(padded, [self.blocks, self.size, *values.shape[1:]])

    def _join(self, values):
        """From [blocks, size, ...] to [N, ...]."""
        return tf.reshape(values, [self.blocks * self.size, *values.shape[2:]])[: self.count]


def _sums_of_sides(block):
    return tf.reduce_sum(block, axis=1), tf.reduce_sum(block, axis=0)
