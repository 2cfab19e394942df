"""The training stream: batches of views, a function of the seed and the step."""

from collections.abc import Callable

import tensorflow as tf

from supcon_tf.data.augment import WHOLE, Augmentation, Share, random_crops, recolor
from supcon_tf.data.datasets import ImageDataset
from supcon_tf.data.images import decode, shrink

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
    split = dataset.train
    steps = split.num_examples // batch_size
    if not steps:
        raise ValueError(
            f"batch_size must be at most the {split.num_examples} training images. Received: "
            f"{batch_size}."
        )
    if batch_size % share.count:
        raise ValueError(
            f"batch_size must be a multiple of the {share.count} shares. Received: {batch_size}."
        )
    size = batch_size // share.count
    image_size_px, side = dataset.image_size_px, dataset.native_size_px

    def one_epoch(shuffle_seed, skipped):
        skipped = tf.cast(skipped, tf.int64)
        records = split.records(
            shuffle_seed, skipped * batch_size, mine if share.count > 1 else None
        )
        return records.take((steps - skipped) * size)

    def mine(place):
        return (place % batch_size) // size == share.index

    def place_of(index):
        """The place in the order of all images of the example that is made here as number index."""
        return index // size * batch_size + share.index * size + index % size

    def crops_of_one(index, record):
        encoded, label = record
        image = shrink(decode(encoded), image_size_px)[None]
        seed_of_image = _seed(1, place_of(index))
        return random_crops(image, num_views, image_size_px, augmentation, seed_of_image), label

    def decoded(index, record):
        encoded, label = record
        image = tf.ensure_shape(decode(encoded), [side, side, 3])
        return image, label

    def views(step, batch):
        images, labels = batch
        if side:
            images = tf.cast(images, tf.float32) / 255.0
            seed_of_step = _seed(1, step)
            images = random_crops(
                images, num_views, image_size_px, augmentation, seed_of_step, share
            )
        else:
            images = tf.reshape(images, [-1, image_size_px, image_size_px, 3])
        images = recolor(images, augmentation, _seed(2, step), share)
        shape = [size, num_views, image_size_px, image_size_px, 3]
        return tf.reshape(images, shape), labels

    def _seed(purpose, index):
        return tf.random.fold_in(tf.constant([seed, purpose], tf.int64), index)

    records = chain_epochs(
        one_epoch, seed=seed, first_step=first_step, steps_per_epoch=steps, epochs=epochs
    )
    examples = records.enumerate(first_step * size).map(
        decoded if side else crops_of_one, num_parallel_calls=tf.data.AUTOTUNE
    )
    batches = examples.batch(size, drop_remainder=True).enumerate(first_step)
    stream = batches.map(views, num_parallel_calls=tf.data.AUTOTUNE)
    return sharding_off(stream).prefetch(tf.data.AUTOTUNE)


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
