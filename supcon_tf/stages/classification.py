"""Stage 2: a classifier, linear on the frozen encoder or fine-tuned with it."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from supcon_tf.config import ClassifierConfig
from supcon_tf.core.errors import UserError
from supcon_tf.data.balance import class_counts
from supcon_tf.data.streams import chain_epochs
from supcon_tf.data.views import sharding_off
from supcon_tf.engine.loop import fit
from supcon_tf.engine.optimizers import MomentumSGD
from supcon_tf.engine.schedules import warmup_cosine
from supcon_tf.losses.class_balance import loss_balance
from supcon_tf.losses.sigmoid import classification_loss
from supcon_tf.networks.heads import build_classifier, classification_head
from supcon_tf.networks.initial import initial_weights
from supcon_tf.stages import pictures
from supcon_tf.stages.features import extract_features
from supcon_tf.stages.fine_tuning import fine_tune
from supcon_tf.stages.label_scores import mean_average_precision
from supcon_tf.stages.removal import check_there
from supcon_tf.stages.run_directory import RunDirectory


def train_classifier(config: ClassifierConfig) -> dict:
    """Trains a classifier of a run: linear on its frozen encoder, or with the encoder.

    For the linear classifier, the features of the training split are computed once, without
    augmentation, and standardized while the head learns; the standardization is then folded into
    the head, which is then a linear layer on the encoder's own features. With `config.fine_tune`
    the encoder is trained too: see `fine_tune`. The run's encoder.keras stays as it was.

    Args:
        config: the settings; `config.run_dir` holds the pretrained encoder.

    Returns:
        The stage's scores, as in metrics.json: loss and training accuracy (`train_top1`) of the
        epoch that is kept; for a fine-tuned one also `fine_tuned` and, with validation images,
        `best_epoch` and `validation_top1`. If images have several classes, mean average
        precisions, `train_map` and `validation_map`, take the place of the accuracies.

    Raises:
        UserError: if the run has no encoder, its data changed, or a setting cannot be used.
    """
    with RunDirectory(config.run_dir) as run:
        run.pretrain_config()
        run.check("classifier", config)
        dataset = run.open_dataset()
        train = fine_tune if config.is_fine_tuning() else _train_linear
        classifier, metrics, history = train(config, run, dataset)
        check_there(run.path, classifier=classifier)
        run.save_model(classifier, "classifier")
        run.record("classifier", metrics, history)
        title = pictures.curves_title(run.path.name, run.metrics())
        pictures.learning_curves(run.history(), run.pictures / "learning_curves.png", title)
        return metrics


def _train_linear(config, run, dataset):
    """As `fine_tune`, on the frozen encoder."""
    if dataset.multi_label and config.logit_adjustment:
        raise UserError(
            "logit_adjustment needs images of one class each. Received: "
            f"{config.logit_adjustment:g}, and {dataset.name}, whose images have several. Leave it "
            "out."
        )
    encoder = run.load_model("encoder")
    features, labels = extract_features(encoder, dataset.train, progress="features")
    run.begin("classifier", config, dataset.describe())
    head, history = train_head(config, features, labels, len(dataset.class_names), run.path)
    metrics = {"loss": history["loss"][-1], "seconds": sum(history["seconds"])}
    if dataset.multi_label:
        metrics["train_map"] = mean_average_precision(head(features).numpy(), labels)
    else:
        metrics["train_top1"] = history["accuracy"][-1]
    return build_classifier(encoder, head), metrics, history


def train_head(
    config: ClassifierConfig,
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    folder: Path,
) -> tuple[keras.layers.Dense, dict]:
    """Trains a linear layer on features, standardized while it learns.

    Args:
        config: the settings.
        features: float32 [N, F].
        labels: int [N], or bool [N, C] for several classes per image.
        num_classes: classes of the data set.
        folder: where checkpoints/classifier and logs/classifier go.

    Returns:
        A layer from the features as given to logits, and the curves.
    """
    mean, scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-3)
    steps = -(-len(labels) // config.batch_size)
    balance = loss_balance(
        lambda: class_counts(labels, num_classes),
        config.class_weights,
        config.class_weights_beta,
        config.logit_adjustment,
    )
    loss = classification_loss(labels.ndim == 2, config.label_smoothing, **balance)
    model = _compiled_head(config, features.shape[1], num_classes, steps, loss, labels[:1])
    standardized = (features - mean) / scale
    history = fit(
        model,
        lambda first_step, *_: _feature_stream(standardized, labels, config, first_step),
        epochs=config.epochs,
        steps_per_epoch=steps,
        folder=folder,
        stage="classifier",
    )
    head = classification_head(num_classes)
    head.build(features.shape)
    kernel, bias = (np.asarray(weight) for weight in model.get_weights())
    head.set_weights([kernel / scale[:, None], bias - (mean / scale) @ kernel])
    return head, history


def _compiled_head(config, num_features, num_classes, steps, loss, label):
    """The model and its metrics; `label` is one of the labels, [1] or [1, C]."""
    total, warmup = config.epochs * steps, round(config.warmup_epochs * steps)
    with initial_weights(config.seed):
        head = classification_head(num_classes)
        model = keras.Sequential([keras.Input((num_features,)), head])
    if label.ndim == 2:
        metric = keras.metrics.BinaryAccuracy("label_accuracy", threshold=0.0)  # Of logits.
    else:
        metric = keras.metrics.SparseCategoricalAccuracy("accuracy")
    model.compile(
        optimizer=MomentumSGD(
            warmup_cosine(config.learning_rate, total, min(warmup, total - 1)),
            config.momentum,
            l2=config.weight_decay,
        ),
        loss=loss,
        metrics=[metric],
        jit_compile=False,
    )
    # Builds the metrics, which are part of the checkpoints.
    model.test_on_batch(np.zeros((1, num_features), np.float32), label)
    model.reset_metrics()
    return model


def _feature_stream(features, labels, config, first_step) -> tf.data.Dataset:
    """Batches from `first_step` on; the order depends on the seed and the epoch."""
    examples = tf.data.Dataset.from_tensor_slices((features, labels))

    def one_epoch(shuffle_seed, skipped):
        shuffled = examples.shuffle(len(labels), shuffle_seed, reshuffle_each_iteration=False)
        return shuffled.batch(config.batch_size).skip(tf.cast(skipped, tf.int64))

    stream = chain_epochs(
        one_epoch,
        seed=config.seed,
        first_step=first_step,
        steps_per_epoch=-(-len(labels) // config.batch_size),
    )
    return sharding_off(stream).prefetch(tf.data.AUTOTUNE)
