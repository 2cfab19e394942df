"""Positives, memory and activations of a training run, estimated before it begins."""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from supcon_tf.config import PretrainConfig
from supcon_tf.engine.method import Method
from supcon_tf.losses.blocks import sizes
from supcon_tf.networks.queue import MemoryQueue

# About how many arrays of a block's size a loss holds at once.
_ARRAYS_OF_A_BLOCK = 4
# Images whose pairs are looked at.
_PAIRED_IMAGES = 2000


def expected_positives(counts: Sequence[int], batch_size: int, num_views: int) -> np.ndarray:
    """Positives that an anchor can expect, by its class.

    A batch of B images, V views of each, is drawn from N without replacement. Each of the B - 1
    images beside one of class c, which has n_c images, is of that class with the chance
    (n_c - 1) / (N - 1). So an anchor can expect

        E_c = V - 1 + V (B - 1) (n_c - 1) / (N - 1)

    and the mean over all anchors is `np.average(E, weights=counts)`.

    Args:
        counts: int >= 1 [C], images of each class.
        batch_size: B, from 1 to N.
        num_views: V >= 1.

    Returns:
        float64 [C].

    Raises:
        ValueError: if an argument is out of range.
    """
    counts = _checked(counts, batch_size)
    if num_views < 1:
        raise ValueError(f"num_views must be at least 1. Received: {num_views}.")
    chance = (counts - 1) / max(1, counts.sum() - 1)
    return num_views - 1 + num_views * (batch_size - 1) * chance


def share_of_pairs_in_common(labels: np.ndarray) -> float:
    """The share of the pairs of different images that have a class in common, in [0, 1].

    Of more than 2,000 images, 2,000 are used, evenly spread.

    Args:
        labels: bool [N, C].
    """
    count = min(len(labels), _PAIRED_IMAGES)
    shown = labels[np.arange(count) * len(labels) // count].astype(np.float32)
    common = shown @ shown.T > 0
    np.fill_diagonal(common, False)
    return float(common.sum() / max(1, count * (count - 1)))


def chance_alone(counts: Sequence[int], batch_size: int) -> np.ndarray:
    """The chance that the batch of an image holds no other image of its class, by class.

    Hypergeometric, with the letters of `expected_positives`, and computed from logarithms:

        P_c = C(N - n_c, B - 1) / C(N - 1, B - 1)

    The mean over all images is `np.average(P, weights=counts)`. With one view this is the chance of
    an anchor without any positive; with more, every anchor has the other views of its image.

    Args:
        counts: int >= 1 [C], images of each class.
        batch_size: B, from 1 to N.

    Returns:
        float64 [C].

    Raises:
        ValueError: if an argument is out of range.
    """
    counts = _checked(counts, batch_size)
    total, drawn = int(counts.sum()), batch_size - 1

    def log_ways(images):
        """Log of C(images, drawn), without the drawn! that cancels."""
        return math.lgamma(images + 1) - math.lgamma(images - drawn + 1)

    every, others = log_ways(total - 1), [total - int(count) for count in counts]
    logs = [log_ways(images) - every if images >= drawn else -math.inf for images in others]
    return np.exp(np.minimum(logs, 0.0))


def _checked(counts, batch_size):
    counts = np.asarray(counts, np.int64)
    if counts.ndim != 1 or not counts.size or counts.min() < 1:
        raise ValueError(f"counts must be images of each class, at least 1. Received: {counts}.")
    if not 1 <= batch_size <= counts.sum():
        raise ValueError(f"batch_size must be from 1 to {counts.sum()}. Received: {batch_size}.")
    return counts


def activation_bytes(encoder: keras.Model) -> int:
    """Bytes that the outputs of all layers take for one image, each in its own precision.

    That is somewhat more than a training step takes, as TensorFlow forgets what no gradient needs:
    on a CPU 1.1 (ResNet-8, MobileNetV2) to 1.6 times (ResNet-50) as much.

    Args:
        encoder: a functional model, perhaps with models in it.
    """
    outputs = []

    def call(layer, *args, **kwargs):
        if isinstance(layer, keras.Sequential):
            tensor = args[0]
            for inner in layer.layers:
                tensor = call(inner, tensor)
            return tensor
        result = layer(*args, **kwargs)
        if isinstance(layer, keras.Function):
            given = keras.tree.pack_sequence_as(layer.input, keras.tree.flatten(args[0]))
            visit(layer, given)
        else:
            outputs.extend(keras.tree.flatten(result))
        return result

    def visit(model, inputs):
        # "Clones" of the very same layers: every call of a layer is seen, and no weight is made.
        keras.models.clone_model(model, inputs, lambda layer: layer, call)

    visit(encoder, encoder.input)
    known = [tensor for tensor in outputs if None not in tensor.shape[1:]]
    return sum(math.prod(one.shape[1:]) * tf.as_dtype(one.dtype).size for one in known)


def block_bytes(loss: keras.losses.Loss, batch_size: int, num_views: int, queue_size: int) -> int:
    """Bytes, at most, of one array of similarities that a pairwise loss holds; several coexist.

    Args:
        loss: a loss over pairs of embeddings.
        batch_size: images of the global batch.
        num_views: views of each.
        queue_size: rows of the memory queue.
    """
    options, rows = loss.get_config(), batch_size * num_views
    of_anchor = rows + queue_size
    if options.get("mining") == "all" and options["margin"] is None:
        of_anchor *= of_anchor  # Soft triplets: every positive with every negative.
    elements, block = rows * of_anchor, options.get("block_size")
    if block is not None:
        elements = min(block, rows) * of_anchor
    elif elements > sizes().matrix:
        elements = max(of_anchor, min(elements, sizes().block))
    return 4 * elements


def images_at_once(batch, micro_batch_size: int | None, replicas: int) -> int:
    """Views that a replica encodes at once.

    Args:
        batch: specs of a global batch.
        micro_batch_size: as in `Method`.
        replicas: replicas in all.
    """
    views = sum(math.prod(images.shape[:-3]) for images in _images(batch)) // replicas
    if micro_batch_size is None:
        return views
    largest = max(part.shape[0] for part in tf.nest.flatten(batch)) // replicas
    return views * micro_batch_size // largest


def _images(batch):
    """The parts of a batch that are images [..., H, W, C]."""
    return [part for part in tf.nest.flatten(batch) if part.shape.rank >= 4]


def memory_bytes(
    config: PretrainConfig,
    model: Method,
    optimizer: keras.optimizers.Optimizer,
    batch,
    replicas: int,
) -> dict[str, int]:
    """Bytes that a replica takes, by what they are for; weights and the like are float32.

    Args:
        config: the settings.
        model: what is trained; its queues, if it has any, may be of any size.
        optimizer: built for a single variable of shape [1, 1].
        batch: specs of a global batch.
        replicas: replicas in all.
    """
    averages = [weight for _, average in model.averaged_networks() for weight in average.weights]
    queues = [one for one in model._flatten_layers() if isinstance(one, MemoryQueue)]
    loss = getattr(model, "pairwise_loss", None)
    queued = [weight for queue in queues for weight in queue.weights]
    beside = {id(weight) for weight in [*averages, *queued]}
    trained = _float_bytes(model.trainable_weights)
    images = images_at_once(batch, config.micro_batch_size, replicas)
    sizes = (config.batch_size, config.views_per_image(), config.queue_size)
    return {
        "weight_bytes": _float_bytes([w for w in model.weights if id(w) not in beside]),
        # With micro-batches, there are the sums of the gradients and the current ones.
        "gradient_bytes": trained * (2 if config.micro_batch_size else 1),
        "optimizer_bytes": trained * sum(state.shape == (1, 1) for state in optimizer.variables),
        "ema_bytes": _float_bytes(averages),
        "queue_bytes": sum(
            4 * (config.queue_size or one.size) * (one.embedding_dim + 1) for one in queues
        ),
        "activation_bytes": images * activation_bytes(model.encoder),
        "block_bytes": _ARRAYS_OF_A_BLOCK * block_bytes(loss, *sizes) if loss else 0,
        "views_bytes": 4 * sum(math.prod(one.shape) for one in _images(batch)) // replicas,
    }


def _float_bytes(variables):
    return 4 * sum(math.prod(variable.shape) for variable in variables)
