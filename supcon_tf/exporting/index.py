"""Index of training images in a bundle: their embeddings, names and thumbnails."""

import csv
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from supcon_tf.data.graphs import as_written
from supcon_tf.data.images import decode, preprocess
from supcon_tf.data.splits import Split
from supcon_tf.exporting.layout import INDEX_IMAGES, THUMBNAILS
from supcon_tf.exporting.servable import Index
from supcon_tf.stages.label_scores import joined
from supcon_tf.stages.scores import unit_rows

MAX_THUMBNAIL_PX = 64
_JPEG_QUALITY = 90
_REFERENCE_IMAGES, _BLOCK = 2000, 256


def build_index(
    features: np.ndarray,
    labels: np.ndarray,
    neighbors: int,
    unseen: np.ndarray | None = None,
    class_names: Sequence[str] = (),
) -> Index:
    """An index over training images.

    Args:
        features: float [N, F].
        labels: int [N]; or bool [N, C] for several classes per image: the index then has a label
            for each set of classes.
        neighbors: k of later queries; N if there are fewer images.
        unseen: features float [M, F] of images of the same distribution that were not trained on;
            None takes the training images, each against the others.
        class_names: C names, for the sets of classes.
    """
    names = None
    if labels.ndim == 2:
        sets, labels = np.unique(labels, axis=0, return_inverse=True)
        labels, names = labels.reshape(-1), [joined(class_names, shown) for shown in sets]
    gallery = unit_rows(features)
    k = min(neighbors, len(gallery) - (unseen is None)) or 1
    own = None
    if unseen is None:
        own = np.unique(np.linspace(0, len(gallery) - 1, _REFERENCE_IMAGES).astype(int))
        unseen = features[own]
    distances = _kth_distances(unit_rows(unseen), gallery, k, own)
    neighbors = min(neighbors, len(gallery))
    return Index(gallery, labels.astype(np.int32), np.sort(distances), neighbors, names)


def index_scores(index: Index, features: np.ndarray) -> dict:
    """Scores of an index on held-out images.

    Args:
        index: the index.
        features: float [M, F] of the held-out images.

    Returns:
        `images` of the index, and `held_out_above_0.95`, the share of held-out images whose
        out-of-distribution score is above 0.95.
    """
    distances = _kth_distances(unit_rows(features), index.embeddings, index.neighbors)
    rank = np.searchsorted(index.distances, distances) / len(index.distances)
    return {"images": len(index.labels), "held_out_above_0.95": float(np.mean(rank > 0.95))}


def _kth_distances(queries, gallery, k, own=None):
    """1 - cosine to the k-th neighbour, float32 [M]; `own` [M] are rows of the gallery to skip."""
    found = []
    for start in range(0, len(queries), _BLOCK):
        cosines = queries[start : start + _BLOCK] @ gallery.T  # [block, N]
        if own is not None and len(gallery) > 1:
            cosines[np.arange(len(cosines)), own[start : start + _BLOCK]] = -np.inf
        found.append(1 - np.partition(cosines, -k, axis=1)[:, -k])
    return np.concatenate(found).astype(np.float32)


def write_index_images(
    bundle: Path,
    split: Split,
    class_names,
    image_size_px: int,
    thumbnails: bool,
    first_row: int = 0,
) -> None:
    """Adds the images of a split to a bundle's index/images.csv and index/thumbnails.zip.

    Args:
        bundle: the folder that is being written.
        split: named images, in the order of the index.
        class_names: name of each label.
        image_size_px: side of the images that the encoder takes.
        thumbnails: whether to write pictures; their sides are at most 64 pixels.
        first_row: row of the first image.
    """
    (bundle / INDEX_IMAGES).parent.mkdir(exist_ok=True)
    with open(bundle / INDEX_IMAGES, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if not first_row:
            writer.writerow(["row", "id", "class"])
        for row, (name, label) in enumerate(zip(split.names, split.labels(), strict=True)):
            printable = name.encode("utf-8", "backslashreplace").decode()
            of_image = joined(class_names, label) if label.ndim else class_names[label]
            writer.writerow([first_row + row, printable, of_image])
    if thumbnails:
        _write_thumbnails(bundle, split, min(image_size_px, MAX_THUMBNAIL_PX), first_row)


def _write_thumbnails(bundle, split, side, first_row):
    pictures = split.records().map(
        as_written(lambda encoded, label: _thumbnail(encoded, side)),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    shown = tqdm(
        pictures.prefetch(tf.data.AUTOTUNE).as_numpy_iterator(),
        "thumbnails",
        split.num_examples,
        leave=False,
        disable=not sys.stderr.isatty(),
    )
    with zipfile.ZipFile(bundle / THUMBNAILS, "a") as archive:
        for row, jpeg in enumerate(shown, first_row):
            archive.writestr(zipfile.ZipInfo(f"{row}.jpg"), jpeg)  # Stored, at a fixed date.


def _thumbnail(encoded, side):
    pixels = tf.cast(tf.round(preprocess(decode(encoded), side) * 255), tf.uint8)
    return tf.io.encode_jpeg(pixels, quality=_JPEG_QUALITY, chroma_downsampling=False)
