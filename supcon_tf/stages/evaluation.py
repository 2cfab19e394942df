"""Scores of a run on its held-out split, its validation set, or other labelled images."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from supcon_tf.config import EvaluateConfig
from supcon_tf.core.errors import UserError
from supcon_tf.core.interrupts import noting_interrupts
from supcon_tf.data.labelled import open_labelled
from supcon_tf.data.splits import ImageDataset
from supcon_tf.networks.heads import features_of
from supcon_tf.stages.corrupted import corrupted_evaluation
from supcon_tf.stages.features import extract_features
from supcon_tf.stages.fine_tuning import is_fine_tuned
from supcon_tf.stages.label_scores import (
    mean_average_precision,
    neighbor_label_scores,
)
from supcon_tf.stages.removal import check_there
from supcon_tf.stages.reports import Scored, classifier_scores, intervals, remark, write_report
from supcon_tf.stages.run_directory import RunDirectory
from supcon_tf.stages.scores import (
    knn_predict,
    soft_neighbor_predict,
)


@noting_interrupts()
def evaluate_run(config: EvaluateConfig) -> dict:
    """Scores a run on images: neighbours' votes, and the classifier if there is one.

    Writes the scores to metrics.json under "test", "validation" or the name of the data set, the
    confusion matrix as a picture, and the predictions as CSV files.

    Args:
        config: the settings.

    Returns:
        The number of images, the scores of the votes and, with a classifier, those of
        `classifier_scores`; `intervals`; for data other than the run's own, also `dataset`,
        `fingerprint` and `bad_images`.

    Raises:
        UserError: if the run has no encoder, its data changed, it set no validation images aside,
            or the other data cannot be used.
    """
    run = RunDirectory(config.run_dir)
    dataset = run.open_dataset()
    scored = _scored(config, run, dataset)
    if config.knn_neighbors > dataset.train.num_examples:
        raise UserError(
            f"knn_neighbors must be at most the {dataset.train.num_examples} training images with "
            f"labels. Received: {config.knn_neighbors}. Pass --knn_neighbors="
            f"{dataset.train.num_examples}."
        )
    if dataset.multi_label:
        _check_several_classes(config, dataset)
    has_classifier = (run.path / "classifier.keras").exists()
    corrupted = corrupted_evaluation(config, run, scored) if config.corruptions else None
    encoder = run.load_model("encoder")
    model = run.load_model("classifier") if has_classifier else None

    def features(split, title):
        return extract_features(encoder, split, batch_size=config.batch_size, progress=title)

    gallery, known = features(dataset.train, "training features")
    split_features, labels = features(scored.split, f"{scored.name} features")
    metrics = {**scored.described, "images": len(labels)}
    metrics |= _neighbor_scores(config, gallery, known, split_features, labels)
    if model is None:
        metrics |= intervals(config, metrics)
    else:
        logits = _logits(config, run, model, scored.split, split_features)
        metrics |= classifier_scores(logits, labels, dataset.class_names)
        metrics |= intervals(config, metrics, logits, labels)
        if corrupted:
            metrics["corruptions"] = corrupted(model)
        check_there(run.path)
        write_report(scored, logits, labels, metrics, dataset.class_names)
        remark(metrics["classes"], dataset.multi_label)
    run.record(scored.name, metrics)
    return metrics


def _check_several_classes(config, dataset):
    """Refuses scores that need one class per image."""
    for name in ("soft_neighbors_temperature", "corruptions"):
        value = getattr(config, name)
        if value:
            raise UserError(
                f"{name} needs images of one class each. Received: {name}={value}, and "
                f"{dataset.name}. Leave it out."
            )


def _logits(config, run, model, split, features):
    """The classifier's logits, from the run's features unless it has its own encoder."""
    if is_fine_tuned(run):
        encoder, size = features_of(model), config.batch_size
        features, _ = extract_features(encoder, split, batch_size=size, progress="classifier")
    return model.get_layer("logits")(features).numpy()


def _scored(config: EvaluateConfig, run: RunDirectory, dataset: ImageDataset) -> Scored:
    """The images of the run, or of another data set, that are to be scored."""
    if config.dataset:
        data = dataset.class_names, run.path / "evaluation", dataset.name
        return other_images(config, *data, dataset.multi_label)
    split = getattr(dataset, config.split)
    if split is None:
        raise UserError(
            f"{run.path} has no validation set: it was pretrained with validation_fraction=0. "
            "Received: split='validation'. Leave it out."
        )
    suffix = "" if config.split == "test" else f"_{config.split}"
    return Scored(
        name=config.split,
        split=split,
        folder=run.path / "evaluation" / config.split,
        picture=run.pictures / f"confusion_matrix{suffix}.png",
        described={},
    )


def other_images(
    config: EvaluateConfig,
    class_names: Sequence[str],
    folder: Path,
    trained_on: str,
    multi_label: bool,
) -> Scored:
    """The images of `config.dataset`.

    Args:
        config: the settings.
        class_names: the model's classes.
        folder: the folder in which the data set gets its own subfolder.
        trained_on: name of the data set that the model was trained on.
        multi_label: whether the model gives several classes per image.

    Raises:
        UserError: as `open_labelled`.
    """
    split, bad = open_labelled(
        config.dataset,
        class_names,
        config.data_dir,
        multi_label=multi_label,
        skip_bad_images=config.skip_bad_images,
        trained_on=trained_on,
    )
    # Folders of the same name in different places are told apart.
    name = config.dataset.encode(errors="surrogateescape")
    own = folder / f"{Path(config.dataset).name}-{hashlib.sha256(name).hexdigest()[:8]}"
    described = {"dataset": config.dataset, "fingerprint": split.fingerprint, "bad_images": bad}
    return Scored(config.dataset, split, own, own / "confusion_matrix.png", described)


def _neighbor_scores(config, gallery, known, features, labels):
    """Scores of the votes of the gallery, whose labels are known, and the settings of each vote."""
    if known.ndim == 2:
        votes = neighbor_label_scores(gallery, known, features, config.knn_neighbors)
        score = mean_average_precision(votes, labels)
        return {"knn_map": score, "knn_neighbors": config.knn_neighbors}
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
