"""From a configuration to what is trained: networks, schedule, optimizer, compiled model."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from supcon_tf.config import PretrainConfig
from supcon_tf.core.errors import UserError
from supcon_tf.data.augment import Share
from supcon_tf.data.splits import ImageDataset
from supcon_tf.engine.batches import of_any_size
from supcon_tf.engine.loss_scaling import SharedLossScale
from supcon_tf.engine.method import Method
from supcon_tf.engine.optimizer_factory import make_optimizer
from supcon_tf.engine.schedules import make_schedule, scaled_rate
from supcon_tf.methods import METHODS
from supcon_tf.methods.spec import Parts, given_settings
from supcon_tf.networks.copies import training_copy
from supcon_tf.networks.encoders import build_encoder
from supcon_tf.networks.initial import initial_weights, take_weights


def schedule_of(config: PretrainConfig, steps: int):
    """The learning-rate schedule, a function of the update's number.

    Args:
        config: the settings.
        steps: steps per epoch.

    Raises:
        ValueError: if the settings do not make a schedule.
    """
    rate = config.learning_rate
    if config.scale_learning_rate:
        rate = scaled_rate(rate, config.batch_size)
    warmup = config.warmup_length()
    total = config.epochs * steps
    return make_schedule(
        config.schedule,
        rate,
        total,
        min(round(warmup * steps), total - 1),
        decay_steps=tuple(max(1, round(epochs * steps)) for epochs in config.decay_points()),
        decay_rate=config.decay_rate,
    )


def optimizer_of(config: PretrainConfig, steps: int):
    """The optimizer, for `steps` steps per epoch.

    Raises:
        UserError: if a setting would have no effect on it, or is out of its range.
    """
    try:
        return make_optimizer(
            config.optimizer,
            schedule_of(config, steps),
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
        )
    except ValueError as error:
        raise UserError(f"optimizer {config.optimizer}: {error}") from error


def encoder_of(config: PretrainConfig, image_size_px: int, precision: str = "float32"):
    """The encoder as it is trained.

    Args:
        config: the settings.
        image_size_px: side S of the images.
        precision: as for `training_copy`.

    Returns:
        A model from float32 [B, S, S, 3] in [0, 1] to features float32 [B, F].

    Raises:
        UserError: if the encoder cannot be built for that size, or its weights are not finite.
    """
    encoder = build_encoder(
        config.encoder, image_size_px, config.width_multiplier, config.encoder_weights
    )
    if config.initial_run:
        take_weights(encoder, Path(config.initial_run) / "encoder.keras")
    if not all(np.isfinite(np.sum(weight)) for weight in encoder.get_weights()):
        raise UserError(
            f"weights of the encoder are not finite. Received: {config.encoder!r}, weights "
            f"{config.initial_run or config.encoder_weights!r}. Give another file."
        )
    trained = training_copy(encoder, precision)
    if config.small_views:
        _check_small_views(config, trained, image_size_px)
    return trained


def _check_small_views(config, encoder, image_size_px):
    side = config.small_view_side(image_size_px)
    try:
        of_any_size(encoder)(tf.zeros([1, side, side, 3]), training=False)
    except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
        raise UserError(
            f"small_views needs an encoder that takes images of {side} pixels too. Received: "
            f"{config.encoder!r}. Leave it out, or pass another --encoder."
        ) from error


def method_of(
    config: PretrainConfig,
    encoder: keras.Model,
    num_classes: int,
    steps_per_epoch: int,
    labels: Callable[[], np.ndarray] | None = None,
    multi_label: bool = False,
) -> Method:
    """The method of a configuration around an encoder.

    Args:
        config: the settings.
        encoder: a built encoder.
        num_classes: classes of the data set.
        steps_per_epoch: steps per epoch.
        labels: as `Parts` takes them.
        multi_label: as `Parts` takes it.

    Raises:
        UserError: if the method is unknown, or a setting is wrong or has no effect on it.
    """
    if config.method not in METHODS:
        raise UserError(f"method must be one of {', '.join(METHODS)}. Received: {config.method!r}.")
    spec, given = METHODS[config.method], given_settings(config)
    allowed = spec.defaults()
    for name in given:
        if name not in allowed:
            raise UserError(
                f"method {config.method} has no argument {name!r}; it takes "
                f"{', '.join(allowed) or 'none'}. Received: {name}={given[name]!r}."
            )
    data = labels, multi_label
    parts = Parts(config, encoder, num_classes, steps_per_epoch, config.precision, *data)
    try:
        spec.check_kinds(given)
        method = spec.build_with(parts, given)
    except ValueError as error:
        raise UserError(f"method {config.method}: {error}") from error
    except TypeError as error:  # From a setting whose default, None, tells no kind.
        shown = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise UserError(
            f"method {config.method}: a setting is of the wrong kind. Received: {shown} ({error})."
        ) from error
    parts.check_all_used()
    return method


def stream_of(config: PretrainConfig, dataset: ImageDataset):
    """The method's stream, a function of a step, a worker's index and the number of workers."""

    def stream(first_step: int = 0, index: int = 0, count: int = 1):
        return METHODS[config.method].stream_with(dataset, config, first_step, Share(index, count))

    return stream


def steps_per_epoch_of(config: PretrainConfig, dataset: ImageDataset) -> int:
    """Steps per epoch; 0 if there are fewer images than a batch has."""
    return METHODS[config.method].steps_per_epoch(dataset, config)


def is_compiled(config: PretrainConfig, replicas: int) -> bool:
    """Whether XLA compiles the step: on one replica, and on a CPU only on request.

    On a CPU, TensorFlow's own kernels are about 1.7 times as fast as XLA's; see
    docs/results/training.md.
    """
    accelerator = any(tf.config.list_logical_devices(kind) for kind in ("GPU", "TPU"))
    wanted = config.compile == "on" or (config.compile == "auto" and accelerator)
    return wanted and replicas == 1


def compiled_model(
    config: PretrainConfig, dataset: ImageDataset, steps: int, replicas: int
) -> Method:
    """The model that a configuration trains; to be called in the strategy's scope.

    Args:
        config: the settings.
        dataset: the data, for the size of its images and its number of classes.
        steps: steps per epoch.
        replicas: replicas in the strategy.
    """
    with initial_weights(config.seed):
        encoder = encoder_of(config, dataset.image_size_px, config.precision)
        classes, labels = len(dataset.class_names), dataset.train.labels
        model = method_of(config, encoder, classes, steps, labels, dataset.multi_label)
    optimizer = optimizer_of(config, steps)
    if config.precision == "mixed_float16":
        optimizer = SharedLossScale(optimizer)
    model.compile(optimizer=optimizer, jit_compile=is_compiled(config, replicas))
    return model
