"""Exact gradients of a batch whose activations do not fit in memory, by micro-batches.

Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"
(gradient caching): the loss compares all embeddings, but given its gradient with respect to each
embedding, the encoder's gradient is a sum over micro-batches.
"""

import contextlib
import re

import tensorflow as tf

from supcon_tf.engine.local_terms import grouped_losses, local_variables, summed_gradients
from supcon_tf.engine.workers import gather_batch, num_replicas
from supcon_tf.networks.pseudo_labels import ClassQueue, PseudoLabeler
from supcon_tf.networks.queue import MemoryQueue

# TensorFlow's operations that keep the state of their random numbers to themselves, or in variables
# of its own generators.
_DRAWS = re.compile(
    "Random|Rng|Multinomial|TruncatedNormal|NonDeterministicInts"
    "|Stateful(Uniform|StandardNormal|TruncatedNormal|Random)"
)


def micro_batch_gradients(model, batch):
    """Gives the result of one backward pass over the whole batch in a micro-batch's memory.

    All micro-batches are encoded first; then come the loss of the whole batch and its gradient with
    respect to the outputs; then every micro-batch is encoded again, with the same randomness, and
    that gradient is propagated to the variables. Batch norm's moving statistics are updated once.

    Args:
        model: a `Method` with a `micro_batch_size`.
        batch: this replica's part: a structure of tensors [n, ...], n of any size. The largest is
            split into micro-batches of that size, the others into equally many.

    Returns:
        The terms of the loss; the gradients of `model.trainable_variables`, scaled as
        `model.optimizer.scale_loss` does; and the outputs of all replicas.

    Raises:
        ValueError: if the batch cannot be split evenly.
    """
    count = micro_batch_count(batch, model.micro_batch_size)
    parts = tf.nest.map_structure(
        lambda tensor: tf.reshape(tensor, [count, tensor.shape[0] // count, *tensor.shape[1:]]),
        batch,
    )

    def part(index):
        return tf.nest.map_structure(lambda tensor: tensor[index], parts)

    # Replicas cannot talk to each other, as synchronized batch norm does, inside a loop.
    repeat = _loop if num_replicas() == 1 else _unrolled
    state = _state(model)
    before = [tf.identity(variable) for variable in state]
    outputs = _encode_all(model, part, count, repeat)
    for variable, value in zip(state, before, strict=True):
        variable.assign(value)

    terms, gathered, wanted, direct = _gradients_of_losses(model, outputs, count)
    regularization, gradients = _carry_back(model, part, wanted, direct, count, repeat)
    if model.losses:
        terms = {**terms, "regularization": regularization}
    return terms, gradients, gathered


def micro_batch_count(batch, size):
    """The number of micro-batches in a batch.

    Args:
        batch: a structure of tensors, or of their specs, of known sizes.
        size: examples of its largest tensor at once.

    Raises:
        ValueError: if a tensor cannot be split into this many equal parts.
    """
    sizes = [tensor.shape[0] for tensor in tf.nest.flatten(batch)]
    largest = None if None in sizes else max(sizes)
    if largest is None or largest % size:
        raise ValueError(
            f"micro_batch_size must divide the replica's batch of {largest}. Received: {size}."
        )
    count = largest // size
    uneven = [one for one in sizes if one % count]
    if uneven:
        raise ValueError(
            f"micro_batch_size={size} makes {count} micro-batches, which must divide every part of "
            f"the batch. Received: a part of {uneven[0]}."
        )
    return count


def check_repeatable(encoder):
    """Raises a ValueError if an encoder, in training, draws numbers that cannot be drawn again.

    Args:
        encoder: a model from images [N, H, W, C] to features [N, F]; one that is not a functional
            or sequential model is checked in its first step only.
    """
    if not getattr(encoder, "inputs", None):
        return
    (images,) = encoder.inputs

    @tf.function(autograph=False)
    def encode(images):
        with _refusing_unrepeatable():
            return encoder(images, training=True)

    encode.get_concrete_function(tf.TensorSpec([2, *images.shape[1:]], images.dtype))


@contextlib.contextmanager
def _refusing_unrepeatable():
    """Raises a ValueError if graph operations made inside draw numbers without a layer's seed.

    Keras's own layers draw from seeds that are variables, which are restored for the second time.
    """
    if tf.executing_eagerly():
        yield
        return
    graph = tf.compat.v1.get_default_graph()
    before = graph.version
    yield
    made = graph.as_graph_def(from_version=before)
    nodes = [
        *made.node,
        *(node for function in made.library.function for node in function.node_def),
    ]
    drawing = sorted({node.op for node in nodes if _DRAWS.match(node.op)})
    if drawing:
        raise ValueError(
            "micro_batch_size encodes every image twice, with the same random numbers, but a layer "
            f"draws different ones each time. Received: {', '.join(drawing)}. Draw with "
            "keras.random and a keras.random.SeedGenerator of the layer."
        )


def _floats(outputs):
    return [tensor for tensor in tf.nest.flatten(outputs) if tensor.dtype.is_floating]


def _gradients_of_losses(model, outputs, count):
    """The terms of the loss, the outputs of all replicas, and the gradients of this replica's.

    The gradients are a list of `(variables, gradients)`: of the loss that trains these variables
    with respect to each output [count, n, ...], None for outputs it does not use. Last come the
    gradients of all variables that `compute_losses` itself uses, such as class prototypes.
    """
    watched = _floats(outputs)
    with tf.GradientTape(persistent=bool(local_variables(model))) as tape:
        tape.watch(watched)
        gathered = tf.nest.map_structure(gather_batch, outputs)
        terms = model.compute_losses(gathered)
        groups = grouped_losses(model, terms)

    def of_parts(gradient):
        return None if gradient is None else tf.reshape(gradient, [count, -1, *gradient.shape[1:]])

    wanted, direct = [], []
    for variables, loss in groups:
        of_outputs, of_variables = tape.gradient(loss, (watched, list(variables)))
        wanted.append((variables, [of_parts(gradient) for gradient in of_outputs]))
        direct.append((variables, of_variables))
    return terms, gathered, wanted, summed_gradients(direct)


def _loop(step, start, stop, state):
    """`state = step(index, *state)` for the indices from `start` to below `stop`."""
    _, *state = tf.while_loop(
        lambda index, *_: index < stop,
        lambda index, *state: (index + 1, *step(index, *state)),
        (tf.constant(start), *state),
        parallel_iterations=1,
    )
    return state


def _unrolled(step, start, stop, state):
    """As `_loop`, without a TensorFlow loop."""
    for index in range(start, stop):
        # One after the other, so that the memory of one serves the next.
        done = [tensor for tensor in tf.nest.flatten(state) if isinstance(tensor, tf.Tensor)]
        with tf.control_dependencies(done):
            state = step(tf.constant(index), *state)
    return state


def _state(model):
    """The variables that encoding changes: batch norm's statistics, the seeds of dropout."""
    averages = {id(v) for _, average in model.averaged_networks() for v in average.weights}
    return [
        variable
        for layer in model.layers
        if not isinstance(layer, MemoryQueue | ClassQueue | PseudoLabeler)
        for variable in layer.non_trainable_variables
        if id(variable) not in averages
    ]


def _encode_all(model, part, count, repeat):
    """The outputs of all micro-batches, joined."""
    with _refusing_unrepeatable():
        first = model.forward(part(0))
    arrays = tf.nest.map_structure(
        lambda tensor: tf.TensorArray(tensor.dtype, count, element_shape=tensor.shape).write(
            0, tensor
        ),
        first,
    )

    def step(index, arrays):
        outputs = model.forward(part(index))
        written = tf.nest.map_structure(lambda array, x: array.write(index, x), arrays, outputs)
        return (written,)

    (arrays,) = repeat(step, 1, count, (arrays,))

    def join(array, tensor):
        return tf.reshape(array.stack(), [count * tensor.shape[0], *tensor.shape[1:]])

    return tf.nest.map_structure(join, arrays, first)


def _carry_back(model, part, wanted, direct, count, repeat):
    """The regularization's value, and all gradients: `direct` and those of the micro-batches."""
    shares = num_replicas() * count
    # The losses of layers train all variables, as the first group's do.
    wanted = [(some, [*upstream, None]) for some, upstream in wanted]
    wanted[0][1][-1] = tf.ones([count])

    def step(index, regularization, totals):
        with tf.GradientTape(persistent=len(wanted) > 1) as tape:
            outputs = _floats(model.forward(part(index)))
            # Each micro-batch carries its share of what layers add to the loss.
            extra = tf.cast(sum(model.losses) / shares, tf.float32)
            outputs.append(model.optimizer.scale_loss(extra))

        def of_group(some, upstream):
            reached = [place for place, one in enumerate(upstream) if one is not None]
            targets = [outputs[place] for place in reached]
            given = [upstream[place][index] for place in reached]
            return tape.gradient(targets, some, given)

        gradients = summed_gradients([(some, of_group(some, one)) for some, one in wanted])
        totals = [total + gradient for total, gradient in zip(totals, gradients, strict=True)]
        return regularization + extra, totals

    regularization, totals = repeat(step, 0, count, (tf.constant(0.0), direct))
    return regularization, totals
