"""Scores of a run or a bundle; a bundle is scored with its own preprocessing and probabilities."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from supcon_tf.config import EvaluateConfig
from supcon_tf.core.errors import UserError
from supcon_tf.core.files import write_json
from supcon_tf.core.interrupts import check_interrupts, noting_interrupts
from supcon_tf.data.datasets import naming_lost_images
from supcon_tf.data.images import InvalidImage
from supcon_tf.data.splits import Split
from supcon_tf.exporting.bundle import Bundle, load_bundle
from supcon_tf.exporting.layout import newest_bundle
from supcon_tf.stages.evaluation import evaluate_run, other_images
from supcon_tf.stages.reports import classifier_scores, intervals, remark, write_report
from supcon_tf.stages.scores import neighbor_vote

# So that no logarithm is infinite.
_LEAST = np.finfo(np.float32).tiny


def evaluate(config: EvaluateConfig) -> dict:
    """Scores a run, or the bundle that `config.model` names, on labelled images.

    A run keeps the scores in metrics.json and the predictions in evaluation/; those of a bundle are
    written to `config.output_dir` if it is given.

    Args:
        config: the settings.

    Returns:
        `images`, `knn_top1`, `knn_neighbors`; if requested, `soft_neighbors_top1` and
        `soft_neighbors_temperature`; with a classifier `top1`, `top5` (from ten classes on),
        `balanced_accuracy`, `macro_f1`, `macro_roc_auc`, `mean_average_precision`, `ece`, `nll`,
        `confusion_matrix`, `per_class` (recalls), and `classes`, the scores of each class; with
        `dataset` also `dataset`, `fingerprint` and `bad_images`; `intervals`. If images have
        several classes, `knn_map` and the scores of `label_scores` instead. Shares in [0, 1]; nats;
        None if a score is undefined.

    Raises:
        UserError: if the model or the data cannot be used.
    """
    return evaluate_bundle(config) if config.model else evaluate_run(config)


@noting_interrupts()
def evaluate_bundle(config: EvaluateConfig) -> dict:
    """Scores a bundle on a data set: its classifier, and the k-NN vote of its index if it has one.

    If `config.output_dir` is given, the scores (metrics.json), the picture of the confusion matrix
    and the CSV files are written to a folder for the data set in it.

    Args:
        config: the settings, with `model` and `dataset`.

    Returns:
        As `evaluate_run` on another data set, and `model`: name and version. No more
        neighbours vote than the index gives; none if images have several classes.

    Raises:
        UserError: if the bundle is damaged, or the data cannot be used.
    """
    output = Path(config.output_dir)
    if not output.is_dir() and output.exists():
        raise UserError(f"output_dir is a file. Received: {output}. Give another directory.")
    bundle = load_bundle(newest_bundle(config.model))
    trained_on = bundle.metadata["settings"].get("pretrain", {}).get("dataset", "")
    scored = other_images(config, bundle.class_names, output, trained_on, bundle.multi_label)
    found = {"probabilities": [], "labels": [], "voted": []}
    for images, labels in _batches(bundle, scored.split, config.batch_size):
        classified = bundle.classify(images)
        found["probabilities"].append(classified["probabilities"])
        found["labels"].append(labels)
        if bundle.num_neighbors and not bundle.multi_label:
            found["voted"].append(_vote(bundle, classified["embeddings"], config.knn_neighbors))
    probabilities, labels = (np.concatenate(found[name]) for name in ("probabilities", "labels"))
    metrics = {"model": f"{bundle.name}/{bundle.version}", **scored.described}
    metrics["images"] = len(labels)
    if found["voted"]:
        metrics["knn_top1"] = float(np.mean(np.concatenate(found["voted"]) == labels))
        metrics["knn_neighbors"] = min(config.knn_neighbors, bundle.num_neighbors)
    logits = np.log(np.maximum(probabilities, _LEAST))
    if bundle.multi_label:
        logits -= np.log(np.maximum(1 - probabilities, _LEAST))
    metrics |= classifier_scores(logits, labels, bundle.class_names)
    metrics |= intervals(config, metrics, logits, labels)
    if config.output_dir:
        write_report(scored, logits, labels, metrics, bundle.class_names)
        write_json(scored.folder / "metrics.json", metrics)
    remark(metrics["classes"], bundle.multi_label)
    return metrics


def _batches(bundle: Bundle, split: Split, batch_size: int) -> Iterator[tuple]:
    """Batches of images as the bundle preprocesses them, float32 [b, S, S, 3], and labels [b]."""

    def decode(encoded):
        try:
            return bundle.decode(encoded)
        except InvalidImage as error:
            raise UserError(f"cannot read an image of {split.folder}: {error}") from error

    batches = split.records().batch(min(batch_size, split.num_examples))
    hidden = not sys.stderr.isatty()
    total = -(-split.num_examples // batch_size)
    shown = tqdm(batches.as_numpy_iterator(), "classifying", total, leave=False, disable=hidden)
    with naming_lost_images(split), ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for encoded, labels in shown:
            yield np.stack(list(pool.map(decode, encoded))), labels
            check_interrupts()


def _vote(bundle, embeddings, neighbors):
    """The class int [b] that the nearest images of the index vote for."""
    nearest = bundle.nearest(embeddings)
    cosines, labels = nearest["similarities"], nearest["neighbor_labels"]  # The nearest first.
    return neighbor_vote(cosines[:, :neighbors], labels[:, :neighbors], len(bundle.class_names))
