"""AutoAugment and TrivialAugment: what is drawn, and how strong it is against Pillow and SciPy."""

import numpy as np
import pytest
from data.operation_references import SIDE, operated, pictures

from supcon_tf.data.auto_augment import _PAIRS, auto_augment, trivial_augment
from supcon_tf.data.policies import AUTO_AUGMENT_TABLES
from supcon_tf.data.rand_augment import OPERATIONS

NAMES = list(OPERATIONS)
IMAGES = pictures()


def in_units(images):
    return (np.asarray(images) / 255).astype(np.float32)


def close(name, found, expected):
    """As far as the references go: Pillow works in whole levels."""
    exact = name in ("equalize", "posterize", "solarize", "invert", "identity")
    assert found.min() >= 0
    assert found.max() <= 1
    np.testing.assert_allclose(255 * found, np.clip(expected, 0, 255), atol=0.1 if exact else 2)


def value_in_auto_augment(name, level, sign):
    """The physical value of a level from 0 to 9, from tables of the paper."""
    if name == "rotate":
        return sign * 3 * level
    if name.startswith("shear"):
        return sign * 0.03 * level
    if name.startswith("translate"):
        return sign * 15 / 331 * level * SIDE
    return {"posterize": 8 - round(0.4 * level), "solarize": 256 - 25.6 * level}.get(
        name, 0.1 + 0.18 * level
    )


@pytest.mark.parametrize("direction", [0.4, 0.6])
@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.parametrize("table", AUTO_AUGMENT_TABLES)
def test_each_operation_of_each_pair_equals_the_reference(table, slot, direction):
    """Alone: the chance of the other one is too high."""
    numbers = np.ones([25, 5], np.float32)
    numbers[:, 0] = (np.arange(25) + 0.5) / 25
    entries = [pair.split(", ")[slot].split() for pair in _PAIRS[table]]
    chances = [max(0.0, float(probability) - 1e-3) for _, probability, _ in entries]
    numbers[:, 1 + 2 * slot], numbers[:, 2 + 2 * slot] = chances, direction
    for image in IMAGES:
        found = auto_augment(in_units([image] * 25), numbers, table).numpy()
        for (name, probability, level), ours in zip(entries, found, strict=True):
            applied = name if float(probability) else "identity"
            value = value_in_auto_augment(name, int(level), 1 if direction > 0.5 else -1)
            close(applied, ours, operated(applied, image, value))


@pytest.mark.parametrize("table", AUTO_AUGMENT_TABLES)
def test_a_chance_at_its_probability_leaves_the_image(table):
    numbers = np.zeros([25, 5], np.float32)
    numbers[:, 0] = (np.arange(25) + 0.5) / 25
    for slot in (0, 1):
        numbers[:, 1 + 2 * slot] = [
            float(pair.split(", ")[slot].split()[1]) for pair in _PAIRS[table]
        ]
    images = in_units([IMAGES[0]] * 25)
    np.testing.assert_array_equal(auto_augment(images, numbers, table), images)


def test_the_second_operation_follows_the_first():
    """Rotate, which fills with grey, and then equalize: the other way round grey would remain."""
    number = _PAIRS["imagenet"].index("rotate .4 9, equalize .6 0")
    numbers = np.zeros([1, 5], np.float32)
    numbers[0, 0] = (number + 0.5) / 25
    found = auto_augment(in_units(IMAGES[1:2]), numbers, "imagenet").numpy()[0]
    turned = np.rint(operated("rotate", IMAGES[1], -27)).astype(np.uint8)
    expected = operated("equalize", turned, None)
    off = np.abs(255 * found - expected)
    assert np.mean(off < 8) > 0.95  # Half a level decides on a place in the order.
    other = operated("rotate", operated("equalize", IMAGES[1], None).astype(np.uint8), -27)
    assert np.mean(np.abs(expected - other) < 8) < 0.8


# The largest values, of level 30; of solarize and posterize those without a sign.
WIDE = {
    "rotate": 135,
    "shear_x": 0.99,
    "shear_y": 0.99,
    "translate_x": 32,
    "translate_y": 32,
    "posterize": 6,
    "solarize": 256,
}


@pytest.mark.parametrize("level", [0, 11, 30])
@pytest.mark.parametrize("direction", [0.4, 0.6])
def test_trivial_augment_equals_the_reference(level, direction):
    sign = 1 if direction > 0.5 else -1
    numbers = np.full([14, 3], direction, np.float32)
    numbers[:, 0], numbers[:, 1] = (np.arange(14) + 0.5) / 14, (level + 0.5) / 31
    for image in IMAGES:
        found = trivial_augment(in_units([image] * 14), numbers).numpy()
        for name, ours in zip(NAMES, found, strict=True):
            value = sign * WIDE.get(name, 0) * level / 30
            if name in ("brightness", "color", "contrast", "sharpness"):
                value = 1 + sign * 0.99 * level / 30
            elif name == "posterize":
                value = 8 - round(abs(value))
            elif name == "solarize":
                value = 256 - abs(value)
            close(name, ours, operated(name, image, value))


def test_all_levels_are_drawn_equally():
    images = np.full([3100, 2, 2, 3], 0.5, np.float32)
    numbers = np.random.default_rng(0).random([3100, 3]).astype(np.float32)
    numbers[:, 0] = (NAMES.index("brightness") + 0.5) / 14
    levels = np.rint(np.abs(trivial_augment(images, numbers)[:, 0, 0, 0] / 0.5 - 1) / 0.99 * 30)
    counts = np.bincount(levels.astype(int), minlength=31)
    assert len(counts) == 31
    assert counts.min() > 60  # 100 are expected, with a standard deviation of 10.
    assert counts.max() < 140


def test_tables_have_25_pairs():
    assert {name: len(pairs) for name, pairs in _PAIRS.items()} == dict.fromkeys(
        AUTO_AUGMENT_TABLES, 25
    )
