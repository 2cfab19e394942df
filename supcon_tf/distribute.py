"""Devices: which strategy to train under, and the global batch inside a replica."""

import functools

import tensorflow as tf

from supcon_tf.errors import UserError


def make_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """The strategy to build and train a model under.

    Args:
        name: "auto" is `MirroredStrategy` where there is more than one GPU and otherwise
            TensorFlow's default strategy; "one_device" is the default strategy; "mirrored" is
            `MirroredStrategy` over all logical GPUs, or all logical CPUs where there is no GPU.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        UserError: if `name` is none of these.
    """
    gpus = tf.config.list_logical_devices("GPU")
    if name == "one_device" or (name == "auto" and len(gpus) < 2):
        return tf.distribute.get_strategy()
    if name in ("auto", "mirrored"):
        devices = gpus or tf.config.list_logical_devices("CPU")
        return _mirrored(tuple(device.name for device in devices))
    raise UserError(f"strategy must be auto, one_device or mirrored. Received: {name!r}.")


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    # One a process: a second strategy over the same devices numbers its collectives from the start
    # again, and TensorFlow then takes a reduction for the gather that had its number before.
    return tf.distribute.MirroredStrategy(devices)


def num_replicas() -> int:
    """Replicas in the current strategy; 1 outside any."""
    return tf.distribute.get_strategy().num_replicas_in_sync


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
    gathered = tf.distribute.get_replica_context().all_gather(tensor, axis=0)
    batch = tensor.shape[0]
    # all_gather forgets the static batch size.
    gathered.set_shape([batch and batch * replicas, *tensor.shape[1:]])
    return gathered
