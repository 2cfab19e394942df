"""Random views of images, as functions of the seed alone.

Everything works on a whole batch, so that a view costs arithmetic and not calls.
"""

import dataclasses

import tensorflow as tf

from supcon_tf.core.errors import UserError
from supcon_tf.data.rand_augment import cut_out, grey, rand_augment


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How a view differs from its image.

    Attributes:
        min_area: a crop's share of the image's area is uniform from this to 1; a crop that would
            stick out is made smaller.
        aspect: a crop's width over height is between 1 / aspect and aspect.
        flip: whether half of the views are mirrored left to right.
        brightness: factor on the pixels, up to 1 +- this.
        contrast: factor on the distance from the image's mean grey, up to 1 +- this.
        saturation: factor on the distance from the pixel's own grey, up to 1 +- this.
        hue: turn of the colour circle, up to +- this share of it.
        jitter_probability: share of the views whose colours change.
        grey_probability: share of the views that become grey.
        blur_probability: share of the views that are blurred.
        shift: a view is moved by up to this share of its side, either way, over its reflection;
            at most 0.5, and only where `min_area` is 1.
        rand_augment: random operations on each view, after all but the cutout; see the function of
            this name for the operations and their ranges.
        rand_augment_magnitude: share of its range that each operation takes.
        rand_augment_probability: with which each of them is applied.
        cutout: side of a grey square at a random place, as a share of the view's.

    Raises:
        ValueError: if a value is out of range.

    Reference:
        Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations",
        appendix A. Differs: the order of the colour changes is drawn for a batch.
    """

    min_area: float = 1.0
    aspect: float = 4 / 3
    flip: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter_probability: float = 0.8
    grey_probability: float = 0.0
    blur_probability: float = 0.0
    shift: float = 0.0
    rand_augment: int = 0
    rand_augment_magnitude: float = 1 / 3
    rand_augment_probability: float = 0.5
    cutout: float = 0.0

    def __post_init__(self):
        if not 0 < self.min_area <= 1 or not self.aspect >= 1:
            raise ValueError(
                f"min_area must be in (0, 1] and aspect at least 1. Received: {self.min_area} and "
                f"{self.aspect}."
            )
        if not 0 <= self.shift <= (0.5 if self.min_area == 1 else 0):
            raise ValueError(
                f"shift must be in [0, 0.5], and 0 unless min_area is 1. Received: {self.shift}."
            )
        if not isinstance(self.rand_augment, int) or self.rand_augment < 0:
            raise ValueError(
                f"rand_augment must be a whole number, at least 0. Received: {self.rand_augment}."
            )
        shares = dataclasses.asdict(self)
        for name in shares.keys() - {"min_area", "aspect", "flip", "shift", "rand_augment"}:
            if not 0 <= shares[name] <= 1:
                raise ValueError(f"{name} must be in [0, 1]. Received: {shares[name]}.")


_WEAK = Augmentation(aspect=1.0, shift=1 / 8)
_STRONG = dataclasses.replace(_WEAK, rand_augment=2, rand_augment_magnitude=1.0, cutout=0.5)

AUGMENTATIONS = {
    # Digits, letters, signs: mirrored or recoloured they may be something else.
    "symbols": Augmentation(min_area=0.5, brightness=0.4, contrast=0.4),
    "cifar": Augmentation(
        0.2, flip=True, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey_probability=0.2
    ),
    "imagenet": Augmentation(
        0.08,
        flip=True,
        brightness=0.8,
        contrast=0.8,
        saturation=0.8,
        hue=0.2,
        grey_probability=0.2,
        blur_probability=0.5,
    ),
    # As FixMatch and CoMatch treat CIFAR.
    "weak": dataclasses.replace(_WEAK, flip=True),
    "strong": dataclasses.replace(_STRONG, flip=True),
    # Symbols often fill the image: less of them is turned or moved out of it.
    "weak_symbols": _WEAK,
    "strong_symbols": dataclasses.replace(_STRONG, rand_augment_magnitude=0.5),
}

# Far from the small numbers that kinds of views fold in.
_SHIFT_SEED, _OPERATIONS_SEED, _CUTOUT_SEED = 10**6, 10**6 + 1, 10**6 + 2


def check_augmentation(name: str) -> None:
    """Raises `UserError` unless `name` is a known augmentation."""
    if name not in AUGMENTATIONS:
        raise UserError(
            f"augmentation must be one of {', '.join(AUGMENTATIONS)}. Received: {name!r}."
        )


@dataclasses.dataclass(frozen=True)
class Share:
    """Which images of a batch are made here: all random numbers are those of the whole batch.

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
    """Random resized crops, placed uniformly, and then shifted.

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
    area = share.uniform([count], area_seed, augmentation.min_area, 1.0)
    limit = tf.math.log(augmentation.aspect)
    aspect = tf.exp(share.uniform([count], aspect_seed, -limit, limit))
    # In pixels the crop has width / height = aspect; these are its shares of the image's sides.
    share_h = tf.sqrt(area / aspect * shape[2] / shape[1])
    share_w = tf.sqrt(area * aspect * shape[1] / shape[2])
    # A crop that does not fit is made smaller, not narrower, so that nothing is distorted.
    fit = tf.minimum(1.0, 1.0 / tf.maximum(share_h, share_w))
    share_h, share_w = share_h * fit, share_w * fit
    top, left = tf.unstack(share.uniform([count, 2], place_seed), axis=1)
    top, left = top * (1 - share_h), left * (1 - share_w)
    boxes = tf.stack([top, left, top + share_h, left + share_w], axis=1)
    owners = tf.repeat(tf.range(tf.shape(images)[0]), num_views)
    crops = tf.image.crop_and_resize(images, boxes, owners, [image_size_px, image_size_px])
    crops.set_shape([None, image_size_px, image_size_px, 3])
    if augmentation.shift:
        crops = _shift(crops, augmentation.shift, tf.random.fold_in(seed, _SHIFT_SEED), share)
    return crops


def _shift(images, shift, seed, share):
    """Moves images [n, S, S, 3] by whole pixels; a reflection fills what is left free."""
    side = images.shape[1]
    limit = round(shift * side)
    padded = tf.pad(images, [[0, 0], [limit, limit], [limit, limit], [0, 0]], "REFLECT")
    firsts = tf.cast(share.uniform([tf.shape(images)[0], 2], seed, 0, 2 * limit + 1), tf.int32)
    rows, columns = tf.unstack(firsts[..., None] + tf.range(side), axis=1)
    return tf.gather(tf.gather(padded, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)


def recolor(images, augmentation, seed, share=WHOLE):
    """Flip, colour jitter, grey, blur, operations and cutout, drawn for each image on its own.

    The order of the colour changes is drawn once for the batch.

    Args:
        images: float32 [B, S, S, 3] in [0, 1].
        augmentation: an `Augmentation`.
        seed: int [2].
        share: which images of the global batch these are.

    Returns:
        float32 [B, S, S, 3] in [0, 1].
    """

    def chosen(probability, seed):
        """Bool [B, 1, 1, 1], true with the given probability."""
        return share.uniform([count, 1, 1, 1], seed) < probability

    count = tf.shape(images)[0]
    flip_seed, jitter_seed, grey_seed, blur_seed = tf.unstack(tf.random.split(seed, 4))
    if augmentation.flip:
        images = tf.where(chosen(0.5, flip_seed), images[:, :, ::-1], images)
    jittered, chosen_seed = _jitter(images, augmentation, jitter_seed, share)
    images = tf.where(chosen(augmentation.jitter_probability, chosen_seed), jittered, images)
    if augmentation.grey_probability:
        greyed = grey(images) + tf.zeros_like(images)
        images = tf.where(chosen(augmentation.grey_probability, grey_seed), greyed, images)
    if augmentation.blur_probability:
        chosen_seed, sigma_seed = tf.unstack(tf.random.split(blur_seed, 2))
        blurred = _blur(images, sigma_seed, share)
        images = tf.where(chosen(augmentation.blur_probability, chosen_seed), blurred, images)
    images = tf.clip_by_value(images, 0.0, 1.0)
    if augmentation.rand_augment:
        operations_seed = tf.random.fold_in(seed, _OPERATIONS_SEED)
        images = rand_augment(
            images,
            share.uniform([count, augmentation.rand_augment, 3], operations_seed),
            augmentation.rand_augment_magnitude,
            augmentation.rand_augment_probability,
        )
    if augmentation.cutout:
        centers = share.uniform([count, 2], tf.random.fold_in(seed, _CUTOUT_SEED))
        images = cut_out(images, centers, augmentation.cutout)
    return images


def _jitter(images, augmentation, seed, share):
    """The images with changed colours, and the seed that chooses whose changes count."""
    changes = [
        (change, strength)
        for change, strength in (
            (lambda x, u: x * (1 + u), augmentation.brightness),
            (_change_contrast, augmentation.contrast),
            (lambda x, u: grey(x) + (x - grey(x)) * (1 + u), augmentation.saturation),
            (_turn_hue, augmentation.hue),
        )
        if strength
    ]
    chosen_seed, order_seed, *seeds = tf.unstack(tf.random.split(seed, 2 + len(changes)))

    def branch(index):
        change, strength = changes[index]

        def apply(x):
            shape = [tf.shape(x)[0], 1, 1, 1]
            amount = share.uniform(shape, seeds[index], -strength, strength)
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
