"""Data sets and their splits, streamed in any order or part."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from supcon_tf.data.graphs import as_written
from supcon_tf.data.held_files import HeldFiles, most_bytes
from supcon_tf.data.images import decode, preprocess

# The label of an image whose class is not known.
UNLABELED = -1
# Images of one size are decoded once and held in memory if they take at most this many bytes.
_HELD_BYTES = 2**28
_LABELS_AT_ONCE = 4096
DEFAULT_IMAGE_SIZE_PX = 64


class Held(NamedTuple):
    """Decoded images in memory.

    Attributes:
        images: uint8 [N, S, S, 3], in the stored order.
        labels: int64 [N], or bool [N, C].
        identities: int64 [N], as `identity` numbers them.
    """

    images: tf.Tensor
    labels: tf.Tensor
    identities: tf.Tensor


def identity(encoded: tf.Tensor) -> tf.Tensor:
    """An int64 number for an encoded image, the same wherever and whenever the image occurs."""
    return tf.strings.to_hash_bucket_fast(encoded, 2**62)


@dataclasses.dataclass(frozen=True)
class Split:
    """One split, streamed.

    Attributes:
        num_examples: how many examples it has.
        elements: makes a dataset of small elements (paths, or encoded images) in a fixed order,
            or with their files in an order drawn from a seed.
        load: turns an element into `(encoded scalar string, label)`; the label is an int64 scalar,
            or bool [C] if images have several classes.
        shuffle_buffer: elements held while shuffling.
        fingerprint: changes when examples are added, removed or resized.
        native_size_px: side of its square images; None if sizes differ.
        names: name of each example in the stored order, such as its file; None for its position.
        folder: the folder of the files that are the names; None if they are not files.
    """

    num_examples: int
    elements: Callable[..., tf.data.Dataset]
    load: Callable
    shuffle_buffer: int
    fingerprint: str
    native_size_px: int | None = None
    names: tuple[str, ...] | None = None
    folder: Path | None = None

    @functools.cached_property
    def held(self) -> Held | None:
        """All images, decoded now, if they have one size and fit into 256 MiB; otherwise None."""
        side = self.native_size_px
        if not side or not self.held_bytes(side):
            return None

        def load(encoded, label):
            image = tf.ensure_shape(decode(encoded), [side, side, 3])
            return image, label, identity(encoded)

        decoded = self.records().map(as_written(load), num_parallel_calls=tf.data.AUTOTUNE)
        with tf.device("CPU:0"):  # Streams are made on the CPU.
            return Held(*decoded.batch(self.num_examples).get_single_element())

    def held_bytes(self, image_size_px: int) -> int:
        """The most bytes of images that a training run holds in memory, for views of that size."""
        if self.native_size_px is None:
            return 0 if self.folder is None else most_bytes(self.num_examples, image_size_px)
        all_images = self.num_examples * self.native_size_px**2 * 3
        return all_images if all_images <= _HELD_BYTES else 0

    @functools.cached_property
    def held_files(self) -> HeldFiles:
        """Images made from the split's files, held in memory."""
        return HeldFiles()

    def image_of(
        self, element, purpose: str, dtype: tf.DType, make: Callable
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The result of `make` for an element's decoded image, with its label and its identity.

        For an image file, the result is held in memory.

        Args:
            element: an element of the split.
            purpose: tells results of one image for different purposes apart.
            dtype: of the result.
            make: from uint8 [H, W, 3] to an image [H', W', 3].
        """
        _, label = self.load_record(*element)

        def made():
            encoded, _ = self.load_record(*element)
            return make(decode(encoded)), identity(encoded)

        if self.folder is None:
            image, own = made()
        else:
            image, own = self.held_files.get(element[0], purpose, dtype, made)
        return image, label, own

    def ordered(
        self, shuffle_seed=None, skip=0, keep=None, *, places: bool = False
    ) -> tf.data.Dataset:
        """The element of every example, once.

        Args:
            shuffle_seed: int or int64 scalar tensor that fixes the order; None for the stored one.
            skip: int or int64 scalar tensor, examples to leave out at the beginning.
            keep: a function from a place in the order (after those skipped) to whether that example
                is wanted. None for all.
            places: whether to give the examples' places in the stored order, int64, instead.
        """
        elements = tf.data.Dataset.range(self.num_examples)
        buffer = self.num_examples
        if not places:
            elements, buffer = self.elements(shuffle_seed), self.shuffle_buffer
        if shuffle_seed is not None:
            elements = elements.shuffle(buffer, seed=shuffle_seed, reshuffle_each_iteration=False)
        elements = elements.skip(skip)
        if keep is None:
            return elements
        numbered = elements.enumerate().filter(as_written(lambda index, element: keep(index)))
        return numbered.map(as_written(lambda index, element: element))

    def records(self, shuffle_seed=None) -> tf.data.Dataset:
        """`(encoded, label)` of every example, once, in the order of `ordered`."""
        elements = self.ordered(shuffle_seed)
        return elements.map(as_written(self.load_record), num_parallel_calls=tf.data.AUTOTUNE)

    def load_record(self, *element):
        """An element as `(encoded scalar string, label)`, int64 scalar or bool [C]."""
        encoded, label = self.load(*element)
        return encoded, label if label.dtype == tf.bool else tf.cast(label, tf.int64)

    def labels(self) -> np.ndarray:
        """The label of every example, int64 [N] or bool [N, C]; no image is read."""
        labels = (
            self.elements(None).map(as_written(lambda element, label: label)).batch(_LABELS_AT_ONCE)
        )
        found = np.concatenate(list(labels.as_numpy_iterator()))
        return found if found.dtype == bool else found.astype(np.int64)

    def sample(self, limit: int | None) -> tf.data.Dataset:
        """As `records`; at most `limit` of them, drawn over the whole split, always the same."""
        return self._sampled(limit).map(
            as_written(self.load_record), num_parallel_calls=tf.data.AUTOTUNE
        )

    def _sampled(self, limit):
        """The elements of `sample`."""
        if limit is None or limit >= self.num_examples:
            return self.ordered()
        return self.ordered(shuffle_seed=0).take(limit)

    def spread(self, limit: int) -> "Split":
        """A split of at most `limit` examples, evenly spread over the stored order, with names."""
        count = min(limit, self.num_examples)
        places = np.arange(count) * self.num_examples // count
        names = self.names or tuple(map(str, range(self.num_examples)))
        part = self.subset(places, self.fingerprint)
        return dataclasses.replace(part, names=tuple(names[at] for at in places))

    def subset(self, places: np.ndarray, fingerprint: str) -> "Split":
        """A split of some examples, in the stored order.

        Args:
            places: int [n], of the examples wanted, in the stored order.
            fingerprint: of the subset.
        """
        wanted = tf.constant(np.isin(np.arange(self.num_examples), places))

        def elements(seed):
            # The files must stay in the stored order, to which the places refer.
            numbered = self.elements(None).enumerate()
            kept = numbered.filter(as_written(lambda place, element: tf.gather(wanted, place)))
            return kept.map(as_written(lambda place, element: element))

        return dataclasses.replace(
            self,
            num_examples=len(places),
            elements=elements,
            shuffle_buffer=min(self.shuffle_buffer, len(places)),
            fingerprint=fingerprint,
            names=self.names and tuple(self.names[at] for at in sorted(places)),
        )

    def images(
        self, image_size_px: int, batch_size: int, limit: int | None = None
    ) -> tf.data.Dataset:
        """Images as evaluation sees them.

        Args:
            image_size_px: side of the square images.
            batch_size: images per batch, at most; the last may be smaller.
            limit: as in `sample`.

        Returns:
            Batches of `(float32 [b, S, S, 3] in [0, 1], int64 [b] or bool [b, C])`.
        """

        def load(*element):
            image, label, _ = self.image_of(
                element,
                f"evaluation at {image_size_px}",
                tf.float32,
                lambda image: preprocess(image, image_size_px),
            )
            return tf.ensure_shape(image, [image_size_px, image_size_px, 3]), label

        images = self._sampled(limit).map(as_written(load), num_parallel_calls=tf.data.AUTOTUNE)
        # TensorFlow's work grows with the batch size requested, not with the number of images.
        batch_size = min(batch_size, self.num_examples, limit or self.num_examples)
        return images.batch(batch_size).prefetch(tf.data.AUTOTUNE)


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """A data set with a training and a held-out split.

    Attributes:
        name: as the user gave it.
        class_names: name of each label.
        train: split to learn from, with labels.
        test: held-out split.
        native_size_px: side of its square images, or None if sizes differ.
        image_size_px: side of the square images that are made from them.
        bad_images: files left out because they could not be read.
        copies: groups of two or more names of identical files; a split never separates them.
        remarks: lines about the images that a user should see once, if they were checked.
        validation: split taken from the training images to monitor training; None if there is none.
        unlabelled: training images whose labels are not to be used; None for none. The label of
            such an image is its class if that is known, for metrics, and otherwise `UNLABELED`.
        with_unlabelled: all training images; None if there are none besides `train`.
        multi_label: whether an image has any number of classes, so that its label is bool [C];
            otherwise it is the number of its class.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    native_size_px: int | None
    image_size_px: int
    bad_images: tuple[str, ...] = ()
    copies: tuple[tuple[str, ...], ...] = ()
    remarks: tuple[str, ...] = ()
    validation: Split | None = None
    unlabelled: Split | None = None
    with_unlabelled: Split | None = None
    multi_label: bool = False

    @property
    def all_images(self) -> Split:
        """All training images, with and without labels, for methods that use none."""
        return self.with_unlabelled or self.train

    def describe(self) -> dict:
        """The entry of the data set in a run's manifest."""
        splits = {"train": self.train, "test": self.test}
        splits |= {} if self.unlabelled is None else {"unlabelled": self.unlabelled}
        return {
            "name": self.name,
            "class_names": list(self.class_names),
            **{
                name: {"examples": split.num_examples, "fingerprint": split.fingerprint}
                for name, split in splits.items()
            },
            "bad_images": list(self.bad_images),
            # Left out without copies, as before this key existed.
            **({"copies": [list(group) for group in self.copies]} if self.copies else {}),
            **({"multi_label": True} if self.multi_label else {}),
        }
