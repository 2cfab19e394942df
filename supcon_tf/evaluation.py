"""Scores on the held-out split, or on the validation set."""

import sys
from collections.abc import Callable, Iterable

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from supcon_tf import pictures
from supcon_tf.calibration import negative_log_likelihood
from supcon_tf.config import EvaluateConfig
from supcon_tf.data.splits import Split
from supcon_tf.errors import UserError
from supcon_tf.runs import RunDirectory

_QUERY_BLOCK = 1024
# Top-k is reported where it says something: a guess among k of the classes is often right below.
_TOP_K, _TOP_K_FROM_CLASSES = 5, 10


def extract_features(
    encoder: keras.Model,
    split: Split,
    *,
    batch_size: int = 256,
    limit: int | None = None,
    progress: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Encodes a split as evaluation sees it, streaming.

    Args:
        encoder: a model from images [B, S, S, 3] to features [B, F].
        split: the split.
        batch_size: images a step.
        limit: at most so many images, drawn over the whole split.
        progress: title of a progress bar, shown on a terminal; '' for none.

    Returns:
        features float32 [N, F] and labels int32 [N], in the order of `Split.sample`.
    """
    return encode_split(
        inference_function(encoder),
        encoder.input_shape[1],
        split,
        batch_size=batch_size,
        limit=limit,
        progress=progress,
    )


def encode_split(
    encode: Callable[[tf.Tensor], tf.Tensor],
    image_size_px: int,
    split: Split,
    *,
    batch_size: int,
    limit: int | None = None,
    progress: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """As `extract_features`, with any function from images to features.

    Args:
        encode: from images float32 [B, S, S, 3] in [0, 1] to features [B, F].
        image_size_px: S.
        split: the split.
        batch_size: images a step.
        limit: as in `extract_features`.
        progress: as in `extract_features`.

    Returns:
        features float32 [N, F] and labels int32 [N], in the order of `Split.sample`.
    """
    batches = split.images(image_size_px, batch_size, limit)
    count = split.num_examples if limit is None else min(limit, split.num_examples)
    hidden = not progress or not sys.stderr.isatty()
    shown = tqdm(batches, progress, -(-count // batch_size), leave=False, disable=hidden)
    return encode_batches(encode, shown)


def encode_batches(
    encode: Callable[[tf.Tensor], tf.Tensor], batches: Iterable[tuple[tf.Tensor, tf.Tensor]]
) -> tuple[np.ndarray, np.ndarray]:
    """As `encode_split`, of the batches that `Split.images` makes.

    Args:
        encode: from images float32 [B, S, S, 3] in [0, 1] to features [B, F].
        batches: images and labels int32 [B].

    Returns:
        features float32 [N, F] and labels int32 [N], in their order.
    """
    found = [(encode(images).numpy(), labels.numpy()) for images, labels in batches]
    features, labels = zip(*found, strict=True)
    return np.concatenate(features), np.concatenate(labels)


def inference_function(model: keras.Model):
    """`model(images, training=False)` as one graph for any batch size."""
    signature = [tf.TensorSpec([None, *model.input_shape[1:]], tf.float32)]
    return tf.function(lambda images: model(images, training=False), input_signature=signature)


def knn_predict(
    train_features: np.ndarray, train_labels: np.ndarray, features: np.ndarray, neighbors: int
) -> np.ndarray:
    """Classifies by the vote of the nearest training features in cosine similarity.

    Each neighbour votes with exp(cosine / 0.07), as is customary for frozen features.

    Args:
        train_features: float [N, F].
        train_labels: int [N].
        features: float [M, F].
        neighbors: voters; at most N.

    Returns:
        int [M], the class with the most weight; the lowest id where classes tie.

    Raises:
        ValueError: if `neighbors` is below 1 or above N.

    Reference:
        Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance
        Discrimination", section 3.4.
    """
    if not 1 <= neighbors <= len(train_labels):
        raise ValueError(f"neighbors must be from 1 to {len(train_labels)}. Received: {neighbors}.")
    gallery = unit_rows(train_features)
    votes = np.eye(int(train_labels.max()) + 1, dtype=np.float32)[train_labels]  # [N, C]
    predictions = []
    for start in range(0, len(features), _QUERY_BLOCK):
        similarity = unit_rows(features[start : start + _QUERY_BLOCK]) @ gallery.T  # [block, N]
        nearest = np.argpartition(-similarity, neighbors - 1, axis=1)[:, :neighbors]
        weights = np.exp((np.take_along_axis(similarity, nearest, axis=1) - 1.0) / 0.07)
        predictions.append((weights[:, :, None] * votes[nearest]).sum(axis=1).argmax(axis=1))
    return np.concatenate(predictions)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows [N, F] scaled to unit norm, float32; a row of zeros stays."""
    rows = np.asarray(rows, np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of rows whose label is among the k highest scores.

    A label that ties with another class counts as ranked behind it, so equal scores earn nothing.

    Args:
        scores: float [N, C].
        labels: int [N].
        k: at least 1.

    Returns:
        A share in [0, 1].
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    return float(np.mean(np.sum(scores >= own, axis=1) <= k))


def confusion_matrix(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts by true class (rows) and predicted class (columns), int64 [C, C]."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return counts


def evaluate(config: EvaluateConfig) -> dict:
    """Scores a run on a split: k-NN, and the classifier where there is one.

    Writes the scores to metrics.json under "test" or "validation", and the confusion matrix as a
    picture.

    Args:
        config: the settings.

    Returns:
        `images`, `knn_top1`, `knn_neighbors` and, with a classifier, `top1`, `top5` (from ten
        classes on), `per_class`, `confusion_matrix` and `nll`. Shares in [0, 1]; nats.

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
            f"knn_neighbors must be at most the {dataset.train.num_examples} training images. "
            f"Received: {config.knn_neighbors}."
        )
    has_classifier = (run.path / "classifier.keras").exists()
    encoder = run.load_model("encoder")
    model = run.load_model("classifier") if has_classifier else None

    def features(split, title):
        return extract_features(encoder, split, batch_size=config.batch_size, progress=title)

    train_features, train_labels = features(dataset.train, "training features")
    split_features, labels = features(split, f"{config.split} features")
    voted = knn_predict(train_features, train_labels, split_features, config.knn_neighbors)
    metrics = {
        "images": len(labels),
        "knn_top1": float(np.mean(voted == labels)),
        "knn_neighbors": config.knn_neighbors,
    }
    if model is not None:
        logits = model.get_layer("logits")(split_features).numpy()
        metrics |= classification_scores(logits, labels, dataset.class_names)
        metrics["nll"] = negative_log_likelihood(logits, labels)
        suffix = "" if config.split == "test" else f"_{config.split}"
        pictures.confusion(
            np.array(metrics["confusion_matrix"]),
            dataset.class_names,
            run.pictures / f"confusion_matrix{suffix}.png",
        )
    run.record(config.split, metrics)
    return metrics


def classification_scores(scores, labels, class_names) -> dict:
    """Top-1, top-5 where it makes sense, accuracy of each class and the confusion matrix.

    Args:
        scores: float [N, C], logits or probabilities.
        labels: int [N].
        class_names: C names.

    Returns:
        A dict ready for JSON; a class without images has accuracy None.
    """
    counts = confusion_matrix(scores.argmax(axis=1), labels, len(class_names))
    totals = counts.sum(axis=1)
    metrics = {"top1": float(np.mean(scores.argmax(axis=1) == labels))}
    if len(class_names) >= _TOP_K_FROM_CLASSES:
        metrics[f"top{_TOP_K}"] = top_k_accuracy(scores, labels, _TOP_K)
    metrics["per_class"] = {
        name: float(counts[index, index] / totals[index]) if totals[index] else None
        for index, name in enumerate(class_names)
    }
    metrics["confusion_matrix"] = counts.tolist()
    return metrics
