"""Devices: the strategy to train under."""

import contextlib
import functools
import os
import signal
import sys
import threading

import tensorflow as tf

from supcon_tf.core.errors import UserError
from supcon_tf.core.files import parse_json

STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")


def make_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """The strategy to build and train a model under.

    Args:
        name: "auto" is `multi_worker` if TF_CONFIG is set, `mirrored` if there is more than one
            GPU, and otherwise TensorFlow's default strategy. "one_device" is the default
            strategy; "mirrored" is `MirroredStrategy` over all logical GPUs, or all logical CPUs
            if there is no GPU; "multi_worker" is `MultiWorkerMirroredStrategy` over the workers
            of TF_CONFIG, to be called before any other use of TensorFlow; "tpu" is `TPUStrategy`
            over the TPU of this machine or of the environment.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        UserError: if `name` is none of these, TF_CONFIG describes no cluster, or there is no TPU.
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


# One strategy per process: a second one over the same devices numbers its collectives from the
# start again, and TensorFlow then mistakes a reduction for the gather that had its number before.
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
    """Lets SIGTERM and Ctrl-C end the process at once: no handler runs while TensorFlow waits."""
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


def check_cluster(text: str) -> dict[str, list[str]]:
    """The hosts of a TF_CONFIG by kind: workers, with or without a chief.

    Raises:
        UserError: if it does not describe a cluster.
    """
    advice = (
        'Set it on every worker to {"cluster": {"worker": ["host:port", ...]}, "task": {"type": '
        '"worker", "index": 0}}.'
    )
    try:
        config = parse_json(text)
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
    return cluster
