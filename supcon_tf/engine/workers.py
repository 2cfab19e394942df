"""Replicas and workers: the global batch, who writes, and what all of them agree on."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from supcon_tf.core.errors import UserError

# Characters shown of a value in a message.
_SHOWN = 200


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


def _index(strategy) -> int:
    """This worker's place among all; the chief's is 0."""
    resolver = strategy.cluster_resolver
    after_chief = "chief" in resolver.cluster_spec().jobs and resolver.task_type == "worker"
    return resolver.task_id + after_chief


def agreed(strategy: tf.distribute.Strategy, value: int) -> int:
    """The chief's value, on every worker; all of them must call this.

    Args:
        strategy: the strategy.
        value: this worker's value; only the chief's counts.
    """
    return value if num_workers(strategy) == 1 else _gathered_numbers(strategy, [value])[0][0]


def _gathered_numbers(strategy, values):
    """Every worker's integers, equally many from each."""
    workers = num_workers(strategy)
    own = np.zeros([workers, len(values)], np.int64)
    own[_index(strategy)] = values
    own, local = tf.constant(own), strategy.num_replicas_in_sync // workers

    @tf.function(autograph=False)
    def add_up():
        def one_replica():
            context = tf.distribute.get_replica_context()
            first = tf.cast(context.replica_id_in_sync_group % local == 0, tf.int64)
            return context.all_reduce(tf.distribute.ReduceOp.SUM, own * first)

        return strategy.run(one_replica)

    return strategy.experimental_local_results(add_up())[0].numpy().tolist()


def _gathered_texts(strategy, text):
    """Every worker's text."""
    content = text.encode(errors="replace")
    # At least one, as TensorFlow crashes when it reduces nothing.
    longest = max(1, *(length for (length,) in _gathered_numbers(strategy, [len(content)])))
    rows = _gathered_numbers(strategy, [*content.ljust(longest, b"\0")])
    return [bytes(row).rstrip(b"\0").decode() for row in rows]


def everywhere(strategy: tf.distribute.Strategy, action: Callable[[], Any]) -> Any:
    """Runs an action on every worker; if it fails on one, all raise the same error.

    Args:
        strategy: the strategy.
        action: called on every worker; it must not wait for the others.

    Returns:
        What `action` returns on this worker.

    Raises:
        UserError: on every worker, if `action` raises it, or an OSError, on one of them.
    """
    if num_workers(strategy) == 1:
        return action()
    result, failure = None, None
    try:
        result = action()
    except (UserError, OSError) as error:
        failure = error
    refusals = _gathered_texts(strategy, "" if failure is None else str(failure) or repr(failure))
    for index, refusal in enumerate(refusals):
        if refusal:
            raise UserError(f"worker {index}: {refusal}" if index else refusal) from failure
    return result


def chief_first(strategy: tf.distribute.Strategy, action: Callable[[], Any]) -> Any:
    """Runs an action on the chief alone, while the other workers wait for it to end.

    Args:
        strategy: the strategy.
        action: called on the chief.

    Returns:
        What `action` returns; None on the other workers.

    Raises:
        UserError: on every worker, if `action` raises it.
    """
    return everywhere(strategy, action if is_chief(strategy) else lambda: None)


def check_alike(strategy: tf.distribute.Strategy, values: Mapping[str, Any]) -> None:
    """Compares what all workers of a run must have in common.

    Args:
        strategy: the strategy.
        values: anything that JSON can hold, by name.

    Raises:
        UserError: on every worker, if a value of one of them differs from the chief's.
    """
    if num_workers(strategy) == 1:
        return
    everyone = [json.loads(text) for text in _gathered_texts(strategy, json.dumps(values))]
    for index, theirs in enumerate(everyone):
        for name in sorted({*everyone[0], *theirs}):
            chiefs, other = everyone[0].get(name), theirs.get(name)
            if chiefs != other:
                raise UserError(
                    f"the workers differ in {name}: {_short(chiefs)} on worker 0, {_short(other)} "
                    f"on worker {index}. Start all of them with the same settings, data and "
                    "versions."
                )


def check_same_weights(strategy: tf.distribute.Strategy, model: keras.Model) -> None:
    """Compares the weights that all workers of a run begin with.

    Weights read from a file are each worker's own: the path may lead to a different file there.

    Args:
        strategy: the strategy.
        model: the model that is trained.

    Raises:
        UserError: on every worker, if those of one of them differ from the chief's.
    """
    if num_workers(strategy) > 1:
        digest = hashlib.sha256(b"".join(weight.tobytes() for weight in model.get_weights()))
        check_alike(strategy, {"weights to begin with (SHA-256)": digest.hexdigest()})


def _short(value):
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


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

        # TensorFlow forgets the batch's size if a stream may end; the caller counts.
        return stream.map(tf.autograph.experimental.do_not_convert(split)).unbatch().repeat()

    return strategy.distribute_datasets_from_function(of_worker)


def gather_batch(tensor: tf.Tensor) -> tf.Tensor:
    """Concatenates a per-replica batch over all replicas, differentiably.

    The gradient of each replica's rows is the sum of the gradients from every replica's loss. A
    loss on the gathered batch therefore has to be divided by the number of replicas, as Keras
    losses do when they reduce a vector.

    Args:
        tensor: [b, ...], of the same static shape on every replica.

    Returns:
        [b * replicas, ...], identical on every replica. The input itself outside a strategy of
        several replicas.
    """
    replicas = num_replicas()
    if replicas == 1:
        return tensor
    # The copy has a device, which tensors from outside the replica's function lack; several workers
    # cannot gather without one.
    context, own = tf.distribute.get_replica_context(), tf.identity(tensor)
    # Besides floats, only signed integers of 32 and 64 bits can be gathered.
    own = own if own.dtype.is_floating else tf.cast(own, tf.int64)
    gathered = tf.cast(context.all_gather(own, axis=0), tensor.dtype)
    batch = tensor.shape[0]
    # all_gather forgets the static batch size.
    gathered.set_shape([batch and batch * replicas, *tensor.shape[1:]])
    return gathered
