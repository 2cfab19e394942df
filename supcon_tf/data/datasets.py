"""Data sets by name, as streams of encoded images and labels.

TensorFlow Datasets' own, the embedded digits and folders all come out alike: `(encoded, label)`,
so that decoding happens in one place and shuffle buffers hold compressed bytes.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from supcon_tf.config import PretrainConfig
from supcon_tf.core.errors import StorageError, UserError
from supcon_tf.data import folder
from supcon_tf.data.splits import (
    DEFAULT_IMAGE_SIZE_PX,
    UNLABELED,
    ImageDataset,
    Split,
    hide_labels,
)
from supcon_tf.data.tfds import LONG_TAILED, open_tfds

FOLDER_PREFIX = "folder:"


def open_dataset(
    name: str,
    data_dir: str = "",
    *,
    image_size_px: int | None = None,
    holdout_fraction: float | None = None,
    seed: int = 0,
    validation_fraction: float = 0.0,
    skip_bad_images: bool = False,
    bad_images: Sequence[str] | None = None,
    labels_per_class: int | None = None,
    labelled_fraction: float | None = None,
    imbalance_factor: float | None = None,
) -> ImageDataset:
    """Opens a data set.

    Args:
        name: "digits", a name that TensorFlow Datasets knows (prepared, or downloaded now),
            "cifar10_lt" or "cifar100_lt" (of them a long-tailed part), or "folder:PATH".
        data_dir: where TensorFlow Datasets keeps its files; '' for its default.
        image_size_px: side of the square images to make; None for the data set's own, or 64.
        holdout_fraction: for a folder without train/ and test/: share of each class held out;
            None for 0.2.
        seed: seed of the validation set and, for a folder, of the hold-out.
        validation_fraction: share of the training images to set aside as `validation`; 0 for none.
        skip_bad_images: for a folder: leave unreadable images out rather than stop.
        bad_images: for a folder whose images were checked before: the files that were left out
            then. None checks every image.
        labels_per_class: training images of each class, drawn from the seed, whose labels may be
            used; the others become `unlabelled`. None for all.
        labelled_fraction: the same as a share in (0, 1] of each class.
        imbalance_factor: of a long-tailed data set: images of its largest class per image of its
            smallest, in training; None for 100. Which images they are depends on the seed.

    Returns:
        The data set; no image is in memory.

    Raises:
        UserError: if it is unknown, cannot be read, or has no images and labels.
    """
    size, fraction = image_size_px, validation_fraction
    if imbalance_factor is not None and name not in LONG_TAILED:
        raise UserError(
            f"imbalance_factor is for {', '.join(LONG_TAILED)}. Received: {imbalance_factor:g} "
            f"with dataset={name!r}. Leave it out."
        )
    if name.startswith(FOLDER_PREFIX):
        if data_dir:
            raise UserError(
                f"data_dir is for TensorFlow Datasets. Received: {data_dir!r}. Leave it out."
            )
        path = name.removeprefix(FOLDER_PREFIX)
        found = folder.read_folder(path, holdout_fraction, seed, skip_bad_images, bad_images)
        dataset = _open_folder(name, size, fraction, seed, *found)
        return hide_labels(dataset, labels_per_class, labelled_fraction, seed)
    for setting, given in (
        ("skip_bad_images", skip_bad_images or None),
        ("holdout_fraction", holdout_fraction),
    ):
        if given is not None:
            raise UserError(
                f"{setting} is for folder data sets. Received: {setting}={given} with dataset="
                f"{name!r}. Leave it out."
            )
    dataset = open_tfds(name, data_dir or None, size, fraction, seed, imbalance_factor)
    return hide_labels(dataset, labels_per_class, labelled_fraction, seed)


def from_config(config: PretrainConfig, bad_images: Sequence[str] | None = None) -> ImageDataset:
    """Opens the data set that a configuration names, as `open_dataset` does."""
    return open_dataset(
        config.dataset,
        config.data_dir,
        image_size_px=config.image_size_px,
        holdout_fraction=config.holdout_fraction,
        seed=config.seed,
        validation_fraction=config.validation_fraction,
        skip_bad_images=config.skip_bad_images,
        bad_images=bad_images,
        labels_per_class=config.labels_per_class,
        labelled_fraction=config.labelled_fraction,
        imbalance_factor=config.imbalance_factor,
    )


def _open_folder(
    name, image_size_px, validation_fraction, seed, class_names, splits, bad
) -> ImageDataset:
    path = name.removeprefix(FOLDER_PREFIX)
    if validation_fraction:
        splits["train"], splits["validation"] = folder.hold_out(
            path, splits["train"], validation_fraction, seed, "validation_fraction"
        )

    def split(examples):
        return folder_split(path, examples, class_names)

    unlabelled = splits.get(folder.UNLABELED_FOLDER) or None
    return ImageDataset(
        name=name,
        class_names=tuple(class_names),
        train=split(splits["train"]),
        test=split(splits["test"]),
        native_size_px=None,
        image_size_px=image_size_px or DEFAULT_IMAGE_SIZE_PX,
        bad_images=tuple(bad),
        validation=split(splits["validation"]) if validation_fraction else None,
        unlabelled=unlabelled and split(unlabelled),
        with_unlabelled=unlabelled and split([*splits["train"], *unlabelled]),
    )


def folder_split(
    path: str, examples: Sequence[folder.Example], class_names: Sequence[str]
) -> Split:
    """A split of image files.

    Args:
        path: the folder that the files' names are relative to.
        examples: file name and class name of each; '' for a class that is not known.
        class_names: name of each label.
    """
    index_of = {"": UNLABELED, **{label: index for index, label in enumerate(class_names)}}
    paths = [os.fsencode(Path(path) / file) for file, _ in examples]  # Names may be any bytes.
    labels = [index_of[label] for _, label in examples]
    return Split(
        num_examples=len(examples),
        elements=lambda seed: tf.data.Dataset.from_tensor_slices((paths, labels)),
        load=lambda file, label: (tf.io.read_file(file), label),
        shuffle_buffer=len(examples),
        fingerprint=folder.fingerprint(path, examples),
        names=tuple(file for file, _ in examples),
        folder=Path(path),
    )


@contextlib.contextmanager
def naming_lost_images(*splits: Split | None):
    """Names an image file that can no longer be read, where TensorFlow fails in the block.

    Args:
        splits: where the block's images come from.

    Raises:
        StorageError: if one of their files cannot be read; otherwise TensorFlow's own error.
    """
    try:
        yield
    except (  # What reading and decoding a file raise.
        tf.errors.NotFoundError,
        tf.errors.PermissionDeniedError,
        tf.errors.FailedPreconditionError,
        tf.errors.InvalidArgumentError,
        tf.errors.UnknownError,
    ) as error:
        for split in splits:
            root = split and split.folder
            bad = root and folder.check_images(root, [(name, "") for name in split.names])
            if bad:
                raise StorageError(
                    f"{folder.bad_images_line(root, bad)} It could be read before. Restore it, "
                    "then run this again; a training continues with --resume."
                ) from error
        raise
