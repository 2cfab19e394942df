"""Labelled images of any data set, to score a trained model on."""

import dataclasses
from collections.abc import Iterable, Sequence

import tensorflow as tf

from supcon_tf.config.dataset_names import is_table, own_data
from supcon_tf.core.errors import StorageError, UserError
from supcon_tf.data.datasets import image_split, list_own, open_dataset
from supcon_tf.data.graphs import as_written
from supcon_tf.data.image_checks import check_images, faults_line
from supcon_tf.data.several_labels import classes_of
from supcon_tf.data.splits import Split


def open_labelled(
    name: str,
    class_names: Sequence[str],
    data_dir: str = "",
    *,
    multi_label: bool = False,
    skip_bad_images: bool = False,
    trained_on: str = "",
) -> tuple[Split, int]:
    """Opens the images of a data set under the classes of a model, which are matched by name.

    For a folder or a table these are all images, or those of the split test if there is one; for a
    data set of TensorFlow Datasets, those of the held-out split.

    Args:
        name: as for `open_dataset`.
        class_names: the model's classes; the data set may lack some of them.
        data_dir: as for `open_dataset`.
        multi_label: whether the model gives an image any number of classes; then only a table can
            say which ones.
        skip_bad_images: leave unreadable images of a folder out rather than stop.
        trained_on: name of the data set that the model was trained on.

    Returns:
        A split whose labels are places in `class_names`, or bool [C] with `multi_label`; and the
        number of images left out.

    Raises:
        UserError: if it cannot be read, has a class that the model does not know, holds the images
            that the model was trained on, or has one class per image where the model gives
            several, or the reverse.
    """
    if multi_label and not is_table(name):
        raise UserError(
            "the model gives several classes of an image; pass a table that lists them, csv:FILE "
            f"or jsonl:FILE. Received: {name}."
        )
    if not own_data(name):
        dataset = open_dataset(name, data_dir, skip_bad_images=skip_bad_images)
        _check_known(name, dataset.class_names, class_names)
        places = tf.constant([class_names.index(own) for own in dataset.class_names], tf.int64)
        return _relabelled(dataset.test, places), 0
    listing = list_own(name, data_dir)
    if name == trained_on and "all" in listing.splits:
        raise UserError(
            f"the model was trained on images of dataset {name}. Leave --dataset out to score the "
            "held-out ones, or give another."
        )
    examples = listing.splits.get("all") or listing.splits["test"]
    if listing.multi_label and not multi_label:
        raise UserError(
            f"the images of {name} have several classes, and the model gives one class of each. "
            "Give images of one class each."
        )
    _check_known(name, sorted({c for _, label in examples for c in classes_of(label)}), class_names)
    if multi_label:  # Even if each row of this table has one class.
        examples = [(image, classes_of(label)) for image, label in examples]
    readable = _readable(listing.root, examples, skip_bad_images)
    split = image_split(listing.root, readable, class_names, not listing.labels_in_names)
    return split, len(examples) - len(readable)


def _check_known(name: str, found: Iterable[str], class_names: Sequence[str]) -> None:
    found = list(found)
    unknown = [label for label in found if label not in class_names]
    if unknown or not found:
        shown = ", ".join(map(repr, unknown[:10])) + ", ..." * (len(unknown) > 10)
        fault = f"has classes that the model does not know: {shown}" if unknown else "has no class"
        raise UserError(
            f"dataset {name} {fault}. The model knows {', '.join(class_names[:20])}"
            f"{', ...' * (len(class_names) > 20)}. Rename or remove the other classes."
        )


def _readable(root, examples, skip_bad_images):
    """The examples whose files decode."""
    faults, _ = check_images(root, [name for name, _ in examples])
    if faults and (not skip_bad_images or len(faults) == len(examples)):
        them = "it" if len(faults) == 1 else "them"
        advice = "" if len(faults) == len(examples) else ", or pass --skip_bad_images"
        raise StorageError(f"{faults_line(root, faults)} Remove or replace {them}{advice}.")
    return [example for example in examples if example[0] not in faults]


def _relabelled(split: Split, places: tf.Tensor) -> Split:
    """A split whose label l is `places[l]`."""

    def elements(seed):
        relabelled = as_written(lambda image, label: (image, tf.gather(places, label)))
        return split.elements(seed).map(relabelled)

    return dataclasses.replace(split, elements=elements)
