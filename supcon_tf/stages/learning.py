"""Judges by k-NN on validation images whether an encoder is learning.

"learning": more validation images are classified correctly than before training, and than by always
naming the largest class, by more than two standard errors. "not learning": no more than by the
better of those two. "undecided": in between.
"""

import dataclasses
import math
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from supcon_tf.config import PretrainConfig
from supcon_tf.data.balance import class_counts
from supcon_tf.data.datasets import naming_lost_images
from supcon_tf.data.splits import ImageDataset
from supcon_tf.engine.saving import History
from supcon_tf.networks.initial import initial_weights
from supcon_tf.stages.building import encoder_of
from supcon_tf.stages.features import encode_batches, inference_function
from supcon_tf.stages.label_scores import (
    headline,
    mean_average_precision,
    neighbor_label_scores,
)
from supcon_tf.stages.scores import knn_predict

# Training images searched, validation images scored, and neighbours that vote.
_GALLERY, _QUERIES, _NEIGHBORS = 5000, 2000, 10
# Each set of images is decoded once and kept in memory up to this many bytes as float32.
_BATCH, _CACHED_BYTES = 256, 2**27
# Labels of more images are not counted, since that might take minutes.
_MANY_IMAGES = 100_000


def describe_data(dataset: ImageDataset) -> str:
    """One line on the images and classes, with the smallest class."""
    train, classes = dataset.train, len(dataset.class_names)
    parts = [f"data: {train.num_examples:,} training images of {classes:,} classes"]
    if train.num_examples <= _MANY_IMAGES:
        counts = class_counts(train.labels(), classes)
        least = counts.argmin()
        each = f"{counts.sum() / train.num_examples:.2f} per image, " * dataset.multi_label
        smallest = f"smallest: {dataset.class_names[least]!r} with {counts[least]:,}"
        parts[0] += f" ({each}{smallest})"
    if dataset.unlabelled:
        parts.append(f"{dataset.unlabelled.num_examples:,} unlabelled")
    aside = dataset.validation
    parts.append(f"{aside.num_examples:,} for validation" if aside else "none for validation")
    parts.append(f"{dataset.test.num_examples:,} held out")
    advice = "" if aside else "; --validation_fraction=0.1 would show whether the encoder learns"
    return ", ".join(parts) + advice


class OnlineKnn:
    """Scores encoders by k-NN on the validation images; the training images vote.

    Args:
        dataset: with validation images.
    """

    def __init__(self, dataset: ImageDataset):
        def images(split, limit):
            size = dataset.image_size_px
            batches = split.images(size, _BATCH, limit)
            small = min(split.num_examples, limit) * size**2 * 12 <= _CACHED_BYTES
            return batches.cache() if small else batches

        self.metric = f"knn_{headline(dataset.multi_label)}"
        self.gallery_images = images(dataset.train, _GALLERY)
        self.query_images = images(dataset.validation, _QUERIES)

    def __call__(self, encode: Callable[[tf.Tensor], tf.Tensor]) -> tuple[float, np.ndarray]:
        """The score of an encoder, in [0, 1], and the labels of the scored images.

        It is the top-1, or the mean average precision if images have several classes.

        Args:
            encode: from images float32 [B, S, S, 3] in [0, 1] to features [B, F].
        """
        gallery, labels = encode_batches(encode, self.gallery_images)
        queries, truth = encode_batches(encode, self.query_images)
        neighbors = min(_NEIGHBORS, len(labels))
        if labels.ndim == 2:
            votes = neighbor_label_scores(gallery, labels, queries, neighbors)
            return mean_average_precision(votes, truth), truth
        voted = knn_predict(gallery, labels, queries, neighbors)
        return float(np.mean(voted == truth)), truth

    def after_epochs(self, config: PretrainConfig, encoder: keras.Model) -> Callable[[int], dict]:
        """A function from an epoch, counted from 0, to its score; None if none is due.

        Args:
            config: gives `epochs` and `validation_epochs`.
            encoder: the encoder in training, in the form in which it is evaluated.
        """
        encode = inference_function(encoder)

        def measure(epoch):
            due = (epoch + 1) % config.validation_epochs == 0 or epoch + 1 == config.epochs
            return {self.metric: self(encode)[0] if due else None}

        return measure


@dataclasses.dataclass(frozen=True)
class Baseline:
    """The scores that training has to exceed.

    Attributes:
        untrained: k-NN top-1 of the encoder before training.
        largest_class: share of the largest class among the validation images.
        images: number of validation images that are scored.
    """

    untrained: float
    largest_class: float
    images: int

    def verdict(self, top1: float) -> str:
        """The verdict on a k-NN top-1: "learning", "not learning" or "undecided"."""
        floor = max(self.untrained, self.largest_class)
        standard_error = math.sqrt(floor * (1 - floor) / self.images)
        if top1 > floor + 2 * standard_error:
            return "learning"
        return "not learning" if top1 <= floor and top1 < 1 else "undecided"

    def sentence(self, top1: float) -> str:
        """The verdict and the scores behind it."""
        return (
            f"{self.verdict(top1)}: k-NN {100 * top1:.1f} % of {self.images:,} validation images, "
            f"{100 * self.untrained:.1f} % before training, {100 * self.largest_class:.1f} % by "
            "always naming the largest class"
        )

    def scores(self, top1: float) -> dict:
        """The verdict and the baseline, as in metrics.json."""
        return {
            "verdict": self.verdict(top1),
            "untrained_knn_top1": self.untrained,
            "largest_class": self.largest_class,
        }

    def news(self, history: History, epochs: int) -> str | None:
        """News from the last epoch, if any: learning, or, halfway through, not learning.

        Args:
            history: the curves so far, with `knn_top1`.
            epochs: epochs in all.
        """
        scores = history["knn_top1"]
        if scores[-1] is None or len(scores) == epochs:
            return None
        verdicts = [self.verdict(score) for score in scores if score is not None]
        late = [score for score in scores[(epochs - 1) // 2 :] if score is not None]
        first = "learning" not in verdicts[:-1]
        if first and verdicts[-1] == "learning":
            return self.sentence(scores[-1])
        if first and verdicts[-1] == "not learning" and len(late) == 1:
            advice = "check the images' folders, or try another --learning_rate or --augmentation"
            return f"{self.sentence(scores[-1])}; {advice}"
        return None


def measure_baseline(
    config: PretrainConfig, dataset: ImageDataset, knn: OnlineKnn
) -> Baseline | None:
    """The baseline of a run, from its encoder before training.

    None if images have several classes: the verdict rests on the standard error of a proportion of
    images, and the mean average precision is not one.
    """
    if dataset.multi_label:
        return None
    with initial_weights(config.seed):
        untrained = encoder_of(config, dataset.image_size_px)
    with naming_lost_images(dataset.train, dataset.validation):
        top1, labels = knn(inference_function(untrained))
    largest = np.unique(labels, return_counts=True)[1].max() / len(labels)
    return Baseline(top1, float(largest), len(labels))
