"""A user's own images: one subfolder per class, with or without train/ and test/ above them.

A subfolder unlabeled/ beside them holds training images, at any depth, whose class is not known.
"""

import concurrent.futures
import contextlib
import hashlib
import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sklearn.model_selection import train_test_split
from tqdm import tqdm

from supcon_tf.core.errors import StorageError, UserError
from supcon_tf.data.images import EXTENSIONS, fault_of, images_in

DEFAULT_HOLDOUT = 0.2
UNLABELED_FOLDER = "unlabeled"

Example = tuple[str, str]  # File name relative to the root, class name.


@contextlib.contextmanager
def _naming_folders():
    """Turns what the system says of a folder that cannot be read into one line."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot read folder {error.filename}: {error.strerror}. Make it readable, or move it "
            "away."
        ) from error


@_naming_folders()
def read_folder(
    path: str,
    holdout_fraction: float | None,
    seed: int,
    skip_bad_images: bool,
    bad_images: Sequence[str] | None = None,
) -> tuple[list[str], dict[str, list[Example]], list[str]]:
    """Lists, checks and splits a folder data set.

    Args:
        path: folder with one subfolder a class, or with train/ and test/ that hold those; perhaps
            with unlabeled/ beside them.
        holdout_fraction: share of each class that becomes the test split where there is no test/;
            None for 0.2.
        seed: seed of that split.
        skip_bad_images: leave unreadable files out rather than stop.
        bad_images: the files that an earlier check found unreadable; None decodes every image.

    Returns:
        The class names in order; the examples of "train", "test" and, where there are some,
        "unlabeled" (of class ''); the files left out.

    Raises:
        UserError: if the folder or one of its images cannot be used.
    """
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"folder data set not found. Received: {path!r}. Check the path.")
    splits = _list_splits(path, root, holdout_fraction)
    class_names = _check_classes(path, splits)
    splits |= _list_unlabeled(root)
    examples = [example for split in splits.values() for example in split]
    bad = list(check_images(root, examples) if bad_images is None else bad_images)
    if bad and not skip_bad_images:
        raise StorageError(
            f"{bad_images_line(root, bad)} Remove or replace it, or pass --skip_bad_images."
        )
    excluded = set(bad)
    splits = {
        name: [example for example in split if example[0] not in excluded]
        for name, split in splits.items()
    }
    if "all" in splits:
        fraction = DEFAULT_HOLDOUT if holdout_fraction is None else holdout_fraction
        splits["train"], splits["test"] = hold_out(path, splits.pop("all"), fraction, seed)
    _check_classes(path, {name: splits[name] for name in ("train", "test")})
    return class_names, splits, bad


def _list_unlabeled(root):
    """The examples of the subfolder unlabeled/, if there is one."""
    folder = root / UNLABELED_FOLDER
    if (root / "unlabelled").is_dir():
        raise UserError(f"folder {root} has unlabelled/. Name it unlabeled/, or rename the class.")
    if not folder.is_dir():
        return {}
    return {UNLABELED_FOLDER: [(file, "") for file in _list_images(root, folder)]}


def _list_splits(path: str, root: Path, holdout_fraction: float | None):
    if not (root / "train").is_dir():
        return {"all": list_classes(root, "")}
    if not (root / "test").is_dir():
        raise UserError(f"{path} has train/ but no test/. Add test/, or move the classes up.")
    if holdout_fraction is not None:
        raise UserError(
            f"holdout_fraction is for a folder without train/ and test/. Received: "
            f"{holdout_fraction}. Leave it out."
        )
    return {name: list_classes(root, name) for name in ("train", "test")}


def fingerprint(path: str, examples: list[Example]) -> str:
    """SHA-256 over the names and sizes of a split's files."""
    digest = hashlib.sha256()
    for name, _ in examples:
        line = f"{name}\0{os.path.getsize(Path(path) / name)}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


@_naming_folders()
def list_classes(root: Path, split: str = "") -> list[Example]:
    """The image files under each class folder of `root / split`, at any depth, in a fixed order.

    Raises:
        UserError: if one of them holds none, or cannot be read.
    """
    examples = []
    with os.scandir(root / split) as entries:
        folders = sorted(Path(entry) for entry in entries if entry.is_dir())
    for folder in folders:
        hidden = folder.name.startswith(".") or folder == root / UNLABELED_FOLDER
        if not hidden:
            examples += [(file, folder.name) for file in _list_images(root, folder)]
    return examples


def _list_images(root: Path, folder: Path) -> list[str]:
    """The image files in a folder at any depth, relative to the root, in a fixed order."""
    files = images_in(folder)
    if not files:
        raise UserError(f"folder {folder} holds no image ({', '.join(EXTENSIONS)}).")
    return [file.relative_to(root).as_posix() for file in files]


def _check_classes(path: str, splits: dict[str, list[Example]]) -> list[str]:
    """Returns the class names, once every split is known to have them all."""
    names = {split: {label for _, label in examples} for split, examples in splits.items()}
    every = sorted(set().union(*names.values()))
    if not every:
        raise UserError(f"folder {path} has no class subfolders. Give it one subfolder a class.")
    split_like = {"train", "training", "val", "valid", "validation", "test", "testing"}
    if set(every) <= split_like:
        raise UserError(
            f"folder {path} has the subfolders {', '.join(every)}, which are no classes. Name the "
            "splits train and test, with one subfolder a class in each."
        )
    unprintable = [name for name in every if not name.isprintable()]
    if unprintable:
        raise UserError(f"class names must be printable. Received: {unprintable[0]!r}. Rename it.")
    if len(every) < 2:
        raise UserError(f"folder {path} has one class, {every[0]!r}; at least 2 are needed.")
    for split, found in names.items():
        missing = sorted(set(every) - found)
        if missing:
            raise UserError(
                f"class {missing[0]!r} of folder {path} has no images in split {split!r}. Add some."
            )
    return every


def hold_out(path, examples, fraction, seed, setting="holdout_fraction"):
    """Holds a share of every class out.

    Args:
        path: the folder, for the error.
        examples: file and label of each image.
        fraction: share in (0, 1).
        seed: which ones are held out.
        setting: the setting to blame.

    Returns:
        The other examples and those held out, each in a fixed order.

    Raises:
        UserError: if a class has too few images to be on both sides.
    """
    labels = [label for _, label in examples]
    rarest, count = min(Counter(labels).items(), key=lambda item: item[1])
    # One image of each class on either side, at least.
    needed = math.ceil(1 / min(fraction, 1 - fraction))
    if count < needed:
        raise UserError(
            f"class {rarest!r} of folder {path} has {count} images; {setting}={fraction} needs "
            f"{needed} or more in each class. Add images, or change --{setting}."
        )
    rest, held = train_test_split(examples, test_size=fraction, stratify=labels, random_state=seed)
    return sorted(rest), sorted(held)


def bad_images_line(root: Path, bad: Sequence[str]) -> str:
    """A sentence or two that name the first of the files that `check_images` has found."""
    more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    return f"cannot read image {root / bad[0]}{more}: {fault_of(root / bad[0])}"


def check_images(root: Path, examples: Sequence[Example]) -> list[str]:
    """The names of the files under `root` that do not decode, as training would decode them."""

    def is_bad(example):
        return fault_of(root / example[0]) is not None

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        checks = pool.map(is_bad, examples)
        shown = tqdm(
            checks, "checking images", len(examples), leave=False, disable=not sys.stderr.isatty()
        )
        return [name for (name, _), bad in zip(examples, shown, strict=True) if bad]
