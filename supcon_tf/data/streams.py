"""Streams of batches as functions of seed, step and share, so that resuming is exact.

A stream that begins at a later step continues one that was interrupted, and the shares of several
workers make up the batch of one. Methods build their streams from `views`, `balanced` and `zipped`.
"""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from supcon_tf.data.augment import WHOLE, Share
from supcon_tf.data.balance import balanced_order, repeated_order
from supcon_tf.data.graphs import as_written
from supcon_tf.data.own_augmentation import ImageFunction
from supcon_tf.data.policies import Augmentation
from supcon_tf.data.splits import ImageDataset, Split
from supcon_tf.data.views import STREAM_STRIDE, Position, Views, sharding_off, views_of_elements

# Far apart, so that the seeds of neighbouring runs do not coincide.
_EPOCH_STRIDE = 1_000_003
_ENDLESS = 2**40


def training_views(
    dataset: ImageDataset,
    *,
    augmentation: Augmentation | ImageFunction | keras.Layer,
    num_views: int,
    batch_size: int,
    epochs: int,
    seed: int,
    first_step: int = 0,
    share: Share = WHOLE,
) -> tf.data.Dataset:
    """Batches of views of the training images for several consecutive epochs.

    Args:
        dataset: where the training split comes from.
        augmentation: how views are made: an `Augmentation`; a function from an image float32
            [H, W, 3] in [0, 1] and a seed int64 [2] to a view; or a Keras layer or model from
            images to images, whose random numbers are then those of the stream. A function gets
            an image in its own size or, if sizes differ, scaled down to a short side of at most
            twice a view's; a layer gets the central square, resized to a view's size.
        num_views: views of each image.
        batch_size: images per batch; what is left over at an epoch's end is dropped.
        epochs: epochs in all.
        seed: int >= 0.
        first_step: step to begin with, counted from the first epoch on.
        share: which images of each batch to make.

    Returns:
        Dataset of `(views float32 [B, V, S, S, 3] in [0, 1], labels int64 [B])`, B the share's
        part of the batch (labels bool [B, C] with several classes per image).

    Raises:
        ValueError: if the batch is larger than the training split, or not a multiple of the shares.
    """
    stream = views(
        dataset.train,
        Views(augmentation, num_views, dataset.image_size_px),
        batch_size=batch_size,
        position=Position(seed, first_step, share),
    )
    return stream.take(epochs * (dataset.train.num_examples // batch_size) - first_step)


def views(
    split: Split, kinds: Views | Sequence[Views], *, batch_size: int, position: Position
) -> tf.data.Dataset:
    """Endless batches of views: epoch after epoch, each in an order of its own.

    The order of epoch e depends on the seed and e, and the views of a batch on the seed and the
    step.

    Args:
        split: the images.
        kinds: how views are made; several kinds give views of several sizes (multi-crop).
        batch_size: images per batch; what is left over at an epoch's end is dropped.
        position: where the stream begins.

    Returns:
        Dataset of `(views float32 [B, V, S, S, 3] in [0, 1], labels int64 [B])`, B the share's
        part of the batch (labels bool [B, C] with several classes per image); several kinds
        give a tuple of views.

    Raises:
        ValueError: if the batch is larger than the split, or not a multiple of the shares.
    """
    steps, size = split.num_examples // batch_size, position.split(batch_size)
    if not steps:
        raise ValueError(
            f"batch_size must be at most the {split.num_examples} training images. Received: "
            f"{batch_size}."
        )

    is_held = split.held is not None

    def is_mine(place):
        return (place % batch_size) // size == position.share.index

    def one_epoch(shuffle_seed, skipped):
        """This share of an epoch's whole batches, without the first `skipped` of them."""
        skipped = tf.cast(skipped, tf.int64)
        keep = is_mine if position.share.count > 1 else None
        elements = split.ordered(shuffle_seed, skipped * batch_size, keep, places=is_held)
        return elements.take((steps - skipped) * size)

    elements = chain_epochs(
        one_epoch,
        seed=position.seed,
        first_step=position.first_step,
        steps_per_epoch=steps,
        number=position.number,
    )
    return views_of_elements(split, elements, kinds, batch_size, position)


def repeated(
    split: Split, kinds: Views | Sequence[Views], *, batch_size: int, position: Position
) -> tf.data.Dataset:
    """Endless batches of views that continue from one epoch into the next.

    Like `views`, but no image is left out of an epoch, and a batch may be larger than the split:
    then images are repeated in it. For splits of a few images: their elements (files' names, or
    encoded images) are held in memory.

    Args:
        split: the images.
        kinds: as in `views`.
        batch_size: images of each batch.
        position: where the stream begins.

    Raises:
        ValueError: if the batch is not a multiple of the shares.
    """
    order = repeated_order(split.num_examples, batch_size, _order_seed(position))
    return _views_in_order(split, kinds, order, batch_size, position)


def balanced(
    split: Split,
    kinds: Views | Sequence[Views],
    *,
    classes_per_batch: int,
    images_per_class: int,
    position: Position,
) -> tf.data.Dataset:
    """Endless batches of the same number of images from each of some classes.

    A permutation of the classes is consumed, a few of them per batch, and drawn again when it is
    used up; so is a permutation of each class's images. The elements of the split (files' names, or
    encoded images) are held in memory.

    Args:
        split: labelled images.
        kinds: as in `views`.
        classes_per_batch: classes of each batch; a divisor of the number of classes in the split.
        images_per_class: images of each of them.
        position: where the stream begins.

    Returns:
        As `views`; a batch's rows are the first image of each class, then the second of each, ...

    Raises:
        ValueError: if the classes cannot be divided like this, a class has too few images, or the
            batch is not a multiple of the shares.

    Reference:
        Assran et al. 2020, "Supervision Accelerates Pre-training in Contrastive Semi-Supervised
        Learning of Visual Representations", as in the authors' code (class-balanced sampling).
    """
    sizes = classes_per_batch, images_per_class
    order = balanced_order(split.labels(), *sizes, _order_seed(position))
    return _views_in_order(split, kinds, order, classes_per_batch * images_per_class, position)


def _order_seed(position):
    return position.seed + STREAM_STRIDE * position.number


def _views_in_order(split, kinds, order, batch_size, position):
    """Batches of the images at the places in the split that `order` gives for each step."""
    size = position.split(batch_size)
    first = position.share.index * size
    stored = split.ordered(places=split.held is not None)
    elements = list(stored)

    def generate():
        step = position.first_step
        while True:
            for place in order(step)[first : first + size]:
                yield elements[place]
            step += 1

    ordered = tf.data.Dataset.from_generator(generate, output_signature=stored.element_spec)
    return views_of_elements(split, ordered, kinds, batch_size, position)


def zipped(**streams: tf.data.Dataset) -> tf.data.Dataset:
    """Streams side by side, of whatever batch sizes: a dict of what each of them yields."""
    return sharding_off(tf.data.Dataset.zip(streams)).prefetch(tf.data.AUTOTUNE)


def chain_epochs(
    one_epoch: Callable[[tf.Tensor, tf.Tensor], tf.data.Dataset],
    *,
    seed: int,
    first_step: int,
    steps_per_epoch: int,
    number: int = 0,
) -> tf.data.Dataset:
    """Chains endless epochs, from `first_step` on.

    Args:
        one_epoch: a function from a shuffle seed and a number of steps to skip, int64 scalars, to
            the dataset of one epoch.
        seed: int >= 0; the shuffle seed of epoch e depends on it, the number and e alone.
        first_step: step to begin with, counted from the first epoch on.
        steps_per_epoch: steps per epoch.
        number: tells the streams of a run apart.
    """
    first_epoch, skipped = divmod(first_step, steps_per_epoch)
    base = seed * _EPOCH_STRIDE + number * STREAM_STRIDE

    @as_written
    def begin(epoch):
        # Sets the seed of this function's own graph, so that neither the order nor TensorFlow's
        # check of the seed pair depends on a global seed that the caller may have set.
        tf.random.set_seed(1)
        return one_epoch(base + epoch, tf.where(epoch == first_epoch, skipped, 0))

    return tf.data.Dataset.range(first_epoch, _ENDLESS).flat_map(begin)
