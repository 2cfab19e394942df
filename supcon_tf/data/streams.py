"""The training stream: batches of views, a function of the seed and the step."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from supcon_tf.data.augment import WHOLE, Augmentation, Share, random_crops, recolor
from supcon_tf.data.datasets import ImageDataset
from supcon_tf.data.images import decode, shrink, to_unit

# Far apart, so that the seeds of neighbouring runs do not meet.
_EPOCH_STRIDE = 1_000_003


def training_views(
    dataset: ImageDataset,
    *,
    augmentation: Augmentation,
    num_views: int,
    batch_size: int,
    epochs: int,
    seed: int,
    first_step: int = 0,
    share: Share = WHOLE,
) -> tf.data.Dataset:
    """Batches of views for several epochs on end.

    The order of epoch e depends on the seed and e, and the views of a batch on the seed and the
    step, so a stream that begins at a later step continues the one that was broken off, and the
    shares of several workers make up the batch of one.

    Args:
        dataset: where the training split comes from.
        augmentation: how views are made.
        num_views: views of each image.
        batch_size: images a batch; what is left over at an epoch's end is dropped.
        epochs: epochs in all.
        seed: int >= 0.
        first_step: step to begin with, counted from the first epoch on.
        share: which images of each batch to make.

    Returns:
        Dataset of `(views float32 [B, V, S, S, 3] in [0, 1], labels int32 [B])`, B the share's
        part of the batch.

    Raises:
        ValueError: if the batch is larger than the training split, or not a multiple of the shares.
    """
    steps = dataset.train.num_examples // batch_size
    if not steps:
        raise ValueError(
            f"batch_size must be at most the {dataset.train.num_examples} training images. "
            f"Received: {batch_size}."
        )
    if batch_size % share.count:
        raise ValueError(
            f"batch_size must be a multiple of the {share.count} shares. Received: {batch_size}."
        )
    maker = _ViewMaker(dataset, augmentation, num_views, batch_size, seed, share)
    records = chain_epochs(
        maker.records, seed=seed, first_step=first_step, steps_per_epoch=steps, epochs=epochs
    )
    one_size = dataset.native_size_px is not None
    examples = records.enumerate(first_step * maker.size).map(
        maker.decoded if one_size else maker.crops_of_one, num_parallel_calls=tf.data.AUTOTUNE
    )
    batches = examples.batch(maker.size, drop_remainder=True).enumerate(first_step)
    stream = batches.map(maker.views, num_parallel_calls=tf.data.AUTOTUNE)
    return sharding_off(stream).prefetch(tf.data.AUTOTUNE)


@dataclasses.dataclass(frozen=True)
class _ViewMaker:
    """The steps from records to views; images of one size are cropped as a batch.

    Attributes are the arguments of `training_views`.
    """

    dataset: ImageDataset
    augmentation: Augmentation
    num_views: int
    batch_size: int
    seed: int
    share: Share

    @property
    def size(self):
        """Images that are made here, of each batch."""
        return self.batch_size // self.share.count

    def _seed(self, purpose, index):
        return tf.random.fold_in(tf.constant([self.seed, purpose], tf.int64), index)

    def records(self, shuffle_seed, skipped):
        """This share of an epoch's whole batches, without the first `skipped` of them."""
        split = self.dataset.train
        skipped = tf.cast(skipped, tf.int64)
        keep = self._is_mine if self.share.count > 1 else None
        records = split.records(shuffle_seed, skipped * self.batch_size, keep)
        return records.take((split.num_examples // self.batch_size - skipped) * self.size)

    def _is_mine(self, place):
        return (place % self.batch_size) // self.size == self.share.index

    def _place_of(self, index):
        """The place in the order of all images of the example that is made here as number index."""
        within = self.share.index * self.size + index % self.size
        return index // self.size * self.batch_size + within

    def decoded(self, index, record):
        """An image of the data set's own size, uint8 [S, S, 3]."""
        encoded, label = record
        side = self.dataset.native_size_px
        return tf.ensure_shape(decode(encoded), [side, side, 3]), label

    def crops_of_one(self, index, record):
        """The crops of an image of any size, float32 [V, S, S, 3]."""
        encoded, label = record
        side, seed = self.dataset.image_size_px, self._seed(1, self._place_of(index))
        image = shrink(decode(encoded), side)[None]
        return random_crops(image, self.num_views, side, self.augmentation, seed), label

    def views(self, step, batch):
        """Views float32 [b, V, S, S, 3] of a batch of images, or of their crops; and its labels."""
        images, labels = batch
        side, seed = self.dataset.image_size_px, self._seed(1, step)
        if self.dataset.native_size_px is not None:
            images = to_unit(images)
            images = random_crops(images, self.num_views, side, self.augmentation, seed, self.share)
        images = tf.reshape(images, [-1, side, side, 3])
        images = recolor(images, self.augmentation, self._seed(2, step), self.share)
        return tf.reshape(images, [self.size, self.num_views, side, side, 3]), labels


def chain_epochs(
    one_epoch: Callable[[tf.Tensor, tf.Tensor], tf.data.Dataset],
    *,
    seed: int,
    first_step: int,
    steps_per_epoch: int,
    epochs: int,
) -> tf.data.Dataset:
    """Strings together the epochs from `first_step` on.

    Args:
        one_epoch: from a shuffle seed and a number of steps to skip, int64 scalars, to the dataset
            of one epoch.
        seed: int >= 0; the shuffle seed of epoch e depends on it and on e alone.
        first_step: step to begin with, counted from the first epoch on.
        steps_per_epoch: steps an epoch.
        epochs: epochs in all.
    """
    first_epoch, skipped = divmod(first_step, steps_per_epoch)

    @tf.autograph.experimental.do_not_convert
    def begin(epoch):
        # Sets the seed of this function's own graph, so that neither the order nor TensorFlow's
        # check of the seed pair depends on a global seed that the caller may have set.
        tf.random.set_seed(1)
        return one_epoch(seed * _EPOCH_STRIDE + epoch, tf.where(epoch == first_epoch, skipped, 0))

    return tf.data.Dataset.range(first_epoch, epochs).flat_map(begin)


def sharding_off(stream: tf.data.Dataset) -> tf.data.Dataset:
    """Batches are split over the replicas as they are; the files behind them are not."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return stream.with_options(options)
