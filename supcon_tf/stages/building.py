"""From a configuration to what is trained: networks, schedule, optimizer, compiled model."""

import tensorflow as tf

from supcon_tf.config import PretrainConfig
from supcon_tf.core.errors import UserError
from supcon_tf.data.datasets import ImageDataset
from supcon_tf.engine.loop import initial_weights
from supcon_tf.engine.loss_scaling import SharedLossScale
from supcon_tf.engine.model import ContrastiveModel
from supcon_tf.engine.optimizers import make_optimizer
from supcon_tf.engine.schedules import make_schedule, scaled_rate
from supcon_tf.methods import build_model
from supcon_tf.networks.copies import training_copy
from supcon_tf.networks.encoders import build_encoder
from supcon_tf.networks.heads import ProjectionHead

HEAD_DIM = 128


def schedule_of(config: PretrainConfig, steps: int):
    """The learning-rate schedule, of the update's number.

    Args:
        config: the settings.
        steps: steps an epoch.

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
    """The optimizer; `steps` an epoch.

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


def build_networks(config: PretrainConfig, dataset: ImageDataset, precision: str = "float32"):
    """The encoder of a configuration as it is trained, and a maker of its projection head.

    Args:
        config: the settings.
        dataset: the data, for the size of its images.
        precision: as `training_copy`.

    Returns:
        A model from float32 [B, S, S, 3] in [0, 1] to features float32 [B, F], and a function
        without arguments that makes a `ProjectionHead`.

    Raises:
        UserError: if the encoder cannot be built for that size.
    """
    hidden = HEAD_DIM if config.projection_hidden_dim is None else config.projection_hidden_dim
    dims = (hidden,) if hidden else ()
    encoder = build_encoder(
        config.encoder, dataset.image_size_px, config.width_multiplier, config.encoder_weights
    )

    def head():
        return ProjectionHead(config.embedding_dim or HEAD_DIM, dims, dtype=precision)

    return training_copy(encoder, precision), head


def is_compiled(config: PretrainConfig, replicas: int) -> bool:
    """Whether XLA compiles the step: on one replica, and not on a CPU unless it is asked for.

    On a CPU, TensorFlow's own kernels are about 1.7 times as fast as XLA's; see the README.
    """
    accelerator = any(tf.config.list_logical_devices(kind) for kind in ("GPU", "TPU"))
    wanted = config.compile == "on" or (config.compile == "auto" and accelerator)
    return wanted and replicas == 1


def compiled_model(
    config: PretrainConfig, dataset: ImageDataset, steps: int, replicas: int
) -> ContrastiveModel:
    """The model that a configuration trains; to be called in the strategy's scope.

    Args:
        config: the settings.
        dataset: the data, for the size of its images and its number of classes.
        steps: steps an epoch.
        replicas: replicas in the strategy.
    """
    with initial_weights(config.seed):
        encoder, head = build_networks(config, dataset, config.precision)
        model = build_model(
            config.method,
            encoder,
            head,
            len(dataset.class_names),
            config.temperature,
            config.method_args,
            queue_size=config.queue_size,
            micro_batch_size=config.micro_batch_size,
            ema_momentum=config.ema_momentum,
        )
    optimizer = optimizer_of(config, steps)
    if config.precision == "mixed_float16":
        optimizer = SharedLossScale(optimizer)
    model.compile(optimizer=optimizer, jit_compile=is_compiled(config, replicas))
    return model
