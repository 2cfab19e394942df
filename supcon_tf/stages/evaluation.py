"""Scores of a run on its held-out split, its validation set, or other labelled images."""

import dataclasses
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.special import softmax

from supcon_tf.config import EvaluateConfig
from supcon_tf.core.errors import UserError
from supcon_tf.core.interrupts import noting_interrupts
from supcon_tf.data.labelled import open_labelled
from supcon_tf.data.splits import ImageDataset, Split
from supcon_tf.networks.heads import features_of
from supcon_tf.stages import pictures
from supcon_tf.stages.class_scores import below_chance, class_scores
from supcon_tf.stages.corrupted import corrupted_evaluation
from supcon_tf.stages.features import extract_features
from supcon_tf.stages.fine_tuning import is_fine_tuned
from supcon_tf.stages.intervals import classification_intervals, share_interval
from supcon_tf.stages.removal import check_there
from supcon_tf.stages.run_directory import RunDirectory
from supcon_tf.stages.score_files import write_score_files
from supcon_tf.stages.scores import (
    classification_scores,
    expected_calibration_error,
    knn_predict,
    negative_log_likelihood,
    soft_neighbor_predict,
)

_NAMED_CLASSES = 5


@dataclasses.dataclass(frozen=True)
class Scored:
    """The images that are scored.

    Attributes:
        name: key of the scores in metrics.json: "test", "validation", or a data set's name.
        split: the images, labelled with the model's classes.
        folder: name of the folder of the CSV files.
        picture: the picture of the confusion matrix.
        described: what the scores say of the images, but for their number.
    """

    name: str
    split: Split
    folder: Path
    picture: Path
    described: dict


@noting_interrupts()
def evaluate_run(config: EvaluateConfig) -> dict:
    """Scores a run on images: neighbours' votes, and the classifier where there is one.

    Writes the scores to metrics.json under "test", "validation" or the name of the data set, the
    confusion matrix as a picture, and what was predicted as CSV files.

    Args:
        config: the settings.

    Returns:
        The number of images, the scores of the votes and, with a classifier, those of
        `classifier_scores`; `intervals`; of other data than the run's own `dataset`, `fingerprint`
        and `bad_images`.

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
        metrics |= intervals(config, metrics)
        if corrupted:
            metrics["corruptions"] = corrupted(model)
        check_there(run.path)
        write_report(scored, logits, labels, metrics, dataset.class_names)
        remark(metrics["classes"])
    run.record(scored.name, metrics)
    return metrics


def _logits(config, run, model, split, features):
    """The classifier's logits, from the run's features unless it has some of its own."""
    if is_fine_tuned(run):
        encoder, size = features_of(model), config.batch_size
        features, _ = extract_features(encoder, split, batch_size=size, progress="classifier")
    return model.get_layer("logits")(features).numpy()


def _scored(config: EvaluateConfig, run: RunDirectory, dataset: ImageDataset) -> Scored:
    """The images of the run, or of another data set, that are to be scored."""
    if config.dataset:
        return other_images(config, dataset.class_names, run.path / "evaluation", dataset.name)
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
    config: EvaluateConfig, class_names: Sequence[str], folder: Path, trained_on: str
) -> Scored:
    """The images of `config.dataset`.

    Args:
        config: the settings.
        class_names: the model's classes.
        folder: where the data set gets a folder of its own.
        trained_on: name of the data set that the model was trained on.

    Raises:
        UserError: as `open_labelled`.
    """
    split, bad = open_labelled(
        config.dataset,
        class_names,
        config.data_dir,
        skip_bad_images=config.skip_bad_images,
        trained_on=trained_on,
    )
    # Folders of the same name in different places are told apart.
    name = config.dataset.encode(errors="surrogateescape")
    own = folder / f"{Path(config.dataset).name}-{hashlib.sha256(name).hexdigest()[:8]}"
    described = {"dataset": config.dataset, "fingerprint": split.fingerprint, "bad_images": bad}
    return Scored(config.dataset, split, own, own / "confusion_matrix.png", described)


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


def classifier_scores(logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> dict:
    """All scores of a classifier.

    Args:
        logits: float [N, C].
        labels: int [N].
        class_names: C names.

    Returns:
        Those of `classification_scores` and `class_scores`, `nll` (nats) and `ece`.
    """
    probabilities = softmax(np.asarray(logits, np.float64), axis=1)
    return {
        **classification_scores(logits, labels, class_names),
        **class_scores(probabilities, labels, class_names),
        "nll": negative_log_likelihood(logits, labels),
        "ece": expected_calibration_error(probabilities, labels),
    }


def intervals(config: EvaluateConfig, metrics: dict) -> dict:
    """95 % intervals of the scores of N images.

    Args:
        config: its `bootstrap` and `seed`.
        metrics: `images`, perhaps `knn_top1` and `confusion_matrix`.

    Returns:
        `intervals`: by score its lower and upper end, with `resamples` and `seed`; nothing where
        `bootstrap` is 0.
    """
    how = {"resamples": config.bootstrap, "seed": config.seed}
    if not config.bootstrap:
        return {}
    found = {}
    if "confusion_matrix" in metrics:
        found |= classification_intervals(np.array(metrics["confusion_matrix"]), **how)
    if "knn_top1" in metrics:
        found["knn_top1"] = share_interval(metrics["knn_top1"], metrics["images"], **how)
    return {"intervals": {**found, **how}}


def write_report(
    scored: Scored, logits: np.ndarray, labels: np.ndarray, metrics: dict, class_names
) -> None:
    """Writes the picture of the confusion matrix and the CSV files.

    Args:
        scored: the images.
        logits: float [N, C].
        labels: int [N].
        metrics: as from `classifier_scores`.
        class_names: C names.
    """
    counts = metrics["confusion_matrix"]
    pictures.confusion(np.array(counts), class_names, scored.picture)
    probabilities = softmax(np.asarray(logits, np.float64), axis=1)
    write_score_files(scored.folder, scored.split, probabilities, labels, counts, class_names)


def remark(scores: dict) -> None:
    """Prints one line on the classes that are recognized less often than by guessing, if any."""
    worst = below_chance(scores)
    if not worst:
        return
    shown = [
        f"{name!r} {100 * score['recall']:.0f} % of {score['support']:,}"
        for name, score in list(worst.items())[:_NAMED_CLASSES]
    ]
    more = f" and {len(worst) - len(shown)} more" * (len(worst) > len(shown))
    print(
        f"warning: {len(worst)} of {len(scores)} classes recognized less often than by guessing "
        f"({100 / len(scores):.1f} %): {', '.join(shown)} images{more}",
        file=sys.stderr,
    )
