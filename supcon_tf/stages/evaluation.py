"""Scores on the held-out split, or on the validation set."""

import numpy as np

from supcon_tf.config import EvaluateConfig
from supcon_tf.core.errors import UserError
from supcon_tf.core.interrupts import noting_interrupts
from supcon_tf.networks.heads import features_of
from supcon_tf.stages import pictures
from supcon_tf.stages.features import extract_features
from supcon_tf.stages.fine_tuning import is_fine_tuned
from supcon_tf.stages.removal import check_there
from supcon_tf.stages.run_directory import RunDirectory
from supcon_tf.stages.scores import (
    classification_scores,
    knn_predict,
    negative_log_likelihood,
    soft_neighbor_predict,
)


@noting_interrupts()
def evaluate(config: EvaluateConfig) -> dict:
    """Scores a run on a split: neighbours' votes, and the classifier where there is one.

    Writes the scores to metrics.json under "test" or "validation", and the confusion matrix as a
    picture.

    Args:
        config: the settings.

    Returns:
        `images`, `knn_top1`, `knn_neighbors`; where asked for `soft_neighbors_top1` and
        `soft_neighbors_temperature`; and with a classifier `top1`, `top5` (from ten classes on),
        `per_class`, `confusion_matrix` and `nll`. Shares in [0, 1]; nats.

    Raises:
        UserError: if the run has no encoder, its data changed, or it set no validation images
            aside.
    """
    run = RunDirectory(config.run_dir)
    dataset = run.open_dataset()
    split = getattr(dataset, config.split)
    if split is None:
        raise UserError(
            f"{run.path} has no validation set: it was pretrained with validation_fraction=0. "
            "Received: split='validation'. Leave it out."
        )
    if config.knn_neighbors > dataset.train.num_examples:
        raise UserError(
            f"knn_neighbors must be at most the {dataset.train.num_examples} training images with "
            f"labels. Received: {config.knn_neighbors}. Pass --knn_neighbors="
            f"{dataset.train.num_examples}."
        )
    has_classifier = (run.path / "classifier.keras").exists()
    encoder = run.load_model("encoder")
    model = run.load_model("classifier") if has_classifier else None

    def features(split, title):
        return extract_features(encoder, split, batch_size=config.batch_size, progress=title)

    gallery, known = features(dataset.train, "training features")
    split_features, labels = features(split, f"{config.split} features")
    metrics = {"images": len(labels)}
    metrics |= _neighbor_scores(config, gallery, known, split_features, labels)
    if model is not None:
        logits = _logits(config, run, model, split, split_features)
        metrics |= classification_scores(logits, labels, dataset.class_names)
        metrics["nll"] = negative_log_likelihood(logits, labels)
        check_there(run.path)
        suffix = "" if config.split == "test" else f"_{config.split}"
        pictures.confusion(
            np.array(metrics["confusion_matrix"]),
            dataset.class_names,
            run.pictures / f"confusion_matrix{suffix}.png",
        )
    run.record(config.split, metrics)
    return metrics


def _logits(config, run, model, split, features):
    """The classifier's logits, from the run's features unless it has some of its own."""
    if is_fine_tuned(run):
        encoder, size = features_of(model), config.batch_size
        features, _ = extract_features(encoder, split, batch_size=size, progress="classifier")
    return model.get_layer("logits")(features).numpy()


def _neighbor_scores(config, gallery, known, features, labels):
    """Top-1 of the votes of the gallery, whose labels are known, and the settings of each vote."""
    voted = knn_predict(gallery, known, features, config.knn_neighbors)
    scores = {
        "knn_top1": float(np.mean(voted == labels)),
        "knn_neighbors": config.knn_neighbors,
    }
    temperature = config.soft_neighbors_temperature
    if temperature is not None:
        voted = soft_neighbor_predict(gallery, known, features, temperature)
        scores["soft_neighbors_top1"] = float(np.mean(voted == labels))
        scores["soft_neighbors_temperature"] = temperature
    return scores
