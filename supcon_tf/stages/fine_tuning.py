"""Fine-tuning as stage 2: the whole network, or its last stages, trained with cross entropy.

It is the method `cross_entropy`, started from a run's encoder: the same stream, step and loop. In
the stages being trained, batch norm uses the statistics of the batch (of all replicas) and updates
its moving statistics; in frozen stages it uses the moving statistics and leaves them unchanged.
"""

import itertools
import os
import sys

import keras
import numpy as np

from supcon_tf.config import ClassifierConfig, PretrainConfig
from supcon_tf.core.errors import UserError
from supcon_tf.core.files import has_lost_lock
from supcon_tf.data.datasets import naming_lost_images
from supcon_tf.data.splits import ImageDataset
from supcon_tf.engine.devices import make_strategy
from supcon_tf.engine.loop import Watching, fit
from supcon_tf.engine.loss_scaling import SharedLossScale
from supcon_tf.engine.rate_factors import FactoredSGD
from supcon_tf.engine.saving import Saving, best_epoch, restore_best
from supcon_tf.methods.classifying import ClassifyingMethod
from supcon_tf.networks.heads import features_of
from supcon_tf.networks.initial import initial_weights
from supcon_tf.networks.stages import split_into_stages
from supcon_tf.stages import building
from supcon_tf.stages.checks import data_checks
from supcon_tf.stages.features import encode_batches, extract_features, inference_function
from supcon_tf.stages.label_scores import headline, headline_score
from supcon_tf.stages.run_directory import RunDirectory

_RATE_FACTOR, _PATIENCE = 1.0, 10
_IN_WORDS = {
    "validation_top1": "validation top-1",
    "validation_map": "validation mean average precision",
}


def fine_tune(
    config: ClassifierConfig, run: RunDirectory, dataset: ImageDataset
) -> tuple[keras.Model, dict, dict]:
    """Trains a classifier together with the run's encoder, or with its last stages.

    Args:
        config: the settings.
        run: a pretrained run on which `check` was called.
        dataset: the run's data set.

    Returns:
        The classifier of the best epoch on the validation images, or of the last one if there are
        none; the stage's scores; and its curves. The run's encoder stays as it was.

    Raises:
        UserError: if a setting does not suit the encoder, the data or the devices.
    """
    strategy, training = _strategy(config), _as_training(config, run)
    for check in data_checks(training, dataset, strategy.num_replicas_in_sync):
        check()
    if config.patience is not None and dataset.validation is None:
        raise UserError(
            f"patience needs validation images. Received: patience={config.patience}, but "
            f"{run.path} was pretrained without any. Leave patience out, or pretrain with "
            "--validation_fraction."
        )
    steps = building.steps_per_epoch_of(training, dataset)
    with strategy.scope():
        model = _compiled(config, training, dataset, steps, strategy.num_replicas_in_sync)
    run.begin("classifier", config, dataset.describe())
    history = _fit(config, run, dataset, model, building.stream_of(training, dataset), steps)
    # If the run directory is gone, only the last epoch's weights are left.
    metric = _metric(dataset) if dataset.validation and not has_lost_lock(run.path) else ""
    best = restore_best(model, history, metric, run.checkpoints("classifier"), steps)
    if best is not None and len(history["loss"]) < config.epochs:
        why = f"no better {_IN_WORDS[metric]} after epoch {best + 1}, which is kept"
        print(f"stopped after epoch {len(history['loss'])}: {why}", file=sys.stderr)
    classifier = model.kept()["classifier"]
    return classifier, _scores(config, history, best, classifier, dataset), history


def is_fine_tuned(run: RunDirectory) -> bool:
    """Whether the run's classifier contains an encoder other than encoder.keras."""
    return run.stages().get("classifier", {}).get("fine_tune", "none") != "none"


def _strategy(config):
    if config.strategy == "auto" and os.environ.get("TF_CONFIG"):
        raise UserError(
            "fine-tuning runs on one machine, but TF_CONFIG is set. Unset it, or pass "
            "--strategy=one_device."
        )
    return make_strategy(config.strategy)


def _as_training(config, run) -> PretrainConfig:
    """The fine-tuning as the configuration of pretraining with cross entropy."""
    pretrained = run.pretrain_config()
    return PretrainConfig(
        run_dir=config.run_dir,
        encoder=str(run.path / "encoder.keras"),
        method="cross_entropy",
        method_args={
            "label_smoothing": config.label_smoothing,
            "class_weights": config.class_weights,
            "class_weights_beta": config.class_weights_beta,
            "logit_adjustment": config.logit_adjustment,
        },
        augmentation=config.augmentation or pretrained.augmentation,
        augmentation_args={} if config.augmentation else pretrained.augmentation_args,
        num_views=1,
        batch_size=config.batch_size,
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        warmup_epochs=config.warmup_epochs,
        precision=pretrained.precision,
        compile=pretrained.compile,
        seed=config.seed,
    )


def _compiled(config, training, dataset, steps, replicas) -> ClassifyingMethod:
    """The model, with its optimizer; to be called in the strategy's scope."""
    with initial_weights(config.seed):
        encoder = building.encoder_of(training, dataset.image_size_px, training.precision)
        freeze_first_stages(encoder, config.fine_tune)
        classes, labels = len(dataset.class_names), dataset.train.labels
        data = labels, dataset.multi_label
        model = building.method_of(training, encoder, classes, steps, *data)
    own = {id(variable) for variable in encoder.trainable_variables}
    factor = config.encoder_rate_factor or _RATE_FACTOR
    optimizer = FactoredSGD(
        building.schedule_of(training, steps),
        [factor if id(variable) in own else 1.0 for variable in model.trainable_variables],
        momentum=config.momentum,
        l2=config.weight_decay,
    )
    if training.precision == "mixed_float16":
        optimizer = SharedLossScale(optimizer)
    model.compile(optimizer=optimizer, jit_compile=building.is_compiled(training, replicas))
    return model


def freeze_first_stages(encoder: keras.Model, fine_tune: str) -> None:
    """Freezes the stages of an encoder that precede those to be trained.

    Args:
        encoder: as `split_into_stages` takes it, unless all of it is trained.
        fine_tune: "all", or how many of the last stages are trained.

    Raises:
        UserError: if it has no stages, or fewer than that.
    """
    if fine_tune == "all":
        return
    try:
        stages = split_into_stages(encoder).layers
    except ValueError as error:
        raise UserError(f"fine_tune={fine_tune}: {error} Pass --fine_tune=all.") from error
    if int(fine_tune) > len(stages):
        raise UserError(
            f"fine_tune must be at most the encoder's {len(stages)} stages, or all. Received: "
            f"{fine_tune}."
        )
    for layer in itertools.chain.from_iterable(stages[: -int(fine_tune)]):
        layer.trainable = False


def _metric(dataset):
    """The name of the score on validation images."""
    return f"validation_{headline(dataset.multi_label)}"


def _fit(config, run, dataset, model, stream, steps):
    patience, watched = config.patience or _PATIENCE, dataset.validation is not None
    metric = _metric(dataset)

    def stop_when(history):
        best = best_epoch(history, metric)
        return best is not None and len(history["loss"]) - 1 - best >= patience

    with naming_lost_images(dataset.train, dataset.validation):
        return fit(
            model,
            stream,
            epochs=config.epochs,
            steps_per_epoch=steps,
            folder=run.path,
            stage="classifier",
            saving=Saving(best_metric=metric if watched else ""),
            watching=Watching(
                _validation(model, dataset) if watched else lambda epoch: {},
                stop_when=stop_when if watched else None,
                images_per_step=config.batch_size,
            ),
        )


def _validation(model, dataset):
    """A function that scores the classifier on the validation images after an epoch."""
    encode = inference_function(model.evaluation_encoder)
    images = dataset.validation.images(dataset.image_size_px, 256)

    def measure(epoch):
        features, labels = encode_batches(encode, images)
        logits = np.asarray(model.evaluation_head(features))
        return {_metric(dataset): headline_score(logits, labels)}

    return measure


def _scores(config, history, best, classifier, dataset) -> dict:
    epoch = len(history["loss"]) - 1 if best is None else best
    features, labels = extract_features(features_of(classifier), dataset.train, progress="training")
    logits = np.asarray(classifier.get_layer("logits")(features))
    scores = {
        "fine_tuned": config.fine_tune,
        "loss": history["loss"][epoch],
        f"train_{headline(dataset.multi_label)}": headline_score(logits, labels),
        "seconds": sum(history["seconds"]),
    }
    if best is not None:
        metric = _metric(dataset)
        scores |= {"best_epoch": best + 1, metric: history[metric][best]}
    return scores
