"""The objective of a search: one number from a trial's validation set, not from the test split."""

import tempfile
from pathlib import Path

import keras
import numpy as np

from supcon_tf.config import ClassifierConfig, EvaluateConfig
from supcon_tf.core.errors import UserError
from supcon_tf.data.datasets import ImageDataset
from supcon_tf.engine import checkpoints
from supcon_tf.engine.devices import make_strategy
from supcon_tf.engine.saving import restore_best
from supcon_tf.stages.building import compiled_model, steps_per_epoch_of
from supcon_tf.stages.classification import train_head
from supcon_tf.stages.features import extract_features
from supcon_tf.stages.run_directory import RunDirectory
from supcon_tf.stages.scores import knn_predict, negative_log_likelihood

# An encoder, and a linear layer from its features to logits if there is one.
Networks = tuple[keras.Model, keras.Layer | None]


def validation_score(run: RunDirectory, objective: str) -> float:
    """Scores a run's encoder, finished or stopped, on its validation set.

    For a finished run the score is what `train_classifier` and `evaluate` with split="validation"
    give with their defaults: `knn_top1`, `top1` and `nll`. A run that keeps its own classifier is
    scored with it.

    Args:
        run: pretrained with `validation_fraction` above 0.
        objective: a key of `config.search.OBJECTIVES`.

    Returns:
        A share in [0, 1], or nats for "nll".

    Raises:
        UserError: if there is no encoder, or the data changed.
    """
    dataset = run.open_dataset(unfinished=True)
    kept = _networks_kept if run.has_finished("pretrain") else _networks_so_far
    encoder, head = kept(run, dataset)
    gallery, known = extract_features(encoder, dataset.train)
    features, labels = extract_features(encoder, dataset.validation)
    if objective == "knn_top1":
        neighbors = min(EvaluateConfig().knn_neighbors, len(known))
        return float(np.mean(knn_predict(gallery, known, features, neighbors) == labels))
    if head is None:
        with tempfile.TemporaryDirectory() as scratch:
            head, _ = train_head(
                ClassifierConfig(), gallery, known, len(dataset.class_names), Path(scratch)
            )
    logits = head(features).numpy()
    if objective == "nll":
        return negative_log_likelihood(logits, labels)
    return float(np.mean(logits.argmax(axis=1) == labels))


def keeps_classifier(run: RunDirectory) -> bool:
    """Whether a finished pretraining run kept a classifier itself, without a classifier stage."""
    return run.has_finished("classifier") and "classifier" not in run.stages()


def _networks_kept(run: RunDirectory, dataset: ImageDataset) -> Networks:
    """The encoder of a finished run, and the head that it kept, or None."""
    head = run.load_model("classifier").get_layer("logits") if keeps_classifier(run) else None
    return run.load_model("encoder"), head


def _networks_so_far(run: RunDirectory, dataset: ImageDataset) -> Networks:
    """The networks that a run stopped at an epoch's end would keep if it ended there.

    They come from its newest checkpoint; no other process may write to the run.
    """
    config = run.pretrain_config(unfinished=True)
    steps = steps_per_epoch_of(config, dataset)
    strategy, folder = make_strategy(config.strategy), run.checkpoints("pretrain")
    with strategy.scope():
        model = compiled_model(config, dataset, steps, strategy.num_replicas_in_sync)
        model.optimizer.build(model.trainable_variables)
        state = checkpoints.newest(folder)
        if state is None:
            raise UserError(f"{run.path} has no checkpoint to score. Train it for an epoch first.")
        checkpoints.restore(folder, state.step, model)
    restore_best(model, state.history, config.best_metric, folder, steps)
    kept = model.kept()
    return kept["encoder"], kept["classifier"].get_layer("logits") if "classifier" in kept else None
