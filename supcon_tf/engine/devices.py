"""Devices: which strategy to train under, and the global batch inside a replica."""

import contextlib
import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable

import tensorflow as tf

from supcon_tf.core.errors import UserError

STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")


def make_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """The strategy to build and train a model under.

    Args:
        name: "auto" is `multi_worker` where TF_CONFIG is set, `mirrored` where there is more than
            one GPU, and otherwise TensorFlow's default strategy. "one_device" is the default
            strategy; "mirrored" is `MirroredStrategy` over all logical GPUs, or all logical CPUs
            where there is no GPU; "multi_worker" is `MultiWorkerMirroredStrategy` over the workers
            of TF_CONFIG, to be called before anything else of TensorFlow; "tpu" is `TPUStrategy`
            over the TPU of this machine or of the environment.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        UserError: if `name` is none of these, TF_CONFIG is no cluster, or there is no TPU.
    """
    if name not in STRATEGIES:
        raise UserError(f"strategy must be one of {', '.join(STRATEGIES)}. Received: {name!r}.")
    if name == "multi_worker" or (name == "auto" and os.environ.get("TF_CONFIG")):
        check_cluster(os.environ.get("TF_CONFIG", ""))
        return _multi_worker()
    if name == "tpu":
        return _tpu()
    gpus = tf.config.list_logical_devices("GPU")
    if name == "one_device" or (name == "auto" and len(gpus) < 2):
        return tf.distribute.get_strategy()
    devices = gpus or tf.config.list_logical_devices("CPU")
    return _mirrored(tuple(device.name for device in devices))


# One strategy a process: a second one over the same devices numbers its collectives from the start
# again, and TensorFlow then takes a reduction for the gather that had its number before.
@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(devices)


@functools.cache
def _multi_worker() -> tf.distribute.Strategy:
    print("joining the workers of TF_CONFIG; this waits until all of them run", file=sys.stderr)
    try:
        with _deadly_signals():
            return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the workers of TF_CONFIG could not be joined: {reason} Start all of them, with the "
            "same cluster and an index each."
        ) from error


@contextlib.contextmanager
def _deadly_signals():
    """SIGTERM and Ctrl-C end the process at once: TensorFlow waits where no handler runs."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@functools.cache
def _tpu() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
        return tf.distribute.TPUStrategy(resolver)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"strategy=tpu found no TPU: {reason} Choose another strategy.") from error


def check_cluster(text: str) -> None:
    """Raises `UserError` unless it is a TF_CONFIG of workers, with or without a chief."""
    advice = (
        'Set it on every worker to {"cluster": {"worker": ["host:port", ...]}, "task": {"type": '
        '"worker", "index": 0}}.'
    )
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        sound = set(cluster) <= {"worker", "chief"} and isinstance(task["index"], int)
        sound = sound and all(isinstance(tasks, list) for tasks in cluster.values())
        hosts = [host for tasks in cluster.values() for host in tasks]
        sound = sound and all(0 < int(host.rpartition(":")[2]) < 2**16 for host in hosts)
        sound = sound and 0 <= task["index"] < len(cluster[task["type"]])
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise UserError(f"TF_CONFIG must describe the cluster. Received: {text!r}. {advice}")


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
    if num_workers(strategy) == 1:
        return value
    own = tf.constant(value if is_chief(strategy) else 0, tf.int64)

    @tf.function
    def add_up():
        def one_replica():
            context = tf.distribute.get_replica_context()
            first = tf.cast(context.replica_id_in_sync_group == 0, tf.int64)
            return context.all_reduce(tf.distribute.ReduceOp.SUM, own * first)

        return strategy.run(one_replica)

    return int(strategy.experimental_local_results(add_up())[0])


def distribute_stream(
    strategy: tf.distribute.Strategy, make_stream: Callable[[int, int], tf.data.Dataset]
):
    """The batches of this worker, split over its replicas.

    Args:
        strategy: the strategy.
        make_stream: from this worker's index and the number of workers to its share of every
            global batch, in order.

    Returns:
        What a training function iterates over.
    """
    if num_workers(strategy) == 1:
        stream = make_stream(0, 1)
        if strategy.num_replicas_in_sync == 1:
            return stream
        return strategy.experimental_distribute_dataset(stream)

    def of_worker(context):
        stream = make_stream(context.input_pipeline_id, context.num_input_pipelines)
        local = strategy.num_replicas_in_sync // context.num_input_pipelines
        size = stream.element_spec[0].shape[0] // local
        stream = stream if local == 1 else stream.rebatch(size, drop_remainder=True)
        # TensorFlow forgets the batch's size where a worker's stream may end; the caller counts.
        return stream.repeat()

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
    gathered = tf.distribute.get_replica_context().all_gather(tf.identity(tensor), axis=0)
    batch = tensor.shape[0]
    # all_gather forgets the static batch size.
    gathered.set_shape([batch and batch * replicas, *tensor.shape[1:]])
    return gathered
