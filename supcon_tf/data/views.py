"""Views of images, a batch at a time: how many, how large, how augmented, and from which seeds."""

import dataclasses
import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from supcon_tf.data.augment import WHOLE, Share, random_crops, recolor
from supcon_tf.data.graphs import as_written
from supcon_tf.data.images import decode, shrink, to_unit
from supcon_tf.data.own_augmentation import ImageFunction, own_views
from supcon_tf.data.policies import Augmentation
from supcon_tf.data.splits import Split, identity

# Far apart, so that the seeds of the streams of one run do not coincide.
STREAM_STRIDE = 2**40


@dataclasses.dataclass(frozen=True)
class Views:
    """Views of one size.

    Attributes:
        augmentation: how they are made: an `Augmentation`, a function of an image and a seed, or a
            Keras layer or model; see `own_views`.
        count: views of each image.
        size_px: side of a view.
    """

    augmentation: Augmentation | ImageFunction | keras.Layer
    count: int
    size_px: int

    @property
    def source_px(self):
        """The side given to `shrink`: for small crops (multi-crop) more of the image is kept."""
        share = getattr(self.augmentation, "max_area", 1.0) ** 0.5  # Of the image's side.
        return math.ceil(self.size_px / share)

    def shrunk(self, image):
        """An image uint8 [H, W, 3], scaled down as far as the crops allow."""
        return shrink(image, self.source_px)

    def crop(self, images, seed, share=WHOLE):
        """Crops [n * V, S, S, 3] of images float32 [n, H, W, 3], or views of the user's own."""
        if isinstance(self.augmentation, Augmentation):
            return random_crops(images, self.count, self.size_px, self.augmentation, seed, share)
        first = share.index * tf.shape(images)[0]
        return own_views(self.augmentation, images, self.count, self.size_px, seed, first)

    def recolor(self, crops, seed, share, turns):
        """Views [n * V, S, S, 3] of crops; for an alternating flip, `turns` int64 [n] alternate."""
        if not isinstance(self.augmentation, Augmentation):
            return crops
        mirrored = (turns[:, None] + tf.range(self.count, dtype=tf.int64)) % 2 == 1
        return recolor(crops, self.augmentation, seed, share, tf.reshape(mirrored, [-1]))


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a stream begins, and which part of it is made here.

    Attributes:
        seed: int >= 0.
        first_step: step to begin with, counted from the first epoch on.
        share: which images of each batch to make.
        number: tells the streams of a run apart: equal numbers draw equal random numbers.
    """

    seed: int
    first_step: int = 0
    share: Share = WHOLE
    number: int = 0

    def split(self, batch_size: int) -> int:
        """The number of images of a batch that are made here.

        Raises:
            ValueError: if the batch is not a multiple of the shares.
        """
        if batch_size % self.share.count:
            raise ValueError(
                f"batch_size must be a multiple of the {self.share.count} shares. Received: "
                f"{batch_size}."
            )
        return batch_size // self.share.count

    def fold(self, purpose: int, index) -> tf.Tensor:
        """A seed int64 [2] for one purpose (1 or 2) at a step or a place."""
        purpose += 2 * self.number
        return tf.random.fold_in(tf.constant([self.seed, purpose], tf.int64), index)


def views_of_elements(
    split: Split,
    elements: tf.data.Dataset,
    kinds: Views | Sequence[Views],
    batch_size: int,
    position: Position,
) -> tf.data.Dataset:
    """Batches of views of images; those of one size are cropped as a batch.

    Args:
        split: where the images come from.
        elements: the elements of the split to make here, or their places if the split is held in
            memory.
        kinds: how views are made.
        batch_size: images of a whole batch.
        position: where the stream begins.

    Returns:
        Dataset of `(views float32 [B, V, S, S, 3] in [0, 1], labels int64 [B])`, B the share's
        part of the batch (labels bool [B, C] with several classes per image); several kinds
        give a tuple of views.
    """
    several = not isinstance(kinds, Views)
    kinds = tuple(kinds) if several else (kinds,)
    steps_per_epoch = max(1, split.num_examples // batch_size)
    maker = _ViewMaker(split, kinds, batch_size, position, steps_per_epoch)
    if split.held is None:
        examples = elements.enumerate(position.first_step * maker.size).map(
            as_written(maker.decoded if split.native_size_px else maker.crops_of_one),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        batches = examples.batch(maker.size, drop_remainder=True)
    else:
        batches = elements.batch(maker.size, drop_remainder=True).map(
            as_written(lambda places: tuple(tf.gather(part, places) for part in split.held))
        )
    stream = batches.enumerate(position.first_step).map(
        as_written(maker.views), num_parallel_calls=tf.data.AUTOTUNE
    )
    if not several:
        stream = stream.map(as_written(lambda views, labels: (views[0], labels)))
    return sharding_off(stream).prefetch(tf.data.AUTOTUNE)


@dataclasses.dataclass(frozen=True)
class _ViewMaker:
    """The steps from a split's elements to views.

    Attributes:
        split: where they come from.
        kinds: the kinds of views.
        batch_size: images of a whole batch.
        position: where the stream begins.
        steps_per_epoch: batches in which each image is seen about once.
    """

    split: Split
    kinds: tuple[Views, ...]
    batch_size: int
    position: Position
    steps_per_epoch: int

    @property
    def size(self):
        """Images of each batch that are made here."""
        return self.position.split(self.batch_size)

    def _place_of(self, index):
        """The place, in the order of all images, of example number `index` of those made here."""
        within = self.position.share.index * self.size + index % self.size
        return index // self.size * self.batch_size + within

    def _seeds(self, purpose, index):
        """A seed for each kind of views."""
        seed = self.position.fold(purpose, index)
        return [seed if not kind else tf.random.fold_in(seed, kind) for kind in self._numbers()]

    def _numbers(self):
        return range(len(self.kinds))

    def decoded(self, index, element):
        """An image of the split's own size, uint8 [S, S, 3], its label and identity."""
        encoded, label = self.split.load_record(*element)
        image = tf.ensure_shape(decode(encoded), [self.split.native_size_px] * 2 + [3])
        return image, label, identity(encoded)

    def crops_of_one(self, index, element):
        """Crops of an image of any size, float32 [V, S, S, 3] for each kind; label, identity."""
        largest = max(self.kinds, key=lambda kind: kind.source_px)  # It is decoded once for all.
        image, label, own = self.split.image_of(
            element, f"crops of {largest.source_px}", tf.uint8, largest.shrunk
        )
        crops = [
            kind.crop(to_unit(self._source(kind, image, largest))[None], seed)
            for kind, seed in zip(self.kinds, self._seeds(1, self._place_of(index)), strict=True)
        ]
        return tuple(crops), label, own

    def _source(self, kind, image, largest):
        return image if kind.source_px == largest.source_px else kind.shrunk(image)

    def views(self, step, batch):
        """Views float32 [b, V, S, S, 3] of images or crops, for each kind; and the labels."""
        images, labels, identities = batch
        made, share = [], self.position.share
        turns = self._turns(step, identities)
        seeds = zip(self._seeds(1, step), self._seeds(2, step), strict=True)
        for number, (kind, (crop_seed, seed)) in enumerate(zip(self.kinds, seeds, strict=True)):
            side = kind.size_px
            if self.split.native_size_px:
                crops = kind.crop(to_unit(images), crop_seed, share)
            else:
                crops = tf.reshape(images[number], [-1, side, side, 3])
            crops = kind.recolor(crops, seed, share, turns)
            made.append(tf.reshape(crops, [self.size, kind.count, side, side, 3]))
        return tuple(made), labels

    def _turns(self, step, identities):
        """Int64 [b]: 0 or 1 for an image in the first epoch, one more in each later epoch."""
        keys = tf.strings.as_string(identities) + f" {self.position.seed}"
        return tf.strings.to_hash_bucket_fast(keys, 2) + step // self.steps_per_epoch


def sharding_off(stream: tf.data.Dataset) -> tf.data.Dataset:
    """Turns sharding off: the batches are split over the replicas, not the files behind them."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return stream.with_options(options)
