"""Hold-out splits of a user's own images, stratified by class; tied files stay together."""

import itertools
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from supcon_tf.core.errors import UserError

# File name relative to the root, and its class name: '' if it is not known, or a tuple of names if
# images have several.
Example = tuple[str, str | tuple[str, ...]]
# If whole groups are held out, shares are rounded to those of at most this many folds.
_MOST_FOLDS = 10


def tie(names: Sequence[str], ties: Iterable[Sequence[str]]) -> dict[str, int]:
    """Numbers files so that those tied together, directly or through others, share a number.

    Args:
        names: names of the files.
        ties: groups of names that must stay together; unknown names in them are ignored.

    Returns:
        The number of each file.
    """
    place = {name: number for number, name in enumerate(names)}
    known = ([place[name] for name in tied if name in place] for tied in ties)
    pairs = [pair for places in known for pair in itertools.pairwise(places)]
    rows, columns = np.array(pairs, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(pairs)), (rows, columns)), shape=(len(names), len(names)))
    _, numbers = connected_components(graph, directed=False)
    return dict(zip(names, numbers.tolist(), strict=True))


def hold_out(
    what: str,
    examples: Sequence[Example],
    fraction: float,
    seed: int,
    setting: str,
    unit_of: Mapping[str, int],
) -> tuple[list[Example], list[Example]]:
    """Holds out a share of every class.

    Args:
        what: name of the images, for the error, such as "folder photos".
        examples: file and label of each image.
        fraction: share in (0, 1).
        seed: decides which ones are held out.
        setting: the setting to name in the error.
        unit_of: number of each file, from `tie`; files that share a number count once, in the class
            of the first of them, and stay on one side.

    Returns:
        The other examples and those held out, each in a fixed order.

    Raises:
        UserError: if a class has too few images to be on both sides.
    """
    units = units_of(examples, unit_of)
    labels = [unit[0][1] for unit in units]
    counts = {label: 0 for _, label in examples} | Counter(labels)
    check_rarest(what, counts, fraction, setting, len(units) < len(examples))
    sides = train_test_split(
        range(len(units)), test_size=fraction, stratify=labels, random_state=seed
    )
    return tuple(sorted(itertools.chain.from_iterable(units[at] for at in side)) for side in sides)


def check_rarest(
    what: str, counts: Mapping[str, int], fraction: float, setting: str, has_copies: bool
) -> None:
    """Refuses a share that would leave a class without an image on one side.

    Args:
        what: name of the images, for the error.
        counts: images of each class.
        fraction: share in (0, 1).
        setting: the setting to name in the error.
        has_copies: whether several files were counted once.
    """
    rarest, count = min(counts.items(), key=lambda item: item[1])
    needed = math.ceil(1 / min(fraction, 1 - fraction))
    if count < needed:
        counted = ", copies counted once" * has_copies
        counted += " besides those held out" * (setting == "validation_fraction")
        raise UserError(
            f"class {rarest!r} of {what} has {count} images{counted}; {setting}={fraction} needs "
            f"{needed} or more in each class. Add images, or change --{setting}."
        )


def units_of(examples: Sequence[Example], unit_of: Mapping[str, int]) -> list[list[Example]]:
    """The examples grouped by their files' numbers, in the order of first appearance."""
    units: dict[int, list[Example]] = {}
    for example in examples:
        units.setdefault(unit_of[example[0]], []).append(example)
    return list(units.values())


def hold_out_groups(
    what: str,
    examples: Sequence[Example],
    fraction: float,
    seed: int,
    setting: str,
    group_of: Mapping[str, int],
) -> tuple[list[Example], list[Example]]:
    """Holds out whole groups, so that the share of each class is near `fraction`.

    Args:
        what: name of the images, for the error.
        examples: file and label of each image.
        fraction: share in (0, 1).
        seed: decides which groups are held out.
        setting: the setting to name in the error.
        group_of: number of each file's group, from `tie`.

    Returns:
        The other examples and those held out, each in a fixed order.

    Raises:
        UserError: if no choice of groups leaves every class on both sides.
    """
    labels = np.array([label for _, label in examples])
    groups = np.array([group_of[name] for name, _ in examples])
    for name in np.unique(labels):
        if len(np.unique(groups[labels == name])) < 2:
            raise UserError(
                f"class {str(name)!r} of {what} has only one group of images, but "
                f"{setting}={fraction} needs two or more. Received: holdout_by=folder. Spread its "
                "images over several subfolders, or leave --holdout_by out."
            )
    small = min(fraction, 1 - fraction)
    for share in _shares(small, len(np.unique(groups))):
        held = _held_groups(labels, groups, share, small, seed)
        if held is not None:
            break
    else:
        raise UserError(
            f"the groups of {what} cannot be split for {setting}={fraction} with every class on "
            "both sides. Received: holdout_by=folder. Make smaller groups, or leave --holdout_by "
            "out."
        )
    held = held if fraction == small else ~held
    return tuple(
        sorted(example for example, wanted in zip(examples, side, strict=True) if wanted)
        for side in (~held, held)
    )


def _shares(fraction, groups):
    """Shares that whole folds can have: first the nearest, then larger ones up to a half."""
    near = Fraction(fraction).limit_denominator(min(_MOST_FOLDS, groups))
    most = min(int(1 / fraction), groups)
    return [near or Fraction(1, most), *(Fraction(1, folds) for folds in range(most, 1, -1))]


def _held_groups(labels, groups, share, wanted, seed):
    """Whether each example is held out, bool [N]; None if a class would be on one side only."""
    if share.denominator > np.unique(labels, return_counts=True)[1].max():
        return None
    folds = StratifiedGroupKFold(share.denominator, shuffle=True, random_state=seed)
    fold_of = np.empty(len(labels), int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # A class may be in fewer folds.
        for number, (_, own) in enumerate(folds.split(labels, labels, groups)):
            fold_of[own] = number
    masks = [
        (fold_of - first) % share.denominator < share.numerator
        for first in range(share.denominator)
    ]
    is_class = [labels == name for name in np.unique(labels)]
    shares = np.array([[mask[own].mean() for own in is_class] for mask in masks])
    errors = np.where((shares > 0) & (shares < 1), np.abs(shares - wanted), np.inf).max(axis=1)
    return masks[errors.argmin()] if errors.min() < np.inf else None
