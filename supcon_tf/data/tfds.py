"""Data sets of TensorFlow Datasets: splits, a validation set, preparation."""

import hashlib
import json

import numpy as np
import tensorflow_datasets as tfds
from sklearn.model_selection import train_test_split

from supcon_tf.config.dataset_names import own_data_advice
from supcon_tf.core.errors import UserError, suggestion
from supcon_tf.data import digits, fashion_mnist
from supcon_tf.data.balance import long_tail, places_by_class, stratified_places
from supcon_tf.data.graphs import as_written
from supcon_tf.data.splits import DEFAULT_IMAGE_SIZE_PX, ImageDataset, Split

# Data sets whose training split is a part of another's, with classes of unequal size.
LONG_TAILED = {"cifar10_lt": "cifar10", "cifar100_lt": "cifar100"}
_IMBALANCE = 100.0
_SHUFFLE_BYTES = 256 * 2**20
# Builders of this package; each returns None if its files are not on this machine.
_OWN = {"digits": digits.find, "fashion_mnist": fashion_mnist.find}
_ADVICE = {"fashion_mnist": f" {fashion_mnist.ADVICE}"}
# Up to this many training images, the validation set is drawn from each class in proportion.
_DRAWN_ONE_BY_ONE = 200_000


def open_tfds(
    name: str,
    data_dir: str | None,
    image_size_px: int | None,
    validation_fraction: float,
    seed: int,
    imbalance_factor: float | None = None,
    train_images: int | None = None,
) -> ImageDataset:
    """Opens one of our own data sets or one of TensorFlow Datasets; see `open_dataset`."""
    source = LONG_TAILED.get(name, name)
    builder = _own_builder(name, data_dir) or _prepared_builder(source, data_dir)
    image, label = _check_features(name, builder)
    held_out = _held_out_split(name, builder)
    height, width = image.shape[:2]
    native = height if height and height == width else None
    train, validation = _tfds_split(builder, "train", native), None
    if name in LONG_TAILED:
        train = _long_tailed(
            train, _IMBALANCE if imbalance_factor is None else imbalance_factor, seed
        )
    if train_images is not None:
        places = stratified_places(train.labels(), train_images, seed)
        train = train.subset(places, f"{train.fingerprint} subset {train_images} {seed}")
    if validation_fraction:
        train, validation = _set_aside(builder, train, validation_fraction, seed)
    return ImageDataset(
        name=name,
        class_names=tuple(label.names),
        train=train,
        test=_tfds_split(builder, held_out, native),
        native_size_px=native,
        image_size_px=image_size_px or native or DEFAULT_IMAGE_SIZE_PX,
        validation=validation,
    )


def _held_out_split(name, builder):
    """The name of the labelled split that is not trained on."""
    splits = builder.info.splits
    held_out = [split for split in ("test", "validation") if split in splits]
    if "train" not in splits or not held_out:
        raise UserError(
            f"dataset must have the splits train and test (or validation). Received: {name!r}, "
            f"with {', '.join(splits)}."
        )
    # Competitions publish test images without labels (-1); their validation split has labels.
    labelled = [split for split in held_out if _has_labels(_tfds_split(builder, split))]
    if not labelled:
        raise UserError(f"dataset must have a labelled held-out split. Received: {name!r}.")
    return labelled[0]


def _long_tailed(train, factor, seed):
    try:
        places = long_tail(train.labels(), factor, seed)
    except ValueError as error:
        raise UserError(str(error)) from error
    return train.subset(places, f"{train.fingerprint} long tail {factor:g} {seed}")


def _set_aside(builder, train, fraction, seed):
    """Sets aside a share of the training images, drawn from the seed: the rest, and that share."""
    total, count = train.num_examples, round(fraction * train.num_examples)
    if count in (0, total):
        raise UserError(
            f"validation_fraction must leave some of the {total} training images and set some "
            f"aside. Received: {fraction}. Pass another."
        )
    if total > _DRAWN_ONE_BY_ONE and total == builder.info.splits["train"].num_examples:
        # A stretch of the stored order, which is random; it is read without reading the rest.
        start = int(np.random.default_rng(seed).integers(total - count + 1))
        names = f"train[:{start}]+train[{start + count}:]", f"train[{start}:{start + count}]"
        return tuple(_tfds_split(builder, name, train.native_size_px) for name in names)
    places, labels = np.arange(total), np.empty(total, np.int64)
    for number, own in enumerate(places_by_class(train.labels()).values()):
        labels[own] = number  # Whatever the classes are called.
    try:
        rest, held = train_test_split(places, test_size=count, stratify=labels, random_state=seed)
    except ValueError:  # A class of one image, or fewer images than classes.
        rest, held = train_test_split(places, test_size=count, random_state=seed)
    return tuple(
        train.subset(np.sort(part), f"{train.fingerprint} {kind} {fraction} {seed}")
        for part, kind in ((rest, "rest"), (held, "held"))
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


def _own_builder(name, data_dir):
    return _OWN[name](data_dir) if name in _OWN else None


def _prepared_builder(name, data_dir):
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except AssertionError as error:  # An unknown version or configuration of a known name.
        reason = " ".join(str(error).split())
        raise UserError(f"dataset {name!r} cannot be used: {reason}") from error
    except (tfds.core.DatasetNotFoundError, ValueError, ImportError) as error:
        advice = own_data_advice(name) or _similar(name)
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
                f"directory that holds it as --data_dir.{_ADVICE.get(name, '')}"
            ) from error
    return builder


def _similar(name):
    known = [*_OWN, *LONG_TAILED, *tfds.list_builders(with_community_datasets=False)]
    return suggestion(name, known).strip() or "Give digits, cifar10, folder:PATH, ..."


def _has_labels(split: Split) -> bool:
    return all(int(label) >= 0 for _, label in split.records().take(1))


def _tfds_split(builder, name, native_size_px=None) -> Split:
    info = builder.info.splits[name]

    def elements(seed):
        examples = builder.as_dataset(
            split=name,
            shuffle_files=seed is not None,
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(try_autocache=False, shuffle_seed=seed),
        )
        return examples.map(as_written(lambda example: (example["image"], example["label"])))

    whole = builder.info.splits[name.partition("[")[0]]
    average_bytes = max(1, whole.num_bytes // max(1, whole.num_examples))
    content = {"name": builder.info.full_name, "split": name, "shards": whole.shard_lengths}
    return Split(
        num_examples=info.num_examples,
        elements=elements,
        load=lambda encoded, label: (encoded, label),
        shuffle_buffer=min(info.num_examples, max(1000, _SHUFFLE_BYTES // average_bytes)),
        fingerprint=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
        native_size_px=native_size_px,
    )
