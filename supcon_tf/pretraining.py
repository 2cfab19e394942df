"""Stage 1: train an encoder."""

import sys
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from supcon_tf import checkpoints, pictures
from supcon_tf.config import PretrainConfig
from supcon_tf.data.augment import AUGMENTATIONS, check_augmentation
from supcon_tf.data.datasets import ImageDataset, from_config
from supcon_tf.data.pipeline import training_views
from supcon_tf.distribute import agreed, is_chief, make_strategy
from supcon_tf.errors import UserError
from supcon_tf.evaluation import extract_features, inference_function, knn_predict
from supcon_tf.methods import LOSSES, build_model, check_method
from supcon_tf.models.classifier import build_classifier
from supcon_tf.models.copies import portable_copy, training_copy
from supcon_tf.models.encoders import build_encoder, check_encoder
from supcon_tf.models.layers import ProjectionHead
from supcon_tf.optimizers import SharedLossScale, make_optimizer
from supcon_tf.runs import RunDirectory
from supcon_tf.schedules import make_schedule, scaled_rate
from supcon_tf.training import BEST_METRICS, Saving, best_epoch, fit, initial_weights

_MAPPED_IMAGES = 1000
_HEAD_DIM = 128
# The online k-NN: images that vote, images that are scored, and voters.
_GALLERY, _QUERIES, _NEIGHBORS = 5000, 2000, 10


def pretrain(config: PretrainConfig) -> dict:
    """Trains an encoder and writes it to the run directory.

    All settings and the data are checked before anything is written. Under several workers all of
    them call this with the same settings and a run directory that they share; the chief writes.

    Args:
        config: the settings.

    Returns:
        The stage's scores, as in metrics.json: the last epoch's loss and the seconds taken; {} on
        the workers that are not the chief, and with `dry_run`.

    Raises:
        UserError: if a setting, the data or the run directory cannot be used.
    """
    if config.dry_run:
        from supcon_tf.planning import print_plan

        print_plan(config)
        return {}
    strategy = make_strategy(config.strategy)  # Workers join before anything else of TensorFlow.
    for check in settings_checks(config):
        check()
    run, chief = RunDirectory(config.run_dir), is_chief(strategy)
    if chief:
        run.check("pretrain", config)
    dataset = from_config(config)
    for check in data_checks(config, dataset, strategy.num_replicas_in_sync):
        check()
    steps = dataset.train.num_examples // config.batch_size
    with strategy.scope():
        model = _compiled_model(config, dataset, steps, strategy.num_replicas_in_sync)
    if chief:
        run.begin("pretrain", config, dataset.describe())
    finished = config.resume and run.has_finished("pretrain")
    if agreed(strategy, int(finished)):
        print(f"{config.run_dir} is finished; nothing to resume", file=sys.stderr)
        return run.metrics().get("pretrain", {})
    _say_what_is_left_out(dataset)
    history = fit(
        model,
        _stream(config, dataset),
        epochs=config.epochs,
        steps_per_epoch=steps,
        run=run,
        stage="pretrain",
        saving=Saving(config.checkpoint_steps, config.keep_checkpoints, config.best_metric),
        at_epoch_end=_online_knn(config, dataset, model) if chief else lambda epoch, values: {},
        watch=_CollapseWatch(config, model),
    )
    return _finish(run, config, dataset, model, history, steps) if chief else {}


def settings_checks(config: PretrainConfig) -> list[Callable[[], None]]:
    """What can be checked before the data is opened; each raises `UserError`."""
    return [
        lambda: check_encoder(config.encoder, config.width_multiplier, config.encoder_weights),
        lambda: check_augmentation(config.augmentation),
        lambda: check_method(
            config.method, config.temperature, config.method_args, config.queue_size
        ),
        lambda: _check_head(config),
        lambda: _check_best_metric(config),
        lambda: _check_queue(config),
        lambda: _optimizer(config, steps=10**6),
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
    given = {} if config.temperature is None else {"temperature": config.temperature}
    loss = LOSSES[config.method](**given, **config.method_args)
    dim, size = config.embedding_dim or _HEAD_DIM, config.queue_size
    labels = tf.TensorSpec([config.batch_size], tf.int32)
    embeddings = tf.TensorSpec([config.batch_size, config.num_views, dim], tf.float32)
    queue = {}
    if size:
        kinds = (([size], tf.int32), ([size, dim], tf.float32), ([size], tf.bool))
        queue = {"queue": tuple(tf.TensorSpec(*kind) for kind in kinds)}
    try:  # Traced, not run.
        tf.function(loss, autograph=False).get_concrete_function(labels, embeddings, **queue)
    except ValueError as error:
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


def _say_what_is_left_out(dataset):
    if dataset.bad_images:
        shown = ", ".join(dataset.bad_images[:3]) + ", ..." * (len(dataset.bad_images) > 3)
        print(f"unreadable images left out: {len(dataset.bad_images)} ({shown})")


def _stream(config, dataset):
    def stream(first_step, share):
        return training_views(
            dataset,
            augmentation=AUGMENTATIONS[config.augmentation],
            num_views=config.num_views,
            batch_size=config.batch_size,
            epochs=config.epochs,
            seed=config.seed,
            first_step=first_step,
            share=share,
        )

    return stream


def schedule_of(config: PretrainConfig, steps: int):
    """The learning-rate schedule; `steps` an epoch."""
    rate = config.learning_rate
    if config.scale_learning_rate:
        rate = scaled_rate(rate, config.batch_size)
    warmup = config.epochs / 16 if config.warmup_epochs is None else config.warmup_epochs
    total = config.epochs * steps
    return make_schedule(
        config.schedule,
        rate,
        total,
        min(round(warmup * steps), total - 1),
        decay_steps=tuple(max(1, round(epochs * steps)) for epochs in config.decay_points()),
        decay_rate=config.decay_rate,
    )


def _optimizer(config, steps):
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
    """The encoder of a configuration as it is trained, and a maker of its projection head."""
    hidden = _HEAD_DIM if config.projection_hidden_dim is None else config.projection_hidden_dim
    dims = (hidden,) if hidden else ()
    encoder = build_encoder(
        config.encoder, dataset.image_size_px, config.width_multiplier, config.encoder_weights
    )

    def head():
        return ProjectionHead(config.embedding_dim or _HEAD_DIM, dims, dtype=precision)

    return training_copy(encoder, precision), head


def _compiled_model(config, dataset, steps, replicas):
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
    optimizer = _optimizer(config, steps)
    if config.precision == "mixed_float16":
        optimizer = SharedLossScale(optimizer)
    # On a CPU, TensorFlow's own kernels are about twice as fast as XLA's; see the README.
    accelerator = any(tf.config.list_logical_devices(kind) for kind in ("GPU", "TPU"))
    compiled = config.compile == "on" or (config.compile == "auto" and accelerator)
    model.compile(optimizer=optimizer, jit_compile=compiled and replicas == 1)
    return model


def _online_knn(config, dataset, model):
    """Scores an epoch's encoder by k-NN on the validation set, where there is one."""
    if dataset.validation is None:
        return lambda epoch, values: {}
    encoder = model.evaluation_encoder
    encode = inference_function(encoder)

    def score(epoch, values):
        due = (epoch + 1) % config.validation_epochs == 0 or epoch + 1 == config.epochs
        if not due:
            return {"knn_top1": None}
        gallery, labels = extract_features(encoder, dataset.train, limit=_GALLERY, encode=encode)
        queries, truth = extract_features(
            encoder, dataset.validation, limit=_QUERIES, encode=encode
        )
        voted = knn_predict(gallery, labels, queries, min(_NEIGHBORS, len(labels)))
        return {"knn_top1": float(np.mean(voted == truth))}

    return score


class _CollapseWatch:
    """Says so when the loss sits at the value of identical embeddings, log(2N - 1).

    A training that has just begun is there too, so it has to stay for five epochs, or for two with
    embeddings that are identical indeed.
    """

    def __init__(self, config, model):
        loss, rows = getattr(model, "pairwise_loss", None), config.batch_size * config.num_views
        self.collapsed = loss.collapsed_value(rows) if loss and not config.queue_size else None
        self.epochs = 0

    def __call__(self, values):
        if self.collapsed is None:
            return None
        near = abs(values["loss"] - self.collapsed) < 0.01 * self.collapsed
        self.epochs = self.epochs + 1 if near else 0
        if self.epochs != (2 if values["uniformity"] > -0.05 else 5):
            return None
        return (
            f"warning: the loss stays at {values['loss']:.3f}, that of identical embeddings "
            f"({self.collapsed:.3f}): nothing is learned. Lower learning_rate or temperature, or "
            "lengthen the warm-up."
        )


def _finish(run, config, dataset, model, history, steps) -> dict:
    """Saves the encoder, and the classifier where the method trained one; scores and pictures."""
    metrics = {"loss": history["loss"][-1], "seconds": sum(history["seconds"])}
    if config.best_metric:
        best = best_epoch(history, config.best_metric)
        with model.distribute_strategy.scope():
            checkpoints.restore(run.checkpoints("pretrain"), (best + 1) * steps, model)
        metrics |= {"best_epoch": best + 1, config.best_metric: history[config.best_metric][best]}
    with initial_weights(config.seed):
        untrained, _ = build_networks(config, dataset)
    encoder = portable_copy(model.evaluation_encoder)
    before = extract_features(untrained, dataset.test, limit=_MAPPED_IMAGES)
    after = extract_features(encoder, dataset.test, limit=_MAPPED_IMAGES)
    if "knn_top1" in history:
        metrics.setdefault("knn_top1", history["knn_top1"][-1])
    pictures.learning_curves({"pretrain": history}, run.pictures / "learning_curves.png")
    pictures.embedding_maps(
        {"before training": before, "after training": after},
        dataset.class_names,
        run.pictures / "embeddings.png",
        seed=config.seed,
    )
    run.record("pretrain", metrics, history)
    head = getattr(model, "evaluation_head", None)
    if head is not None:
        run.save_model(build_classifier(encoder, head), "classifier")
    run.save_model(encoder, "encoder")
    return metrics
