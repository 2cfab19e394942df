"""Stage 1: train an encoder."""

import sys

from supcon_tf import pictures
from supcon_tf.config import PretrainConfig
from supcon_tf.data.augment import AUGMENTATIONS, check_augmentation
from supcon_tf.data.datasets import ImageDataset, from_config
from supcon_tf.data.pipeline import training_views
from supcon_tf.distribute import make_strategy
from supcon_tf.errors import UserError
from supcon_tf.evaluation import extract_features
from supcon_tf.methods import LOSSES, build_model, check_method
from supcon_tf.models.classifier import build_classifier
from supcon_tf.models.encoders import build_encoder, check_encoder
from supcon_tf.models.layers import ProjectionHead
from supcon_tf.optimizers import MomentumSGD, warmup_cosine
from supcon_tf.runs import RunDirectory
from supcon_tf.training import fit, initial_weights

_MAPPED_IMAGES = 1000
_HEAD_DIM = 128


def pretrain(config: PretrainConfig) -> dict:
    """Trains an encoder and writes it to the run directory.

    All settings and the data are checked before anything is written.

    Args:
        config: the settings.

    Returns:
        The stage's scores, as in metrics.json: the last epoch's loss and the seconds taken.

    Raises:
        UserError: if a setting, the data or the run directory cannot be used.
    """
    check_encoder(config.encoder)
    check_augmentation(config.augmentation)
    check_method(config.method, config.temperature, config.method_args)
    _check_head(config)
    run = RunDirectory(config.run_dir)
    run.check("pretrain", config)
    dataset = from_config(config)
    strategy = make_strategy(config.strategy)
    _check_batch(config, dataset, strategy.num_replicas_in_sync)
    steps = dataset.train.num_examples // config.batch_size
    with strategy.scope():
        model = _compiled_model(config, dataset, steps, strategy.num_replicas_in_sync)
    run.begin("pretrain", config, dataset.describe())
    if config.resume and run.has_finished("pretrain"):
        print(f"{config.run_dir} is finished; nothing to resume", file=sys.stderr)
        return run.metrics().get("pretrain", {})
    if dataset.bad_images:
        shown = ", ".join(dataset.bad_images[:3]) + ", ..." * (len(dataset.bad_images) > 3)
        print(f"unreadable images left out: {len(dataset.bad_images)} ({shown})")

    def stream(first_epoch):
        return training_views(
            dataset,
            augmentation=AUGMENTATIONS[config.augmentation],
            num_views=config.num_views,
            batch_size=config.batch_size,
            epochs=config.epochs,
            seed=config.seed,
            first_epoch=first_epoch,
        )

    history = fit(
        model, stream, epochs=config.epochs, steps_per_epoch=steps, run=run, stage="pretrain"
    )
    return _finish(run, config, dataset, model, history)


def _check_head(config: PretrainConfig) -> None:
    if config.method in LOSSES:
        return
    for name in ("embedding_dim", "projection_hidden_dim"):
        if getattr(config, name) is not None:
            raise UserError(
                f"{config.method} has no projection head. Received: {name}="
                f"{getattr(config, name)}. Leave it out."
            )


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


def _compiled_model(config, dataset, steps, replicas):
    hidden = _HEAD_DIM if config.projection_hidden_dim is None else config.projection_hidden_dim
    embedding_dim = config.embedding_dim or _HEAD_DIM
    with initial_weights(config.seed):
        model = build_model(
            config.method,
            build_encoder(config.encoder, dataset.image_size_px, config.width_multiplier),
            lambda: ProjectionHead(embedding_dim, (hidden,) if hidden else ()),
            len(dataset.class_names),
            config.temperature,
            config.method_args,
        )
    warmup = config.epochs / 16 if config.warmup_epochs is None else config.warmup_epochs
    total = config.epochs * steps
    rate = warmup_cosine(config.learning_rate, total, min(round(warmup * steps), total - 1))
    optimizer = MomentumSGD(rate, config.momentum, l2=config.weight_decay)
    # XLA uses all cores in the backward convolutions, which TensorFlow's own kernels do not; it
    # does not compile across replicas.
    model.compile(optimizer=optimizer, jit_compile=replicas == 1)
    return model


def _finish(run, config, dataset, model, history) -> dict:
    """Saves the encoder, and the classifier where the method trained one; scores and pictures."""
    metrics = {"loss": history["loss"][-1], "seconds": sum(history["seconds"])}
    with initial_weights(config.seed):
        untrained = build_encoder(config.encoder, dataset.image_size_px, config.width_multiplier)
    before = extract_features(untrained, dataset.test, limit=_MAPPED_IMAGES)
    after = extract_features(model.encoder, dataset.test, limit=_MAPPED_IMAGES)
    pictures.learning_curves({"pretrain": history}, run.pictures / "learning_curves.png")
    pictures.embedding_maps(
        {"before training": before, "after training": after},
        dataset.class_names,
        run.pictures / "embeddings.png",
        seed=config.seed,
    )
    run.record("pretrain", metrics, history)
    head = getattr(model, "classification_head", None)
    if head is not None:
        run.save_model(build_classifier(model.encoder, head), "classifier")
    run.save_model(model.encoder, "encoder")
    return metrics
