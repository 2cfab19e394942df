"""Features of a split, as evaluation sees its images."""

import sys
from collections.abc import Callable, Iterable

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from supcon_tf.data.datasets import naming_lost_images
from supcon_tf.data.splits import Split


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
        batch_size: images per step.
        limit: at most this many images, drawn from the whole split.
        progress: title of a progress bar, shown on a terminal; '' for none.

    Returns:
        features float32 [N, F] and labels int64 [N] or, with several classes per image, bool
        [N, C], in the order of `Split.sample`.
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
        batch_size: images per step.
        limit: as in `extract_features`.
        progress: as in `extract_features`.

    Returns:
        features float32 [N, F] and labels int64 [N] or, with several classes per image, bool
        [N, C], in the order of `Split.sample`.
    """
    batches = split.images(image_size_px, batch_size, limit)
    count = split.num_examples if limit is None else min(limit, split.num_examples)
    hidden = not progress or not sys.stderr.isatty()
    shown = tqdm(batches, progress, -(-count // batch_size), leave=False, disable=hidden)
    with naming_lost_images(split):
        return encode_batches(encode, shown)


def encode_batches(
    encode: Callable[[tf.Tensor], tf.Tensor], batches: Iterable[tuple[tf.Tensor, tf.Tensor]]
) -> tuple[np.ndarray, np.ndarray]:
    """As `encode_split`, for the batches that `Split.images` makes.

    Args:
        encode: from images float32 [B, S, S, 3] in [0, 1] to features [B, F].
        batches: images and labels, int64 [B] or bool [B, C].

    Returns:
        features float32 [N, F] and labels int64 [N] or bool [N, C], in their order.
    """
    found = [(encode(images).numpy(), labels.numpy()) for images, labels in batches]
    features, labels = zip(*found, strict=True)
    return np.concatenate(features), np.concatenate(labels)


def inference_function(model: keras.Model):
    """`model(images, training=False)` as one graph for any batch size."""
    signature = [tf.TensorSpec([None, *model.input_shape[1:]], tf.float32)]
    return tf.function(
        lambda images: model(images, training=False), input_signature=signature, autograph=False
    )
