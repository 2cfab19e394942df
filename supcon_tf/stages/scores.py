"""Scores of predictions: votes of neighbours, top-k, by class, likelihood, calibration."""

import functools
from collections.abc import Callable, Iterator

import numpy as np
from scipy.special import log_softmax

# Similarities held at a time: 32 MiB in float32, and twice that for the order of each row.
_BLOCK_ELEMENTS = 2**23
# Top-k is reported from this many classes on: with fewer, a guess among k is often right.
_TOP_K, _TOP_K_FROM_CLASSES = 5, 10
# Bins of confidence in the calibration error.
_BINS = 15
_VOTE_TEMPERATURE = 0.07


def knn_predict(
    train_features: np.ndarray, train_labels: np.ndarray, features: np.ndarray, neighbors: int
) -> np.ndarray:
    """Classifies by the vote of the nearest training features in cosine similarity.

    Each neighbour votes with exp(cosine / 0.07), as is customary for frozen features. Takes about
    200 MiB in addition to a float32 copy of the training features, whatever the number of classes.

    Args:
        train_features: float [N, F].
        train_labels: int [N]; any ids.
        features: float [M, F].
        neighbors: number of neighbours that vote; at most N.

    Returns:
        int [M], the class with the most weight; the lowest id if classes tie.

    Raises:
        ValueError: if `neighbors` is below 1 or above N.

    Reference:
        Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance
        Discrimination", section 3.4.
    """
    if not 1 <= neighbors <= len(train_labels):
        raise ValueError(f"neighbors must be from 1 to {len(train_labels)}. Received: {neighbors}.")
    vote = functools.partial(_nearest_vote, neighbors=neighbors)
    return _classify(train_features, train_labels, features, vote)


def soft_neighbor_predict(
    gallery: np.ndarray, labels: np.ndarray, queries: np.ndarray, temperature: float
) -> np.ndarray:
    """Classifies by soft nearest neighbours: all of the gallery votes.

    With unit rows g_i of the gallery and q of the queries, the most probable class c in

        p(c | q) = sum_{i: y_i = c} exp(q . g_i / temperature) / sum_i exp(q . g_i / temperature)

    Takes about 100 MiB in addition to a float32 copy of the gallery, whatever the number of
    classes.

    Args:
        gallery: float [N, F].
        labels: int [N]; any ids.
        queries: float [M, F].
        temperature: float > 0, dimensionless.

    Returns:
        int [M], the most probable class; the lowest id if classes tie.

    Raises:
        ValueError: if `temperature` is not above 0.

    Reference:
        Assran et al. 2020, "Supervision Accelerates Pre-training in Contrastive Semi-Supervised
        Learning of Visual Representations" (the non-parametric classifier that SuNCEt trains).
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0. Received: {temperature}.")
    vote = functools.partial(_soft_vote, temperature=temperature)
    return _classify(gallery, labels, queries, vote)


def _classify(gallery, labels, queries, vote: Callable):
    """The class int [M] that wins the vote of the gallery for each query, in blocks of queries."""
    gallery = unit_rows(gallery)
    ids, places = np.unique(labels, return_inverse=True)  # Ascending ids, and their places.
    block = max(1, _BLOCK_ELEMENTS // len(gallery))
    winners = [
        vote(unit_rows(queries[start : start + block]), gallery, places, len(ids))
        for start in range(0, len(queries), block)
    ]
    return ids[np.concatenate(winners)]


def _nearest_vote(queries, gallery, places, num_classes, neighbors):
    """The place int [m] of the class with the most weight, for unit-norm queries [m, F]."""
    cosines, nearest = _nearest(queries, gallery, neighbors)
    return neighbor_vote(cosines, places[nearest], num_classes)


def _nearest(queries, gallery, neighbors):
    """Cosines [m, k] with the nearest rows of a gallery, and their places int [m, k]."""
    opposite = -queries @ gallery.T  # [m, N]; negative cosines, of which the least are the nearest.
    nearest = np.argpartition(opposite, neighbors - 1, axis=1)[:, :neighbors]
    return -np.take_along_axis(opposite, nearest, axis=1), nearest


def neighbor_weights(
    gallery: np.ndarray, queries: np.ndarray, neighbors: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The nearest rows of each query and the weights of their votes, as in `knn_predict`.

    Args:
        gallery: float [N, F].
        queries: float [M, F].
        neighbors: k, at most N.

    Returns:
        For blocks of queries: exp((cosine - 1) / 0.07) [m, k], and places in the gallery [m, k].
    """
    gallery = unit_rows(gallery)
    block = max(1, _BLOCK_ELEMENTS // len(gallery))
    for start in range(0, len(queries), block):
        cosines, nearest = _nearest(unit_rows(queries[start : start + block]), gallery, neighbors)
        yield np.exp((cosines - 1.0) / _VOTE_TEMPERATURE), nearest


def neighbor_vote(cosines: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The class with the most weight among neighbours that vote with exp(cosine / 0.07).

    Args:
        cosines: float [m, k].
        labels: int [m, k], each below `num_classes`.
        num_classes: C.

    Returns:
        int [m]; the lowest label if classes tie.
    """
    # In float32: identical rows may differ in a cosine's last digit, and should still tie.
    votes = np.zeros((len(labels), num_classes), np.float32)
    np.add.at(
        votes,
        (np.arange(len(labels))[:, None], labels),
        np.exp((cosines - 1.0) / _VOTE_TEMPERATURE),
    )
    return votes.argmax(axis=1)


def _soft_vote(queries, gallery, places, num_classes, temperature):
    """As `_nearest_vote`, by the whole gallery; the common denominator is left out."""
    similarities = queries @ gallery.T  # [m, N]
    weights = np.exp((similarities - similarities.max(axis=1, keepdims=True)) / temperature)
    return np.array([np.bincount(places, row, num_classes).argmax() for row in weights])


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


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -log p(label), in nats.

    Args:
        logits: float [N, C].
        labels: int [N].
    """
    likelihood = log_softmax(np.asarray(logits, np.float64), axis=1)
    return float(-np.take_along_axis(likelihood, labels[:, None], axis=1).mean())


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean gap between confidence and accuracy over 15 bins of equal width, weighted by their size.

    Args:
        probabilities: float [N, C].
        labels: int [N].

    Returns:
        A share in [0, 1].

    Reference:
        Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 3.
    """
    return calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)


def calibration_error(confidence: np.ndarray, hits: np.ndarray) -> float:
    """As `expected_calibration_error`, from confidences and hits.

    Args:
        confidence: float [N], the largest probability of each.
        hits: bool [N], or 0 and 1: whether it is right.
    """
    bins = np.minimum(np.ceil(confidence * _BINS).astype(int) - 1, _BINS - 1)
    return float(np.abs(np.bincount(bins, hits - confidence, _BINS)).sum() / len(hits))


def classification_scores(scores, labels, class_names) -> dict:
    """Top-1, top-5 if it makes sense, accuracy of each class and the confusion matrix.

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
