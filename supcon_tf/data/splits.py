"""One split of a data set, streamed in any order or part."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from supcon_tf.data.images import decode, preprocess


@dataclasses.dataclass(frozen=True)
class Split:
    """One split, streamed.

    Attributes:
        num_examples: how many examples it has.
        elements: makes a dataset of small elements (paths, or encoded images) in a fixed order,
            or with their files in the order of a seed.
        load: turns an element into `(encoded scalar string, label int64 scalar)`.
        shuffle_buffer: elements held while shuffling.
        fingerprint: changes when examples are added, removed or resized.
        names: of each example in the stored order, such as its file; None for its place in it.
    """

    num_examples: int
    elements: Callable[..., tf.data.Dataset]
    load: Callable
    shuffle_buffer: int
    fingerprint: str
    names: tuple[str, ...] | None = None

    def records(self, shuffle_seed=None, skip=0, keep=None) -> tf.data.Dataset:
        """`(encoded, label int32)` of every example, once.

        Args:
            shuffle_seed: int or int64 scalar tensor that fixes the order; None for the stored one.
            skip: int or int64 scalar tensor, examples to leave out at the beginning, unread.
            keep: from a place in the order (after those skipped) to whether that example is wanted;
                the others are not read. None for all.
        """
        elements = self.elements(shuffle_seed)
        if shuffle_seed is not None:
            elements = elements.shuffle(
                self.shuffle_buffer, seed=shuffle_seed, reshuffle_each_iteration=False
            )

        def load(*element):
            encoded, label = self.load(*element)
            return encoded, tf.cast(label, tf.int32)

        elements = elements.skip(skip)
        if keep is not None:
            numbered = elements.enumerate().filter(lambda index, element: keep(index))
            elements = numbered.map(lambda index, element: element)
        return elements.map(load, num_parallel_calls=tf.data.AUTOTUNE)

    def labels(self) -> np.ndarray:
        """The label of every example, int64 [N], in the stored order; no image is read."""
        labels = self.elements(None).map(lambda element, label: label)
        return np.fromiter(labels.as_numpy_iterator(), np.int64, self.num_examples)

    def sample(self, limit: int | None) -> tf.data.Dataset:
        """As `records`; at most `limit` of them, drawn over the whole split, always the same."""
        if limit is None or limit >= self.num_examples:
            return self.records()
        return self.records(shuffle_seed=0).take(limit)

    def spread(self, limit: int) -> "Split":
        """A split of at most `limit` examples, evenly spread over the stored order, with names."""
        count = min(limit, self.num_examples)
        places = np.arange(count) * self.num_examples // count
        wanted = tf.constant(np.isin(np.arange(self.num_examples), places))

        def elements(seed):
            numbered = self.elements(None).enumerate()
            return numbered.filter(lambda place, element: tf.gather(wanted, place)).map(
                lambda place, element: element
            )

        names = map(str, places) if self.names is None else (self.names[at] for at in places)
        return dataclasses.replace(self, num_examples=count, elements=elements, names=tuple(names))

    def images(
        self, image_size_px: int, batch_size: int, limit: int | None = None
    ) -> tf.data.Dataset:
        """Images as evaluation sees them.

        Args:
            image_size_px: side of the square images.
            batch_size: images a batch; the last may be smaller.
            limit: as in `sample`.

        Returns:
            Batches of `(float32 [b, S, S, 3] in [0, 1], int32 [b])`.
        """

        def load(encoded, label):
            return preprocess(decode(encoded), image_size_px), label

        images = self.sample(limit).map(load, num_parallel_calls=tf.data.AUTOTUNE)
        return images.batch(batch_size).prefetch(tf.data.AUTOTUNE)
