"""Random views of images, as functions of the seed alone.

Everything works on a whole batch, so that a view costs arithmetic and not calls.
"""

import dataclasses

import tensorflow as tf

from supcon_tf.data.auto_augment import auto_augment, trivial_augment
from supcon_tf.data.rand_augment import cut_out, grey, rand_augment

# Far from the small numbers that are folded in for kinds of views.
_SHIFT_SEED, _OPERATIONS_SEED, _CUTOUT_SEED = 10**6, 10**6 + 1, 10**6 + 2


@dataclasses.dataclass(frozen=True)
class Share:
    """The images of a batch that are made here; random numbers are drawn for the whole batch.

    Attributes:
        index: from 0 on.
        count: equal shares that a batch is split into.
    """

    index: int = 0
    count: int = 1

    def uniform(self, shape, seed, low=0.0, high=1.0):
        """Uniform random numbers of `shape` [n, ...], for the n images (or views) here."""
        whole = [shape[0] * self.count, *shape[1:]]
        numbers = tf.random.stateless_uniform(whole, seed, low, high)
        return numbers[self.index * shape[0] :][: shape[0]]


WHOLE = Share()


def random_crops(images, num_views, image_size_px, augmentation, seed, share=WHOLE):
    """Random resized crops, placed uniformly or in the centre, and then shifted.

    Args:
        images: float32 [B, H, W, 3] in [0, 1].
        num_views: crops of each image.
        image_size_px: side of a crop after resizing (bilinear).
        augmentation: an `Augmentation`.
        seed: int [2].
        share: which images of the global batch these are.

    Returns:
        float32 [B * num_views, S, S, 3], image-major.
    """
    shape = tf.cast(tf.shape(images), tf.float32)
    count = tf.shape(images)[0] * num_views
    area_seed, aspect_seed, place_seed = tf.unstack(tf.random.split(seed, 3))
    area = share.uniform([count], area_seed, augmentation.min_area, augmentation.max_area)
    limit = tf.math.log(augmentation.aspect)
    aspect = tf.exp(share.uniform([count], aspect_seed, -limit, limit))
    # In pixels the crop has width / height = aspect; these are its shares of the image's sides.
    share_h = tf.sqrt(area / aspect * shape[2] / shape[1])
    share_w = tf.sqrt(area * aspect * shape[1] / shape[2])
    # A crop that does not fit is made smaller, not narrower, so that nothing is distorted.
    fit = tf.minimum(1.0, 1.0 / tf.maximum(share_h, share_w))
    share_h, share_w = share_h * fit, share_w * fit
    top, left = tf.unstack(share.uniform([count, 2], place_seed), axis=1)
    if augmentation.centered:
        top, left = 0.5, 0.5
    top, left = top * (1 - share_h), left * (1 - share_w)
    boxes = tf.stack([top, left, top + share_h, left + share_w], axis=1)
    owners = tf.repeat(tf.range(tf.shape(images)[0]), num_views)
    crops = tf.image.crop_and_resize(images, boxes, owners, [image_size_px, image_size_px])
    crops.set_shape([None, image_size_px, image_size_px, 3])
    if augmentation.shift:
        crops = _shift(crops, augmentation.shift, tf.random.fold_in(seed, _SHIFT_SEED), share)
    return crops


def _shift(images, shift, seed, share):
    """Moves images [n, S, S, 3] by whole pixels; reflection fills the uncovered border."""
    side = images.shape[1]
    limit = round(shift * side)
    padded = tf.pad(images, [[0, 0], [limit, limit], [limit, limit], [0, 0]], "REFLECT")
    firsts = tf.cast(share.uniform([tf.shape(images)[0], 2], seed, 0, 2 * limit + 1), tf.int32)
    rows, columns = tf.unstack(firsts[..., None] + tf.range(side), axis=1)
    return tf.gather(tf.gather(padded, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)


def recolor(images, augmentation, seed, share=WHOLE, mirrored=None):
    """Flip, colour jitter, operations, grey, blur and cutout, drawn for each image on its own.

    The order of the colour changes is drawn once for the batch.

    Args:
        images: float32 [B, S, S, 3] in [0, 1].
        augmentation: an `Augmentation`.
        seed: int [2].
        share: which images of the global batch these are.
        mirrored: bool [B], which images an alternating flip mirrors now.

    Returns:
        float32 [B, S, S, 3] in [0, 1].

    Raises:
        ValueError: if an alternating flip is requested without `mirrored`.
    """

    def chosen(probability, seed):
        """Bool [B, 1, 1, 1], true with the given probability."""
        return share.uniform([count, 1, 1, 1], seed) < probability

    count = tf.shape(images)[0]
    flip_seed, jitter_seed, grey_seed, blur_seed = tf.unstack(tf.random.split(seed, 4))
    if augmentation.alternating_flip:
        if mirrored is None:
            raise ValueError("alternating_flip needs to know which images to mirror.")
        images = tf.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    elif augmentation.flip:
        images = tf.where(chosen(0.5, flip_seed), images[:, :, ::-1], images)
    jittered, chosen_seed = _jitter(images, augmentation, jitter_seed, share)
    images = tf.where(chosen(augmentation.jitter_probability, chosen_seed), jittered, images)
    images = _operate(tf.clip_by_value(images, 0.0, 1.0), augmentation, seed, share)
    if augmentation.grey_probability:
        greyed = grey(images) + tf.zeros_like(images)
        images = tf.where(chosen(augmentation.grey_probability, grey_seed), greyed, images)
    if augmentation.blur_probability:
        chosen_seed, sigma_seed = tf.unstack(tf.random.split(blur_seed, 2))
        blurred = _blur(images, sigma_seed, share)
        images = tf.where(chosen(augmentation.blur_probability, chosen_seed), blurred, images)
    images = tf.clip_by_value(images, 0.0, 1.0)
    if augmentation.cutout:
        centers = share.uniform([count, 2], tf.random.fold_in(seed, _CUTOUT_SEED))
        images = cut_out(images, centers, augmentation.cutout)
    return images


def _operate(images, augmentation, seed, share):
    """RandAugment, AutoAugment or TrivialAugment, if the augmentation has one of them."""

    def numbers(*shape):
        operations_seed = tf.random.fold_in(seed, _OPERATIONS_SEED)
        return share.uniform([tf.shape(images)[0], *shape], operations_seed)

    if augmentation.rand_augment:
        return rand_augment(
            images,
            numbers(augmentation.rand_augment, 3),
            augmentation.rand_augment_magnitude,
            augmentation.rand_augment_probability,
        )
    if augmentation.auto_augment:
        return auto_augment(images, numbers(5), augmentation.auto_augment)
    if augmentation.trivial_augment:
        return trivial_augment(images, numbers(3))
    return images


def _jitter(images, augmentation, seed, share):
    """The images with changed colours, and the seed that chooses which of them are used."""
    changes = [
        (change, largest)
        for change, largest in zip(
            (
                lambda x, u: x * (1 + u),
                _change_contrast,
                lambda x, u: grey(x) + (x - grey(x)) * (1 + u),
                _turn_hue,
            ),
            augmentation.jitter(),
            strict=True,
        )
        if largest
    ]
    chosen_seed, order_seed, *seeds = tf.unstack(tf.random.split(seed, 2 + len(changes)))

    def branch(index):
        change, largest = changes[index]

        def apply(x):
            shape = [tf.shape(x)[0], 1, 1, 1]
            amount = share.uniform(shape, seeds[index], -largest, largest)
            return tf.clip_by_value(change(x, amount), 0.0, 1.0)

        return apply

    branches = [branch(index) for index in range(len(changes))]
    order = tf.argsort(tf.random.stateless_uniform([len(changes)], order_seed))
    jittered = images
    for slot in range(len(changes)):
        calls = [lambda f=f, x=jittered: f(x) for f in branches]
        jittered = tf.switch_case(order[slot], calls)
    return jittered, chosen_seed


def _change_contrast(images, amount):
    mean = tf.reduce_mean(grey(images), axis=[1, 2], keepdims=True)
    return mean + (images - mean) * (1 + amount)


def _turn_hue(images, amount):
    hue, saturation, value = tf.unstack(tf.image.rgb_to_hsv(images), axis=-1)
    hue = tf.math.floormod(hue + amount[..., 0], 1.0)
    return tf.image.hsv_to_rgb(tf.stack([hue, saturation, value], axis=-1))


def _blur(images, seed, share):
    """Gaussian blur, sigma uniform in 0.1 to 2, kernel about a tenth of the side."""
    batch, side = tf.shape(images)[0], images.shape[1]
    radius = max(1, side // 20)
    sigma = share.uniform([batch, 1], seed, 0.1, 2.0)
    offsets = tf.range(-radius, radius + 1, dtype=tf.float32)[None, :]
    kernel = tf.nn.softmax(-0.5 * tf.square(offsets / sigma))  # [B, 2 * radius + 1]
    for axis in (1, 2):
        paddings = [[0, 0]] * 4
        paddings[axis] = [radius, radius]
        padded = tf.pad(images, paddings, "REFLECT")
        windows = [
            tf.gather(padded, tf.range(shift, shift + side), axis=axis)
            for shift in range(2 * radius + 1)
        ]
        images = sum(
            window * kernel[:, shift, None, None, None] for shift, window in enumerate(windows)
        )
    return images
