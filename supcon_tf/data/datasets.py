"""Data sets by name, as streams of encoded images and labels.

TensorFlow Datasets' own, the embedded digits and folders all come out alike: `(encoded, label)`,
so that decoding happens in one place and shuffle buffers hold compressed bytes.
"""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf
import tensorflow_datasets as tfds

from supcon_tf.config import PretrainConfig
from supcon_tf.core.errors import UserError
from supcon_tf.data import digits, folder
from supcon_tf.data.splits import Split

FOLDER_PREFIX = "folder:"
DEFAULT_IMAGE_SIZE_PX = 64
_SHUFFLE_BYTES = 256 * 2**20


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """A data set with a training and a held-out split.

    Attributes:
        name: as the user gave it.
        class_names: name of each label.
        train: split to learn from.
        test: held-out split.
        native_size_px: side of its square images, or None where sizes differ.
        image_size_px: side of the square images that are made of them.
        bad_images: files left out because they could not be read.
        validation: split taken from the training images to watch the training on; None for none.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    native_size_px: int | None
    image_size_px: int
    bad_images: tuple[str, ...] = ()
    validation: Split | None = None

    def describe(self) -> dict:
        """What a run's manifest keeps of the data set."""
        return {
            "name": self.name,
            "class_names": list(self.class_names),
            "train": {"examples": self.train.num_examples, "fingerprint": self.train.fingerprint},
            "test": {"examples": self.test.num_examples, "fingerprint": self.test.fingerprint},
            "bad_images": list(self.bad_images),
        }


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
) -> ImageDataset:
    """Opens a data set.

    Args:
        name: "digits", a name that TensorFlow Datasets knows (prepared, or downloaded now), or
            "folder:PATH".
        data_dir: where TensorFlow Datasets keeps its files; '' for its default.
        image_size_px: side of the square images to make; None for the data set's own, or 64.
        holdout_fraction: for a folder without train/ and test/: share of each class held out;
            None for 0.2.
        seed: for a folder: seed of the hold-out and of the validation set.
        validation_fraction: share of the training images to set aside as `validation`; 0 for none.
        skip_bad_images: for a folder: leave unreadable images out rather than stop.
        bad_images: for a folder whose images were checked before: the files that were left out
            then. None checks every image.

    Returns:
        The data set; no image is in memory.

    Raises:
        UserError: if it is unknown, cannot be read, or has no images and labels.
    """
    if name.startswith(FOLDER_PREFIX):
        if data_dir:
            raise UserError(
                f"data_dir is for TensorFlow Datasets. Received: {data_dir!r}. Leave it out."
            )
        path = name.removeprefix(FOLDER_PREFIX)
        found = folder.read_folder(path, holdout_fraction, seed, skip_bad_images, bad_images)
        return _open_folder(name, image_size_px, validation_fraction, seed, *found)
    for setting, given in (
        ("skip_bad_images", skip_bad_images or None),
        ("holdout_fraction", holdout_fraction),
    ):
        if given is not None:
            raise UserError(
                f"{setting} is for folder data sets. Received: {setting}={given} with dataset="
                f"{name!r}. Leave it out."
            )
    return _open_tfds(name, data_dir or None, image_size_px, validation_fraction)


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

    return ImageDataset(
        name=name,
        class_names=tuple(class_names),
        train=split(splits["train"]),
        test=split(splits["test"]),
        native_size_px=None,
        image_size_px=image_size_px or DEFAULT_IMAGE_SIZE_PX,
        bad_images=tuple(bad),
        validation=split(splits["validation"]) if validation_fraction else None,
    )


def folder_split(
    path: str, examples: Sequence[folder.Example], class_names: Sequence[str]
) -> Split:
    """A split of image files.

    Args:
        path: the folder that the files' names are relative to.
        examples: file name and class name of each.
        class_names: name of each label.
    """
    index_of = {label: index for index, label in enumerate(class_names)}
    paths = [str(Path(path) / file) for file, _ in examples]
    labels = [index_of[label] for _, label in examples]
    return Split(
        num_examples=len(examples),
        elements=lambda seed: tf.data.Dataset.from_tensor_slices((paths, labels)),
        load=lambda file, label: (tf.io.read_file(file), label),
        shuffle_buffer=len(examples),
        fingerprint=folder.fingerprint(path, examples),
        names=tuple(file for file, _ in examples),
    )


def _open_tfds(
    name: str, data_dir: str | None, image_size_px: int | None, validation_fraction: float
) -> ImageDataset:
    builder = digits.prepare(data_dir) if name == "digits" else _prepared_builder(name, data_dir)
    image, label = _check_features(name, builder)
    splits = builder.info.splits
    held_out = [split for split in ("test", "validation") if split in splits]
    if "train" not in splits or not held_out:
        raise UserError(
            f"dataset must have the splits train and test (or validation). Received: {name!r}, "
            f"with {', '.join(splits)}."
        )
    # Competitions publish test images without labels (-1); their validation split has them.
    labelled = [split for split in held_out if _has_labels(_tfds_split(builder, split))]
    if not labelled:
        raise UserError(f"dataset must have a labelled held-out split. Received: {name!r}.")
    height, width = image.shape[:2]
    native = height if height and height == width else None
    total = splits["train"].num_examples
    kept = total - round(validation_fraction * total)
    if validation_fraction and kept in (0, total):
        raise UserError(
            f"validation_fraction leaves no image on one side of {total}. Received: "
            f"{validation_fraction}."
        )
    return ImageDataset(
        name=name,
        class_names=tuple(label.names),
        train=_tfds_split(builder, f"train[:{kept}]" if validation_fraction else "train"),
        test=_tfds_split(builder, labelled[0]),
        native_size_px=native,
        image_size_px=image_size_px or native or DEFAULT_IMAGE_SIZE_PX,
        # Prepared data sets are stored in a random order.
        validation=_tfds_split(builder, f"train[{kept}:]") if validation_fraction else None,
    )


def _check_features(name, builder):
    """The features of images and labels."""
    features = dict(builder.info.features)
    image, label = (features.get(key) for key in ("image", "label"))
    if not isinstance(image, tfds.features.Image) or not isinstance(
        label, tfds.features.ClassLabel
    ):
        raise UserError(
            f"dataset must have an image and a class label. Received: {name!r}, with "
            f"{', '.join(features)}. Choose an image classification data set."
        )
    return image, label


def _prepared_builder(name, data_dir):
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except AssertionError as error:  # An unknown version or configuration of a known name.
        reason = " ".join(str(error).split())
        raise UserError(f"dataset {name!r} cannot be used: {reason}") from error
    except (tfds.core.DatasetNotFoundError, ValueError, ImportError) as error:
        known = ["digits", *tfds.list_builders(with_community_datasets=False)]
        close = difflib.get_close_matches(name, known, n=1)
        advice = (
            f"Did you mean {close[0]!r}?" if close else "Give digits, cifar10, folder:PATH, ..."
        )
        raise UserError(f"dataset is unknown. Received: {name!r}. {advice}") from error
    _check_features(name, builder)
    if not builder.is_prepared():
        print(f"{name} is not prepared under {builder.data_dir}; downloading it.", flush=True)
        try:
            builder.download_and_prepare()
        except Exception as error:  # Whatever a builder's own script raises.
            reason = str(error).strip().splitlines()
            raise UserError(
                f"dataset {name!r} could not be prepared under {builder.data_dir}: "
                f"{reason[0] if reason else type(error).__name__}. Prepare it there, or pass the "
                "directory that holds it as --data_dir."
            ) from error
    return builder


def _has_labels(split: Split) -> bool:
    return all(int(label) >= 0 for _, label in split.records().take(1))


def _tfds_split(builder, name) -> Split:
    info = builder.info.splits[name]

    def elements(seed):
        examples = builder.as_dataset(
            split=name,
            shuffle_files=seed is not None,
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(try_autocache=False, shuffle_seed=seed),
        )
        return examples.map(lambda example: (example["image"], example["label"]))

    whole = builder.info.splits[name.partition("[")[0]]
    average_bytes = max(1, whole.num_bytes // max(1, whole.num_examples))
    content = {"name": builder.info.full_name, "split": name, "shards": whole.shard_lengths}
    return Split(
        num_examples=info.num_examples,
        elements=elements,
        load=lambda encoded, label: (encoded, label),
        shuffle_buffer=min(info.num_examples, max(1000, _SHUFFLE_BYTES // average_bytes)),
        fingerprint=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
    )
