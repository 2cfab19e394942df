"""AutoAugment and TrivialAugment, as functions of images and random numbers.

Both draw from the operations of `rand_augment`, in units of the ranges that it lists.
"""

import tensorflow as tf

from supcon_tf.data.rand_augment import ALL_OPERATIONS, OPERATIONS, apply_operations

_PLACES = {name: place for place, name in enumerate(ALL_OPERATIONS)}
_GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
_ENHANCING = ("brightness", "color", "contrast", "sharpness")

# Pairs of operations, each with its probability and its level, 0 to 9 (0 where there is none).
_PAIRS = {
    "imagenet": (
        "posterize .4 8, rotate .6 9",
        "solarize .6 5, autocontrast .6 0",
        "equalize .8 0, equalize .6 0",
        "posterize .6 7, posterize .6 6",
        "equalize .4 0, solarize .2 4",
        "equalize .4 0, rotate .8 8",
        "solarize .6 3, equalize .6 0",
        "posterize .8 5, equalize 1 0",
        "rotate .2 3, solarize .6 8",
        "equalize .6 0, posterize .4 6",
        "rotate .8 8, color .4 0",
        "rotate .4 9, equalize .6 0",
        "equalize 0 0, equalize .8 0",
        "invert .6 0, equalize 1 0",
        "color .6 4, contrast 1 8",
        "rotate .8 8, color 1 2",
        "color .8 8, solarize .8 7",
        "sharpness .4 7, invert .6 0",
        "shear_x .6 5, equalize 1 0",
        "color .4 0, equalize .6 0",
        "equalize .4 0, solarize .2 4",
        "solarize .6 5, autocontrast .6 0",
        "invert .6 0, equalize 1 0",
        "color .6 4, contrast 1 8",
        "equalize .8 0, equalize .6 0",
    ),
    "cifar10": (
        "invert .1 0, contrast .2 6",
        "rotate .7 2, translate_x .3 9",
        "sharpness .8 1, sharpness .9 3",
        "shear_y .5 8, translate_y .7 9",
        "autocontrast .5 0, equalize .9 0",
        "shear_y .2 7, posterize .3 7",
        "color .4 3, brightness .6 7",
        "sharpness .3 9, brightness .7 9",
        "equalize .6 0, equalize .5 0",
        "contrast .6 7, sharpness .6 5",
        "color .7 7, translate_x .5 8",
        "equalize .3 0, autocontrast .4 0",
        "translate_y .4 3, sharpness .2 6",
        "brightness .9 6, color .2 8",
        "solarize .5 2, invert 0 0",
        "equalize .2 0, autocontrast .6 0",
        "equalize .2 0, equalize .6 0",
        "color .9 9, equalize .6 0",
        "autocontrast .8 0, solarize .2 8",
        "brightness .1 3, color .7 0",
        "solarize .4 5, autocontrast .9 0",
        "translate_y .9 9, translate_y .7 9",
        "autocontrast .9 0, solarize .8 3",
        "equalize .8 0, invert .1 0",
        "translate_y .7 9, autocontrast .9 0",
    ),
}


def auto_augment(images, numbers, table):
    """Applies to each image one of a table's 25 pairs of operations, learned for a data set.

    A level l stands for l / 10 of

        rotate      30 degrees, either way
        shear       0.3 of the distance from the upper or left edge, either way
        translate   150 / 331 of the side, either way
        posterize   4 of 8 bits, rounded
        solarize    all levels, from the brightest on

    and for the factor 0.1 + 1.8 l / 10 on what brightness, color, contrast and sharpness change.

    Args:
        images: float32 [B, S, S, 3] in [0, 1], S >= 2.
        numbers: float32 [B, 5], uniform in [0, 1): for each image which pair, and for each
            operation whether it is applied and in which direction.
        table: "imagenet" or "cifar10".

    Returns:
        float32 [B, S, S, 3] in [0, 1].

    Reference:
        Cubuk et al. 2019, "AutoAugment: Learning Augmentation Strategies from Data",
        appendix. Differs: what is turned or moved in is grey for both data sets.
    """
    pairs = tf.constant([[_entry(one) for one in pair.split(", ")] for pair in _PAIRS[table]])
    drawn = tf.gather(pairs, tf.cast(numbers[:, 0] * len(_PAIRS[table]), tf.int32))  # [B, 2, 4]
    for slot in (0, 1):
        place, probability, amount, is_geometric = tf.unstack(drawn[:, slot], axis=1)
        chance, direction = numbers[:, 1 + 2 * slot], numbers[:, 2 + 2 * slot]
        which = tf.where(chance < probability, tf.cast(place, tf.int32), _PLACES["identity"])
        turned = (is_geometric > 0) & (direction < 0.5)
        images = apply_operations(images, which, tf.where(turned, -amount, amount))
    return images


def _entry(text):
    """Place, probability, amount and whether it has two directions, of "rotate .6 9"."""
    name, probability, level = text.split()
    share = int(level) / 10
    units = {"translate_x": (150 / 331) / (10 / 32), "solarize": 2.0}
    units["translate_y"] = units["translate_x"]
    amount = 2 * share - 1 if name in _ENHANCING else units.get(name, 1.0) * share
    return float(_PLACES[name]), float(probability), amount, float(name in _GEOMETRIC)


def trivial_augment(images, numbers):
    """Applies one operation to each image, at a strength that is drawn too.

    The strength is one of 31 levels, evenly spaced from nothing to

        rotate      135 degrees, either way
        shear       0.99 of the distance from the upper or left edge, either way
        translate   32 pixels, either way
        brightness, color, contrast, sharpness
                    1 +- 0.99 times the distances that `rand_augment` lists
        posterize   6 of 8 bits, rounded
        solarize    all levels

    Args:
        images: float32 [B, S, S, 3] in [0, 1], S >= 2.
        numbers: float32 [B, 3], uniform in [0, 1): which operation, its level and its direction.

    Returns:
        float32 [B, S, S, 3] in [0, 1].

    Reference:
        Müller and Hutter 2021, "TrivialAugment: Tuning-free Yet State-of-the-Art Data
        Augmentation", the wide space.
    """
    translate = (32 / images.shape[1]) / (10 / 32)
    limits = {
        "rotate": 135 / 30,
        **dict.fromkeys(("shear_x", "shear_y"), 0.99 / 0.3),
        **dict.fromkeys(("translate_x", "translate_y"), translate),
        **dict.fromkeys(_ENHANCING, 0.99 / 0.9),
        "posterize": 6 / 4,
        "solarize": 2.0,
    }
    drawn, level, direction = tf.unstack(numbers, axis=1)
    which = tf.cast(drawn * len(OPERATIONS), tf.int32)
    amounts = tf.floor(level * 31) / 30 * tf.gather([limits.get(n, 1.0) for n in OPERATIONS], which)
    return apply_operations(images, which, tf.where(direction < 0.5, -amounts, amounts))
