"""Gradients of a batch whose activations do not fit, a micro-batch at a time and exact.

Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"
(gradient caching): the loss compares all embeddings, but given its gradient with respect to each
embedding, the encoder's gradient is a sum over micro-batches.
"""

import tensorflow as tf


def micro_batch_gradients(model, inputs, labels, replicas):
    """As one backward pass over the whole batch, in the memory of a micro-batch.

    All micro-batches are encoded first; then come the loss of the whole batch and its gradient with
    respect to the outputs; then every micro-batch is encoded again, with the same randomness, and
    that gradient is carried on to the variables. Batch norm's moving statistics are updated once.

    Args:
        model: a `ContrastiveModel` with a `micro_batch_size` that divides the batch.
        inputs: this replica's images, a structure of tensors [b, ...].
        labels: int [b].
        replicas: replicas in the strategy.

    Returns:
        The terms of the loss, and the gradients of `model.trainable_variables`, scaled as
        `model.optimizer.scale_loss` does.

    Raises:
        ValueError: if the batch is not a multiple of the micro-batch.
    """
    size, batch = model.micro_batch_size, labels.shape[0]
    if batch is None or batch % size:
        raise ValueError(
            f"micro_batch_size must divide the replica's batch of {batch}. Received: {size}."
        )
    count = batch // size
    parts = tf.nest.map_structure(
        lambda tensor: tf.reshape(tensor, [count, size, *tensor.shape[1:]]), inputs
    )

    def part(index, tensors=parts):
        return tf.nest.map_structure(lambda tensor: tensor[index], tensors)

    state = _state(model)
    before = [tf.identity(variable) for variable in state]
    repeat = _loop if replicas == 1 else _unrolled
    outputs = _encode_all(model, part, count, repeat)
    for variable, value in zip(state, before, strict=True):
        variable.assign(value)

    watched = tf.nest.flatten(outputs)
    with tf.GradientTape() as tape:
        tape.watch(watched)
        terms = model.compute_losses(labels, outputs)
        scaled = model.optimizer.scale_loss(sum(terms.values()))
    wanted = tape.gradient(scaled, watched, unconnected_gradients="zero")
    wanted = [tf.reshape(one, [count, -1, *one.shape[1:]]) for one in wanted]
    regularization, gradients = _carry_back(model, part, wanted, count, replicas, repeat)
    if model.losses:
        terms["regularization"] = regularization
    return terms, gradients


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
    """As `_loop`; replicas cannot talk to each other, as batch norm does, inside a loop."""
    for index in range(start, stop):
        # One after the other, so that the memory of one serves the next.
        done = [tensor for tensor in tf.nest.flatten(state) if isinstance(tensor, tf.Tensor)]
        with tf.control_dependencies(done):
            state = step(tf.constant(index), *state)
    return state


def _state(model):
    """What encoding changes: batch norm's moving statistics, the seeds of dropout."""
    averages = [
        variable for _, average in model.averaged_networks() for variable in average.weights
    ]
    queue = getattr(model, "queue", None)
    spared = {id(variable) for variable in (*averages, *(queue.variables if queue else ()))}
    return [
        variable
        for layer in model.layers
        for variable in layer.non_trainable_variables
        if id(variable) not in spared
    ]


def _encode_all(model, part, count, repeat):
    """The outputs of all micro-batches, joined."""
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


def _carry_back(model, part, wanted, count, replicas, repeat):
    """The regularization's value and all gradients, summed over the micro-batches."""
    variables = model.trainable_variables

    def step(index, regularization, totals):
        with tf.GradientTape() as tape:
            outputs = tf.nest.flatten(model.forward(part(index)))
            # Each micro-batch carries its share of what layers add to the loss.
            extra = tf.cast(sum(model.losses) / (replicas * count), tf.float32)
            scaled = model.optimizer.scale_loss(extra)
        gradients = tape.gradient(
            [*outputs, scaled],
            variables,
            [*part(index, wanted), tf.ones_like(scaled)],
            unconnected_gradients="zero",
        )
        totals = [total + gradient for total, gradient in zip(totals, gradients, strict=True)]
        return regularization + extra, totals

    start = [tf.zeros(variable.shape, variable.dtype) for variable in variables]
    regularization, totals = repeat(step, 0, count, (tf.constant(0.0), start))
    return regularization, totals
