"""Checks and splits a user's own images, whether a folder or a table lists them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from supcon_tf.core.errors import StorageError, UserError
from supcon_tf.data.balance import stratified_places
from supcon_tf.data.holding_out import Example, hold_out, hold_out_groups, tie
from supcon_tf.data.image_checks import (
    Copies,
    check_images,
    copies_lines,
    faults_line,
    list_faults,
)
from supcon_tf.data.several_labels import classes_of, hold_out_several

DEFAULT_HOLDOUT = 0.2
UNLABELED_FOLDER = "unlabeled"


@dataclasses.dataclass(frozen=True)
class Listing:
    """Images as a folder or a table lists them; none has been read yet.

    Attributes:
        what: its name in messages, such as "folder photos".
        root: folder to which the file names are relative.
        splits: examples by split: "all", which is still to be divided, or "train" and "test";
            perhaps also "unlabeled", whose examples have the class ''.
        group_of: by file, the group that `holdout_by=folder` keeps together; a file without an
            entry forms a group by itself.
        group_source: where groups would come from, for the error if there are none.
        undivided: description of such a listing without train and test, for an error.
        remarks: lines about the listing itself.
        labels_in_names: whether the name of a file depends on its class.
        multi_label: whether an image has any number of classes; the label of an example is then a
            tuple of their names.
    """

    what: str
    root: Path
    splits: Mapping[str, list[Example]]
    group_of: Mapping[str, str]
    group_source: str
    undivided: str
    remarks: tuple[str, ...] = ()
    labels_in_names: bool = True
    multi_label: bool = False


@dataclasses.dataclass(frozen=True)
class Splitting:
    """How images are checked and split; the fields are arguments of `open_dataset`."""

    holdout_fraction: float | None = None
    holdout_by: str = "image"
    validation_fraction: float = 0.0
    seed: int = 0
    skip_bad_images: bool = False
    bad_images: Sequence[str] | None = None
    copies: Copies | None = None
    train_images: int | None = None


@dataclasses.dataclass(frozen=True)
class OwnImages:
    """Images that have been checked and split.

    Attributes:
        listing: where they come from.
        class_names: in order.
        splits: examples of "train", "test" and, if there are any, "validation" and "unlabeled".
        bad_images: files left out.
        copies: groups of two or more file names with the same content.
        remarks: lines for the user; none if the images had been checked before.
    """

    listing: Listing
    class_names: list[str]
    splits: dict[str, list[Example]]
    bad_images: list[str]
    copies: Copies
    remarks: list[str]


def check_and_split(listing: Listing, how: Splitting) -> OwnImages:
    """Checks the images of a listing and splits them.

    Raises:
        UserError: if the classes or one of the images cannot be used, or a setting does not fit.
    """
    _check_settings(listing, how)
    class_names = check_classes(listing.what, _labelled(listing.splits))
    names = [name for examples in listing.splits.values() for name, _ in examples]
    faults, copies = _check_files(listing, how, names)
    splits = {
        split: [example for example in examples if example[0] not in faults]
        for split, examples in listing.splits.items()
    }
    found = _remarks(splits, faults, copies)
    splits, held = _split(listing, how, splits, copies)
    lost = sorted({*class_names} - {*check_classes(listing.what, _labelled(splits))})
    if lost:
        raise UserError(
            f"class {lost[0]!r} of {listing.what} has no readable image. Add some, or remove it."
        )
    known = how.bad_images is not None  # Then everything was reported when they were found.
    remarks = [] if known else [*listing.remarks, *found, *held]
    return OwnImages(listing, class_names, splits, list(faults), copies, remarks)


def _labelled(splits):
    return {name: examples for name, examples in splits.items() if name != UNLABELED_FOLDER}


def _check_settings(listing, how):
    divided = "all" in listing.splits
    if how.holdout_fraction is not None and not divided:
        raise UserError(
            f"holdout_fraction applies only to {listing.undivided}. Received: "
            f"{how.holdout_fraction}. Leave it out."
        )
    if how.validation_fraction and "validation" in listing.splits:
        raise UserError(
            "validation_fraction applies only to images without a validation split. Received: "
            f"{how.validation_fraction}, with {listing.what}. Pass --validation_fraction=0."
        )
    if how.holdout_by == "image":
        return
    if not divided and not how.validation_fraction:
        raise UserError(
            f"holdout_by applies only to images without splits. Received: {how.holdout_by}, with "
            f"{listing.what}, which has splits. Leave it out, or pass --validation_fraction."
        )
    if not listing.group_of:
        raise UserError(
            f"holdout_by=folder needs {listing.group_source}. Received: {listing.what}, which has "
            "none. Add some, or leave --holdout_by out."
        )


def check_classes(what: str, splits: Mapping[str, Sequence[Example]]) -> list[str]:
    """Returns the class names, after checking that every split has all of them.

    Args:
        what: name of the images, for the error.
        splits: labelled examples by split.

    Raises:
        UserError: if a split lacks a class, or the classes cannot be used.
    """
    names = {
        split: {name for _, label in examples for name in classes_of(label)}
        for split, examples in splits.items()
    }
    every = sorted(set().union(*names.values()))
    unprintable = [name for name in every if not name.isprintable()]
    if unprintable:
        raise UserError(f"class names must be printable. Received: {unprintable[0]!r}. Rename it.")
    if len(every) < 2:
        raise UserError(f"{what} has only the class {every[0]!r}. Add images of another class.")
    for split, found in names.items():
        missing = sorted(set(every) - found)
        if missing:
            raise UserError(
                f"class {missing[0]!r} of {what} has no images in split {split!r}. Add some."
            )
    return every


def _check_files(listing, how, names):
    """The faults by file name, and the copies; of faults found earlier only the names are known."""
    if how.bad_images is not None:
        return dict.fromkeys(how.bad_images, ""), how.copies or []
    faults, copies = check_images(listing.root, names)
    if faults and not how.skip_bad_images:
        them = "it" if len(faults) == 1 else "them"
        raise StorageError(
            f"{faults_line(listing.root, faults)} Remove or replace {them}, or pass "
            "--skip_bad_images."
        )
    return faults, copies if how.copies is None else how.copies


def _remarks(splits, faults, copies):
    """Lines about the files themselves."""
    lines = []
    if faults:
        lines.append(f"unreadable images left out: {len(faults)} ({list_faults(faults)})")
    label_of = {name: label for examples in splits.values() for name, label in examples}
    split_of = {name: split for split, examples in splits.items() for name, _ in examples}
    return lines + copies_lines(copies, label_of, split_of)


def _split(listing, how, splits, copies):
    """The splits, divided as requested, and lines about the images held out.

    Copies stay together, and with `holdout_by=folder` so do the files of a group. Unlabelled images
    that are tied to held-out ones are left out.
    """
    names = [name for examples in splits.values() for name, _ in examples]
    groups: dict[str, list[str]] = {}
    if how.holdout_by == "folder":
        for name in names:
            groups.setdefault(listing.group_of.get(name, f"/{name}"), []).append(name)
    unit_of = tie(names, [*copies, *groups.values()])
    lines, held = [], set()

    def divide(source, target, fraction, setting):
        cut = hold_out_groups if groups else hold_out
        cut = hold_out_several if listing.multi_label else cut
        parts = cut(listing.what, splits.pop(source), fraction, how.seed, setting, unit_of)
        splits["train"], splits[target] = parts
        held.update(unit_of[name] for name, _ in parts[1])
        if groups:
            lines.append(_share_line(target, *parts, unit_of))

    if "all" in splits:
        fraction = DEFAULT_HOLDOUT if how.holdout_fraction is None else how.holdout_fraction
        divide("all", "test", fraction, "holdout_fraction")
    if how.train_images is not None:
        train = splits["train"]
        labels = np.unique([label for _, label in train], return_inverse=True)[1]
        places = stratified_places(labels, how.train_images, how.seed)
        splits["train"] = [train[place] for place in places]
    if how.validation_fraction:
        divide("train", "validation", how.validation_fraction, "validation_fraction")
    if UNLABELED_FOLDER in splits:
        unlabelled = splits[UNLABELED_FOLDER]
        kept = [example for example in unlabelled if unit_of[example[0]] not in held]
        splits[UNLABELED_FOLDER] = kept
        if len(kept) < len(unlabelled):
            count = len(unlabelled) - len(kept)
            lines.append(f"unlabelled images left out, related to held-out ones: {count}")
    return splits, lines


def _share_line(split, rest, held, unit_of):
    """A line on the share of images and groups in a split of whole groups."""
    images = len(rest) + len(held)
    groups, own = (len({unit_of[name] for name, _ in part}) for part in (rest + held, held))
    return (
        f"{split} split by folder: {len(held)} of {images} images ({100 * len(held) / images:.1f} "
        f"%), {own} of {groups} groups"
    )
