"""Data sets by name, as streams of encoded images and labels.

TensorFlow Datasets' own, digits, Fashion-MNIST, folders and tables all come out in one form, as
`(encoded, label)`, so that decoding happens in one place and shuffle buffers hold compressed bytes.
"""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from supcon_tf.config import PretrainConfig
from supcon_tf.config.dataset_names import own_data
from supcon_tf.core.errors import StorageError, UserError
from supcon_tf.data.folder import list_folder
from supcon_tf.data.hidden_labels import hide_labels
from supcon_tf.data.holding_out import Example
from supcon_tf.data.image_checks import Copies, check_images, faults_line
from supcon_tf.data.image_files import HEIC_EXTENSIONS, decodable, is_heic
from supcon_tf.data.own_images import (
    UNLABELED_FOLDER,
    Listing,
    OwnImages,
    Splitting,
    check_and_split,
)
from supcon_tf.data.several_labels import classes_of, multi_hot
from supcon_tf.data.splits import (
    DEFAULT_IMAGE_SIZE_PX,
    UNLABELED,
    ImageDataset,
    Split,
)
from supcon_tf.data.table import read_table
from supcon_tf.data.tfds import LONG_TAILED, open_tfds


def open_dataset(
    name: str,
    data_dir: str = "",
    *,
    image_size_px: int | None = None,
    holdout_fraction: float | None = None,
    holdout_by: str = "image",
    seed: int = 0,
    validation_fraction: float = 0.0,
    skip_bad_images: bool = False,
    bad_images: Sequence[str] | None = None,
    copies: Copies | None = None,
    labels_per_class: int | None = None,
    labelled_fraction: float | None = None,
    imbalance_factor: float | None = None,
    train_images: int | None = None,
) -> ImageDataset:
    """Opens a data set.

    Args:
        name: "digits", "fashion_mnist" (its IDX files installed, or in `data_dir`), a name that
            TensorFlow Datasets knows (prepared, or downloaded now), "cifar10_lt" or "cifar100_lt"
            (long-tailed CIFAR subsets), "folder:PATH", or "csv:FILE" or "jsonl:FILE", tables
            with a path and one or several labels per row.
        data_dir: where TensorFlow Datasets keeps its files; '' for its default.
        image_size_px: side of the square images to make; None for the data set's own side, or 64.
        holdout_fraction: for a folder without train/ and test/ (here and below: or a table without
            a column split): share of each class held out; None for 0.2.
        holdout_by: for a folder: "image", or "folder" to keep the images of a subfolder below the
            class folders (of a table: of a group) together, in the hold-out and in the validation
            set.
        seed: seed of the validation set and, for a folder, of the hold-out.
        validation_fraction: share of the training images to set aside as `validation`; 0 for none.
        skip_bad_images: for a folder: leave unreadable images out rather than stop.
        bad_images: for a folder whose images were checked before: the files that were left out
            then. None checks every image.
        copies: for a folder: the groups of identical files that an earlier check found, which
            a split never separates. None for those that the check of the images finds.
        labels_per_class: training images of each class, drawn from the seed, whose labels may be
            used; the others become `unlabelled`. None for all.
        labelled_fraction: the same as a share in (0, 1] of each class.
        imbalance_factor: of a long-tailed data set: images of its largest class per image of its
            smallest, in training; None for 100. Which images they are depends on the seed.
        train_images: labelled training images to use, drawn from the seed so that each class keeps
            its share; the validation set is a part of them. None for all.

    Returns:
        The data set; no image has been decoded for it yet.

    Raises:
        UserError: if it is unknown, cannot be read, or has no images and labels.
    """
    how = Splitting(
        holdout_fraction=holdout_fraction,
        holdout_by=holdout_by,
        validation_fraction=validation_fraction,
        seed=seed,
        skip_bad_images=skip_bad_images,
        bad_images=bad_images,
        copies=copies,
        train_images=train_images,
    )
    if imbalance_factor is not None and name not in LONG_TAILED:
        raise UserError(
            f"imbalance_factor is for {', '.join(LONG_TAILED)}. Received: {imbalance_factor:g} "
            f"with dataset={name!r}. Leave it out."
        )
    if own_data(name):
        own = check_and_split(list_own(name, data_dir), how)
        dataset = _of_own_images(name, image_size_px, own)
    else:
        _refuse_settings_of_own_images(name, how)
        sizes = image_size_px, validation_fraction, seed, imbalance_factor, train_images
        dataset = open_tfds(name, data_dir or None, *sizes)
    return hide_labels(dataset, labels_per_class, labelled_fraction, seed)


def list_own(name: str, data_dir: str = "") -> Listing:
    """Lists a folder's or a table's images.

    Args:
        name: "folder:PATH", "csv:FILE" or "jsonl:FILE".
        data_dir: refused, as they lie elsewhere.

    Raises:
        UserError: if it cannot be read.
    """
    if data_dir:
        raise UserError(
            f"data_dir is for TensorFlow Datasets. Received: {data_dir!r}. Leave it out."
        )
    kind, path = own_data(name)
    return list_folder(path) if kind == "folder" else read_table(kind, path)


def _refuse_settings_of_own_images(name: str, how: Splitting) -> None:
    """Refuses settings that only folders and tables have."""
    for setting in ("skip_bad_images", "holdout_fraction", "holdout_by"):
        given = getattr(how, setting)
        if given != getattr(Splitting, setting):
            raise UserError(
                f"{setting} is for folder data sets and tables. Received: {setting}={given} with "
                f"dataset={name!r}. Leave it out."
            )


def from_config(
    config: PretrainConfig,
    bad_images: Sequence[str] | None = None,
    copies: Copies | None = None,
) -> ImageDataset:
    """Opens the data set that a configuration names, as `open_dataset` does."""
    return open_dataset(
        config.dataset,
        config.data_dir,
        image_size_px=config.image_size_px,
        holdout_fraction=config.holdout_fraction,
        holdout_by=config.holdout_by,
        seed=config.seed if config.data_seed is None else config.data_seed,
        validation_fraction=config.validation_fraction,
        skip_bad_images=config.skip_bad_images,
        bad_images=bad_images,
        copies=copies,
        labels_per_class=config.labels_per_class,
        labelled_fraction=config.labelled_fraction,
        imbalance_factor=config.imbalance_factor,
        train_images=config.train_images,
    )


def _of_own_images(name: str, image_size_px: int | None, own: OwnImages) -> ImageDataset:
    def split(examples):
        labels_too = not own.listing.labels_in_names
        return image_split(own.listing.root, examples, own.class_names, labels_too)

    validation, unlabelled = (own.splits.get(kind) for kind in ("validation", UNLABELED_FOLDER))
    return ImageDataset(
        name=name,
        class_names=tuple(own.class_names),
        train=split(own.splits["train"]),
        test=split(own.splits["test"]),
        native_size_px=None,
        image_size_px=image_size_px or DEFAULT_IMAGE_SIZE_PX,
        bad_images=tuple(own.bad_images),
        copies=tuple(map(tuple, own.copies)),
        remarks=tuple(own.remarks),
        validation=split(validation) if validation else None,
        unlabelled=split(unlabelled) if unlabelled else None,
        with_unlabelled=split([*own.splits["train"], *unlabelled]) if unlabelled else None,
        multi_label=own.listing.multi_label,
    )


def image_split(
    root: Path, examples: Sequence[Example], class_names: Sequence[str], labels_too: bool = False
) -> Split:
    """A split of image files.

    Args:
        root: the folder that the files' names are relative to.
        examples: file name and class name of each, '' for a class that is not known; or a tuple of
            names, if images have several classes.
        class_names: name of each label.
        labels_too: whether the fingerprint depends on the classes, not on the files alone.
    """
    paths = [os.fsencode(root / file) for file, _ in examples]  # Names may be any bytes.
    if isinstance(examples[0][1], str):
        index_of = {"": UNLABELED, **{label: index for index, label in enumerate(class_names)}}
        labels = [index_of[label] for _, label in examples]
    else:
        labels = multi_hot(examples, class_names)
    read = _read_any if any(is_heic(Path(file)) for file, _ in examples) else tf.io.read_file
    return Split(
        num_examples=len(examples),
        elements=lambda seed: tf.data.Dataset.from_tensor_slices((paths, labels)),
        load=lambda file, label: (read(file), label),
        shuffle_buffer=len(examples),
        fingerprint=_fingerprint(root, examples, labels_too),
        names=tuple(file for file, _ in examples),
        folder=root,
    )


def _read_any(file):
    """The content of an image file, scalar string; that of a HEIC file as PNG."""

    def read_heic(path):
        file = Path(os.fsdecode(path))
        return decodable(file.read_bytes(), file)

    ending = tf.strings.lower(tf.strings.substr(file, -5, 5))
    return tf.cond(
        tf.reduce_any(ending == [extension.encode() for extension in HEIC_EXTENSIONS]),
        lambda: tf.ensure_shape(
            tf.numpy_function(read_heic, [file], tf.string, stateful=False), []
        ),
        lambda: tf.io.read_file(file),
    )


def _fingerprint(root, examples, labels_too):
    """SHA-256 over the names and sizes of a split's files, and perhaps their classes."""
    digest = hashlib.sha256()
    for name, label in examples:
        try:
            size = os.path.getsize(root / name)
        except OSError as error:  # A table still names it.
            raise StorageError(
                f"cannot read image {root / name}: {error.strerror}. It could be read before. "
                "Restore it."
            ) from error
        line = f"{name}\0{size}" + f"\0{'|'.join(classes_of(label))}" * labels_too + "\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


@contextlib.contextmanager
def naming_lost_images(*splits: Split | None):
    """Names an image file that can no longer be read, if TensorFlow fails in the block.

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
            root = split.folder if split else None
            faults = check_images(root, split.names)[0] if root else {}
            if faults:
                it, they = ("it", "It") if len(faults) == 1 else ("them", "They")
                raise StorageError(
                    f"{faults_line(root, faults)} {they} could be read before. Restore {it}, then "
                    "run this again; training continues with --resume."
                ) from error
        raise
