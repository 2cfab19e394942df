"""What a search asks of a trial: one number from the validation set, never from the test split."""

import tempfile

import numpy as np

from supcon_tf.config import ClassifierConfig, EvaluateConfig
from supcon_tf.core.errors import UserError
from supcon_tf.engine import checkpoints
from supcon_tf.engine.devices import make_strategy
from supcon_tf.stages.building import compiled_model
from supcon_tf.stages.classification import train_head
from supcon_tf.stages.features import extract_features
from supcon_tf.stages.pretraining import kept_encoder, restore_best
from supcon_tf.stages.run_directory import RunDirectory
from supcon_tf.stages.scores import knn_predict, negative_log_likelihood


def validation_score(run: RunDirectory, objective: str) -> float:
    """Scores a run's encoder, finished or stopped, on its validation set.

    For a finished run it is what `train_classifier` and `evaluate` with split="validation" give
    with their defaults: `knn_top1`, `top1` and `nll`. A method that trains its own classifier
    (cross entropy) is scored with that.

    Args:
        run: pretrained with `validation_fraction` above 0.
        objective: a key of `search.config.OBJECTIVES`.

    Returns:
        A share in [0, 1], or nats for "nll".

    Raises:
        UserError: if there is no encoder, or the data changed.
    """
    encoder, head = _networks(run)
    dataset = run.open_dataset(unfinished=True)
    gallery, known = extract_features(encoder, dataset.train)
    features, labels = extract_features(encoder, dataset.validation)
    if objective == "knn_top1":
        neighbors = min(EvaluateConfig().knn_neighbors, len(known))
        return float(np.mean(knn_predict(gallery, known, features, neighbors) == labels))
    if head is None:
        with tempfile.TemporaryDirectory() as scratch:
            head, _ = train_head(
                ClassifierConfig(), gallery, known, len(dataset.class_names), RunDirectory(scratch)
            )
    logits = head(features).numpy()
    if objective == "nll":
        return negative_log_likelihood(logits, labels)
    return float(np.mean(logits.argmax(axis=1) == labels))


def _networks(run):
    """The encoder, and the method's own head or None."""
    if not run.has_finished("pretrain"):
        return _networks_so_far(run)
    if run.has_finished("classifier") and run.pretrain_config().method == "cross_entropy":
        return run.load_model("encoder"), run.load_model("classifier").get_layer("logits")
    return run.load_model("encoder"), None


def _networks_so_far(run):
    """As `_networks`, of a run that was stopped at an epoch's end: what it would keep if it ended.

    From its newest checkpoint; no other process may write to the run.
    """
    config, dataset = run.pretrain_config(unfinished=True), run.open_dataset(unfinished=True)
    steps = dataset.train.num_examples // config.batch_size
    strategy, folder = make_strategy(config.strategy), run.checkpoints("pretrain")
    with strategy.scope():
        model = compiled_model(config, dataset, steps, strategy.num_replicas_in_sync)
        model.optimizer.build(model.trainable_variables)
        state = checkpoints.newest(folder)
        if state is None:
            raise UserError(f"{run.path} has no checkpoint to score. Train it for an epoch first.")
        checkpoints.restore(folder, state.step, model)
    restore_best(run, config, model, state.history, steps)
    return kept_encoder(model), getattr(model, "evaluation_head", None)
