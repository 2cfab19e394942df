"""What a pretraining's settings, data and devices are checked for before the work."""

from collections.abc import Callable

import tensorflow as tf

from supcon_tf.config import PretrainConfig
from supcon_tf.core.errors import UserError
from supcon_tf.data.augment import check_augmentation
from supcon_tf.data.datasets import ImageDataset
from supcon_tf.engine.loop import BEST_METRICS
from supcon_tf.methods import LOSSES, check_method
from supcon_tf.networks.encoders import check_encoder
from supcon_tf.stages.building import HEAD_DIM, optimizer_of


def settings_checks(config: PretrainConfig) -> list[Callable[[], None]]:
    """What can be checked before the data is opened; each raises `UserError`."""
    return [
        lambda: check_encoder(config.encoder, config.width_multiplier, config.encoder_weights),
        lambda: check_augmentation(config.augmentation),
        lambda: check_method(
            config.method, config.temperature, config.method_args, config.queue_size
        ),
        lambda: _check_head(config),
        lambda: _check_validation(config),
        lambda: _check_best_metric(config),
        lambda: _check_queue(config),
        lambda: _check_schedule(config),
        lambda: optimizer_of(config, steps=10**6),
    ]


def data_checks(
    config: PretrainConfig, dataset: ImageDataset, replicas: int
) -> list[Callable[[], None]]:
    """What the data and the devices decide; each raises `UserError`."""
    return [
        lambda: _check_batch(config, dataset, replicas),
        lambda: _check_loss(config, dataset),
        lambda: _check_micro_batch(config, replicas),
        lambda: _check_compile(config, replicas),
    ]


def _check_head(config: PretrainConfig) -> None:
    if config.method in LOSSES:
        return
    for name in ("embedding_dim", "projection_hidden_dim"):
        if getattr(config, name) is not None:
            raise UserError(
                f"{config.method} has no projection head. Received: {name}="
                f"{getattr(config, name)}. Leave it out."
            )


def _check_schedule(config: PretrainConfig) -> None:
    points = config.decay_points()
    wanted = {"step": len(points) >= 1, "exponential": len(points) == 1}
    if not wanted.get(config.schedule, not points):
        needs = {"step": "one epoch or more", "exponential": "one number of epochs"}
        raise UserError(
            f"schedule {config.schedule} takes {needs.get(config.schedule, 'no decay_epochs')}. "
            f"Received: decay_epochs={config.decay_epochs!r}."
        )
    if any(b <= a for a, b in zip((0.0, *points), points, strict=False)):
        raise UserError(f"decay_epochs must rise from above 0. Received: {config.decay_epochs!r}.")
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


def _check_validation(config: PretrainConfig) -> None:
    if config.validation_epochs > 1 and not config.validation_fraction:
        raise UserError(
            "validation_epochs needs a validation set. Received: validation_epochs="
            f"{config.validation_epochs} and validation_fraction=0. Pass --validation_fraction=0.1."
        )


def _check_best_metric(config: PretrainConfig) -> None:
    if config.best_metric not in ("", *BEST_METRICS):
        raise UserError(
            f"best_metric must be one of {', '.join(BEST_METRICS)}. Received: "
            f"{config.best_metric!r}."
        )
    if config.best_metric == "knn_top1" and not config.validation_fraction:
        raise UserError(
            "best_metric knn_top1 needs a validation set. Received: validation_fraction=0. Pass "
            "--validation_fraction=0.1."
        )
    if config.best_metric == "loss" and config.queue_size:
        raise UserError(
            "best_metric loss favours the first epochs while the queue fills. Received: "
            f"best_metric='loss' and queue_size={config.queue_size}. Use knn_top1."
        )


def _check_queue(config: PretrainConfig) -> None:
    rows = config.batch_size * config.num_views
    if 0 < config.queue_size < rows:
        raise UserError(
            f"queue_size must hold a batch of {rows} embeddings. Received: {config.queue_size}."
        )


def _check_loss(config, dataset):
    """Whether the method's loss takes the batch: the views, the rows, the queue."""
    if config.method not in LOSSES or config.batch_size > dataset.train.num_examples:
        return
    try:
        check_method(config.method, config.temperature, config.method_args, config.queue_size)
    except UserError:
        return  # Another check says so.
    given = {} if config.temperature is None else {"temperature": config.temperature}
    loss = LOSSES[config.method](**given, **config.method_args)
    if not getattr(loss, "uses_labels", True) and config.num_views < 2:
        raise UserError(
            f"method {config.method} needs two views of an image or more. Received: num_views="
            f"{config.num_views}."
        )
    dim, size = config.embedding_dim or HEAD_DIM, config.queue_size
    labels = tf.TensorSpec([config.batch_size], tf.int32)
    embeddings = tf.TensorSpec([config.batch_size, config.num_views, dim], tf.float32)
    queue = {}
    if size:
        kinds = (([size], tf.int32), ([size, dim], tf.float32), ([size], tf.bool))
        queue = {"queue": tuple(tf.TensorSpec(*kind) for kind in kinds)}
    try:  # Traced, not run.
        tf.function(loss, autograph=False).get_concrete_function(labels, embeddings, **queue)
    except (ValueError, TypeError) as error:
        raise UserError(f"method {config.method}: {error}") from error


def _check_batch(config: PretrainConfig, dataset: ImageDataset, replicas: int) -> None:
    if config.batch_size > dataset.train.num_examples:
        raise UserError(
            f"batch_size must be at most the {dataset.train.num_examples} training images of "
            f"{config.dataset}. Received: {config.batch_size}. Lower it."
        )
    if config.batch_size % replicas:
        raise UserError(
            f"batch_size must be a multiple of the {replicas} replicas. Received: "
            f"{config.batch_size}."
        )


def _check_micro_batch(config: PretrainConfig, replicas: int) -> None:
    size = config.micro_batch_size
    if size is not None and config.batch_size % (replicas * size):
        raise UserError(
            f"micro_batch_size must divide each replica's {config.batch_size // replicas} images. "
            f"Received: {size}."
        )


def _check_compile(config: PretrainConfig, replicas: int) -> None:
    if config.compile == "on" and replicas > 1:
        raise UserError(
            f"compile=on is for one replica; XLA does not compile across {replicas}. Received: "
            "compile='on'. Leave it out."
        )
    if config.compile == "off" and config.strategy == "tpu":
        raise UserError("a TPU runs compiled steps only. Received: compile='off'. Leave it out.")
