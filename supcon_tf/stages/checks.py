"""Checks of the settings, data and devices of pretraining before it starts."""

import bisect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from supcon_tf.config import PretrainConfig
from supcon_tf.core.errors import UserError
from supcon_tf.data.own_augmentation import augmentation_of
from supcon_tf.data.splits import ImageDataset
from supcon_tf.engine.micro_batches import micro_batch_count
from supcon_tf.methods import METHODS
from supcon_tf.networks.encoders import check_encoder
from supcon_tf.networks.initial import initial_weights
from supcon_tf.networks.stages import num_stages
from supcon_tf.stages.building import (
    method_of,
    optimizer_of,
    steps_per_epoch_of,
    stream_of,
)
from supcon_tf.stages.label_scores import headline


def settings_checks(config: PretrainConfig) -> list[Callable[[], None]]:
    """Checks that need no data; each raises `UserError`."""
    return [
        lambda: check_encoder(config.encoder, config.width_multiplier, config.encoder_weights),
        lambda: _check_initial_run(config),
        lambda: augmentation_of(config),
        lambda: _small_method(config, num_classes=2),
        lambda: _check_own_batches(config),
        lambda: _check_validation(config, config.may_have_validation()),
        lambda: _check_best_metric(config),
        lambda: _check_schedule(config),
        lambda: optimizer_of(config, steps=10**6),
    ]


def data_checks(
    config: PretrainConfig, dataset: ImageDataset, replicas: int
) -> list[Callable[[], Any]]:
    """Checks against the data and the devices; each raises `UserError`.

    One of them returns the specs of a batch; the others return None.
    """
    return [
        lambda: _check_validation(config, dataset.validation is not None),
        lambda: checked_batch(config, dataset, replicas),
        lambda: _check_compile(config, replicas),
    ]


def _check_initial_run(config: PretrainConfig) -> None:
    if config.initial_run and not (Path(config.initial_run) / "encoder.keras").is_file():
        raise UserError(
            f"initial_run has no trained encoder. Received: {config.initial_run}. Give the "
            "directory of a finished run; one that is not finished continues with --resume."
        )


def _small_method(config, num_classes, multi_label=False):
    """The method with the smallest possible encoder, for images of any size."""
    with initial_weights(config.seed):  # Leaves Python's random numbers as they are.
        images = x = keras.Input((None, None, 3))
        # The stages of our own networks, which a method may ask for.
        for number in range(1, num_stages(config.encoder) + 1):
            x = keras.layers.ReLU(name=f"stage{number}_block1_relu")(x)
        encoder = keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))
        return method_of(config, encoder, num_classes, 1, multi_label=multi_label)


def checked_batch(config: PretrainConfig, dataset: ImageDataset, replicas: int):
    """The specs of a global batch that the method takes and the replicas can share.

    Raises:
        UserError: if there is no such batch.
    """
    model = _small_method(config, len(dataset.class_names), dataset.multi_label)
    _check_several_classes(config, dataset)
    try:
        _check_steps(config, dataset)
        if config.batch_size % replicas:
            raise UserError(
                f"batch_size must be a multiple of the {replicas} replicas. Received: "
                f"{config.batch_size}."
            )
        batch = stream_of(config, dataset)().element_spec
        _check_shares(batch, replicas)
        if config.micro_batch_size is not None:
            micro_batch_count(_share_of(batch, replicas), config.micro_batch_size)
        _trace(model, batch)
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise UserError(f"method {config.method}: {error}") from error
    return batch


def _check_several_classes(config, dataset):
    """Refuses settings for one class per image if images have several, and vice versa."""
    other = f"knn_{headline(not dataset.multi_label)}"
    if config.best_metric == other:
        kind = "several classes" if dataset.multi_label else "one class"
        raise UserError(
            f"best_metric must be knn_{headline(dataset.multi_label)} or loss if images have "
            f"{kind} each. Received: best_metric={other!r}."
        )
    if not dataset.multi_label:
        return
    received = f"dataset={dataset.name}, whose images have several classes"
    if not METHODS[config.method].takes_several_classes(config):
        plain = config.replace(method_args={}, temperature=None)
        fit = [
            name
            for name, spec in METHODS.items()
            if spec.takes_several_classes(plain.replace(method=name))
        ]
        raise UserError(
            f"method {config.method} needs one class per image. Received: {received}. Use one of "
            f"{', '.join(fit)}."
        )
    if config.classes_per_batch is not None:
        raise UserError(
            f"classes_per_batch is for one class per image. Received: {received}. Leave it out."
        )


def _check_steps(config, dataset):
    """Refuses a batch that an epoch cannot fill, and names the largest that it can."""
    plain = config.replace(classes_per_batch=None, images_per_class=None)  # Same epoch length.

    def fills(size):
        return steps_per_epoch_of(plain.replace(batch_size=size), dataset) > 0

    if fills(config.batch_size):
        return
    most = bisect.bisect_left(range(2, config.batch_size), True, key=lambda size: not fills(size))
    all_images = most + 1 == dataset.train.num_examples
    why = (
        "the number of training images" if all_images else "so that an epoch has at least one step"
    )
    raise ValueError(
        f"batch_size must be at most {most + 1}, {why}. Received: {config.batch_size}. Lower it."
    )


def _check_shares(batch, replicas):
    for part in tf.nest.flatten(batch):
        if part.shape[0] % replicas:
            raise ValueError(
                f"{replicas} replicas cannot share a part of the batch evenly. Received: "
                f"{part.shape[0]} examples in it. Pass another --batch_size."
            )


def _share_of(batch, replicas):
    return tf.nest.map_structure(
        lambda part: tf.TensorSpec([part.shape[0] // replicas, *part.shape[1:]], part.dtype), batch
    )


def _trace(model, batch):
    """Traces, without running it, all that a step does apart from the gradients."""

    def step(batch):
        outputs = model.forward(batch)
        losses = model.compute_losses(outputs)
        model.measure(outputs)
        model.after_step(outputs)
        return losses

    weights = len(model.weights)
    losses = tf.function(step, autograph=False).get_concrete_function(batch).structured_outputs
    if set(losses) != set(model.loss_names):
        raise ValueError(
            f"compute_losses must return {', '.join(model.loss_names)}. Received: "
            f"{', '.join(losses)}."
        )
    for name, loss in losses.items():
        if loss.shape.rank != 0:
            raise ValueError(f"loss {name} must be a scalar. Received: shape {loss.shape}.")
    if len(model.weights) != weights:
        raise ValueError("a layer has no weights before the first step; build it.")


def _check_schedule(config: PretrainConfig) -> None:
    points = config.decay_points()
    wanted = {"step": len(points) >= 1, "exponential": len(points) == 1}
    if not wanted.get(config.schedule, not points):
        needs = {"step": "one or more decay_epochs", "exponential": "exactly one decay_epochs"}
        raise UserError(
            f"schedule {config.schedule} takes {needs.get(config.schedule, 'no decay_epochs')}. "
            f"Received: decay_epochs={config.decay_epochs!r}."
        )
    if any(b <= a for a, b in zip((0.0, *points), points, strict=False)):
        raise UserError(
            f"decay_epochs must be above 0 and increasing. Received: {config.decay_epochs!r}."
        )
    warmup = config.warmup_length()
    if config.schedule == "step" and points[0] <= warmup:
        raise UserError(
            f"decay_epochs must be above the {warmup:g} epochs of warm-up. Received: "
            f"{config.decay_epochs!r}."
        )
    if config.schedule == "step" and points[-1] >= config.epochs:
        raise UserError(
            f"decay_epochs must be below epochs ({config.epochs}). Received: "
            f"{config.decay_epochs!r}."
        )


def _check_own_batches(config: PretrainConfig) -> None:
    spec = METHODS.get(config.method)
    if config.classes_per_batch is not None and spec and spec.own_batches:
        raise UserError(
            f"method {config.method} composes its own batches. Received: classes_per_batch="
            f"{config.classes_per_batch}. Leave it out."
        )
    if config.small_views and spec and spec.own_batches:
        raise UserError(
            f"method {config.method} composes its own batches. Received: small_views="
            f"{config.small_views}. Leave it out."
        )


def _check_validation(config: PretrainConfig, is_there: bool) -> None:
    if config.validation_epochs > 1 and not is_there:
        raise UserError(
            "validation_epochs needs a validation set. Received: validation_epochs="
            f"{config.validation_epochs} and validation_fraction=0. Pass --validation_fraction=0.1."
        )
    if config.best_metric.startswith("knn_") and not is_there:
        raise UserError(
            f"best_metric {config.best_metric} needs a validation set. Received: "
            "validation_fraction=0. Pass --validation_fraction=0.1."
        )


def _check_best_metric(config: PretrainConfig) -> None:
    comparable = config.method not in METHODS or METHODS[config.method].comparable_loss
    if config.best_metric == "loss" and (config.queue_size or not comparable):
        raise UserError(
            "best_metric loss favours the first epochs, while a queue fills or terms of the loss "
            f"are not active yet. Received: best_metric='loss' with method {config.method} and "
            f"queue_size={config.queue_size}. Use knn_top1."
        )


def _check_compile(config: PretrainConfig, replicas: int) -> None:
    if config.compile == "on" and replicas > 1:
        raise UserError(
            f"compile=on is for one replica; XLA does not compile across {replicas}. Received: "
            "compile='on'. Leave it out."
        )
    if config.compile == "off" and config.strategy == "tpu":
        raise UserError("a TPU runs compiled steps only. Received: compile='off'. Leave it out.")
