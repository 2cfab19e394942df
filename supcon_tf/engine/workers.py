"""Replicas and workers: the global batch, who writes, and what all of them agree on."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from supcon_tf.core.errors import UserError

_MESSAGE_BYTES = 2000


def num_replicas() -> int:
    """Replicas in the current strategy; 1 outside any."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def num_workers(strategy: tf.distribute.Strategy) -> int:
    """Processes that train together."""
    resolver = getattr(strategy, "cluster_resolver", None)
    spec = getattr(resolver, "cluster_spec", lambda: None)()
    if not spec or not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    return sum(spec.num_tasks(job) for job in spec.jobs if job in ("worker", "chief"))


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes: the only one, or the first worker."""
    if num_workers(strategy) == 1:
        return True
    resolver = strategy.cluster_resolver
    has_chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" if has_chief else resolver.task_id == 0


def agreed(strategy: tf.distribute.Strategy, value: int) -> int:
    """The chief's value, on every worker; all of them have to ask.

    Args:
        strategy: the strategy.
        value: this worker's value; only the chief's counts.
    """
    return value if num_workers(strategy) == 1 else _agreed_numbers(strategy, [value])[0]


def _agreed_numbers(strategy, values):
    own = tf.constant(values if is_chief(strategy) else [0] * len(values), tf.int64)

    @tf.function
    def add_up():
        def one_replica():
            context = tf.distribute.get_replica_context()
            first = tf.cast(context.replica_id_in_sync_group == 0, tf.int64)
            return context.all_reduce(tf.distribute.ReduceOp.SUM, own * first)

        return strategy.run(one_replica)

    return strategy.experimental_local_results(add_up())[0].numpy().tolist()


def chief_first(strategy: tf.distribute.Strategy, action: Callable[[], Any]) -> Any:
    """Does something on the chief alone, while the other workers wait for its end.

    Args:
        strategy: the strategy.
        action: called on the chief.

    Returns:
        What `action` returns; None on the other workers.

    Raises:
        UserError: on every worker, if `action` raises it.
    """
    message, result = "", None
    if is_chief(strategy):
        try:
            result = action()
        except UserError as error:
            message = str(error)
            _agreed_text(strategy, message)
            raise
    message = _agreed_text(strategy, message)
    if message:
        raise UserError(message)
    return result


def _agreed_text(strategy, text):
    """The chief's text, cut to 2,000 bytes, on every worker."""
    if num_workers(strategy) == 1:
        return text
    content = text.encode(errors="replace")[:_MESSAGE_BYTES]
    return (
        bytes(_agreed_numbers(strategy, [*content.ljust(_MESSAGE_BYTES, b"\0")]))
        .rstrip(b"\0")
        .decode(errors="replace")
    )


def distribute_stream(
    strategy: tf.distribute.Strategy, make_stream: Callable[[int, int], tf.data.Dataset]
):
    """The batches of this worker, split over its replicas.

    Args:
        strategy: the strategy.
        make_stream: from this worker's index and the number of workers to its share of every
            global batch, in order. Every tensor of a batch is split evenly, whatever its size.

    Returns:
        What a training function iterates over.
    """
    if strategy.num_replicas_in_sync == 1:
        return make_stream(0, 1)

    def of_worker(context):
        workers = context.num_input_pipelines
        stream = make_stream(context.input_pipeline_id, workers)
        local = strategy.num_replicas_in_sync // workers

        def split(*batch):
            return tf.nest.map_structure(
                lambda tensor: tf.reshape(
                    tensor, [local, tensor.shape[0] // local, *tensor.shape[1:]]
                ),
                batch if len(batch) > 1 else batch[0],
            )

        # TensorFlow forgets the batch's size where a stream may end; the caller counts.
        return stream.map(split).unbatch().repeat()

    return strategy.distribute_datasets_from_function(of_worker)


def gather_batch(tensor: tf.Tensor) -> tf.Tensor:
    """Concatenates a per-replica batch over all replicas, differentiably.

    The gradient of each replica's rows is the sum of what every replica's loss sends back. A loss
    on the gathered batch therefore has to be divided by the number of replicas, as Keras losses
    do when they reduce a vector.

    Args:
        tensor: [b, ...], of the same static shape on every replica.

    Returns:
        [b * replicas, ...], alike on every replica. The input itself outside a strategy of several
        replicas.
    """
    replicas = num_replicas()
    if replicas == 1:
        return tensor
    # The copy has a device, which what comes from outside the replica's function lacks; several
    # workers cannot gather without.
    context, own = tf.distribute.get_replica_context(), tf.identity(tensor)
    # Of integers, only the signed ones of 32 and 64 bits can be gathered.
    own = tf.cast(own, tf.int64) if own.dtype.is_integer else own
    gathered = tf.cast(context.all_gather(own, axis=0), tensor.dtype)
    batch = tensor.shape[0]
    # all_gather forgets the static batch size.
    gathered.set_shape([batch and batch * replicas, *tensor.shape[1:]])
    return gathered
