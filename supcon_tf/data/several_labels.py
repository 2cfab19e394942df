"""Images that have several classes each: their labels as rows of bools, and hold-out splits."""

from collections.abc import Mapping, Sequence

import numpy as np

from supcon_tf.data.holding_out import Example, check_rarest, units_of


def classes_of(label: str | tuple[str, ...]) -> tuple[str, ...]:
    """The class names of a label: one name, or those of an image with several classes."""
    return (label,) if isinstance(label, str) else label


def multi_hot(examples: Sequence[Example], class_names: Sequence[str]) -> np.ndarray:
    """The labels bool [N, C] of examples with several classes each: whether an image shows a class.

    Args:
        examples: N files, each with the names of its classes.
        class_names: C names.
    """
    place = {name: number for number, name in enumerate(class_names)}
    shown = np.zeros((len(examples), len(class_names)), bool)
    for row, (_, label) in enumerate(examples):
        shown[row, [place[name] for name in label]] = True
    return shown


def hold_out_several(
    what: str,
    examples: Sequence[Example],
    fraction: float,
    seed: int,
    setting: str,
    unit_of: Mapping[str, int],
) -> tuple[list[Example], list[Example]]:
    """As `hold_out` and `hold_out_groups`, for images with several classes each.

    Iterative stratification: repeatedly, the images of the class with the fewest left are
    distributed, each to the side that lacks most of that class. Images without a class come last.

    Args:
        what: as in `hold_out`.
        examples: file and class names of each image.
        fraction: share in (0, 1).
        seed: as in `hold_out`.
        setting: as in `hold_out`.
        unit_of: number of each file, from `tie`; files that share a number stay on one side.

    Returns:
        The other examples and those held out, each in a fixed order.

    Raises:
        UserError: if a class has too few images to be on both sides.

    Reference:
        Sechidis, Tsoumakas and Vlahavas 2011, "On the Stratification of Multi-Label Data",
        algorithm 1. Differs: files that belong together are distributed as one.
    """
    units = units_of(examples, unit_of)
    names = sorted({name for _, label in examples for name in label})
    counts = np.array([multi_hot(unit, names).sum(axis=0) for unit in units])  # [U, C]
    seen = dict(zip(names, (counts > 0).sum(axis=0).tolist(), strict=True))
    check_rarest(what, seen, fraction, setting, len(units) < len(examples))
    held = _distributed(counts, np.array([len(unit) for unit in units]), fraction, seed)
    return tuple(
        sorted(
            example
            for unit, is_held in zip(units, held, strict=True)
            if is_held == side
            for example in unit
        )
        for side in (False, True)
    )


def _distributed(counts, sizes, fraction, seed):
    """Whether each unit is held out, bool [U].

    Args:
        counts: int [U, C], images of each unit that show each class.
        sizes: int [U], images of each unit.
        fraction: share of the images to hold out.
        seed: of the order in which units are taken.
    """
    shares = np.array([1 - fraction, fraction])
    # What each side still lacks: images of each class [2, C], and images [2].
    lacking, lacking_images = np.outer(shares, counts.sum(axis=0)), shares * sizes.sum()
    order = np.random.default_rng(seed).permutation(len(counts))
    held, left = np.zeros(len(counts), bool), np.ones(len(counts), bool)
    while left.any():
        images_left = counts[left].sum(axis=0)
        classes = np.flatnonzero(images_left)
        rarest = classes[images_left[classes].argmin()] if len(classes) else None
        for unit in order[left[order]]:
            if rarest is not None and not counts[unit, rarest]:
                continue
            wanted = lacking_images if rarest is None else lacking[:, rarest]
            # If both lack the class equally, the side that lacks more images.
            side = int(wanted[1] > wanted[0])
            if np.isclose(*wanted):
                side = int(lacking_images[1] > lacking_images[0])
            held[unit], left[unit] = bool(side), False
            lacking[side] -= counts[unit]
            lacking_images[side] -= sizes[unit]
    return held
