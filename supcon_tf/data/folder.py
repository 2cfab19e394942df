"""A user's own images: one subfolder a class, with or without train/ and test/ above them."""

import concurrent.futures
import hashlib
import os
import sys
from collections import Counter
from pathlib import Path

import tensorflow as tf
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from supcon_tf.data.images import EXTENSIONS, decode
from supcon_tf.errors import UserError

Example = tuple[str, str]  # File name relative to the root, class name.


def read_folder(
    path: str, holdout_fraction: float, seed: int, skip_bad_images: bool
) -> tuple[list[str], dict[str, list[Example]], list[str]]:
    """Lists, checks and splits a folder data set. Every image is decoded once.

    Args:
        path: folder with one subfolder a class, or with train/ and test/ that hold those.
        holdout_fraction: share of each class that becomes the test split where there is no test/.
        seed: seed of that split.
        skip_bad_images: leave unreadable files out rather than stop.

    Returns:
        The class names in order; the examples of "train" and "test"; the files left out.

    Raises:
        UserError: if the folder or one of its images cannot be used.
    """
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"folder data set not found. Received: {path!r}. Check the path.")
    if (root / "train").is_dir():
        if not (root / "test").is_dir():
            raise UserError(f"{path} has train/ but no test/. Add test/, or move the classes up.")
        splits = {name: _list_classes(root, name) for name in ("train", "test")}
    else:
        splits = {"all": _list_classes(root, "")}
    class_names = _check_classes(path, splits)
    bad = _check_images(root, [example for examples in splits.values() for example in examples])
    if bad and not skip_bad_images:
        raise UserError(
            f"cannot read image {root / bad[0]}"
            + f" and {len(bad) - 1} more" * (len(bad) > 1)
            + ". Remove or replace it, or pass --skip_bad_images."
        )
    excluded = set(bad)
    splits = {
        name: [example for example in examples if example[0] not in excluded]
        for name, examples in splits.items()
    }
    if "all" in splits:
        splits = _hold_out(path, splits["all"], holdout_fraction, seed)
    _check_classes(path, splits)
    return class_names, splits, bad


def fingerprint(path: str, examples: list[Example]) -> str:
    """SHA-256 over the names and sizes of a split's files."""
    digest = hashlib.sha256()
    for name, _ in examples:
        digest.update(f"{name}\0{os.path.getsize(Path(path) / name)}\n".encode())
    return digest.hexdigest()


def _list_classes(root: Path, split: str) -> list[Example]:
    """The image files under each class folder, at any depth, in a fixed order."""
    examples = []
    for folder in sorted(entry for entry in (root / split).iterdir() if entry.is_dir()):
        if folder.name.startswith("."):
            continue
        files = sorted(
            file
            for file in folder.rglob("*")
            if file.suffix.lower() in EXTENSIONS and file.is_file()
        )
        if not files:
            raise UserError(f"class folder {folder} holds no image ({', '.join(EXTENSIONS)}).")
        examples += [(file.relative_to(root).as_posix(), folder.name) for file in files]
    return examples


def _check_classes(path: str, splits: dict[str, list[Example]]) -> list[str]:
    """Returns the class names, once every split is known to have them all."""
    names = {split: {label for _, label in examples} for split, examples in splits.items()}
    every = sorted(set().union(*names.values()))
    if not every:
        raise UserError(f"folder {path} has no class subfolders. Give it one subfolder a class.")
    if len(every) < 2:
        raise UserError(f"folder {path} has one class, {every[0]!r}; at least 2 are needed.")
    for split, found in names.items():
        missing = sorted(set(every) - found)
        if missing:
            raise UserError(
                f"class {missing[0]!r} of folder {path} has no images in split {split!r}. Add some."
            )
    return every


def _hold_out(path, examples, fraction, seed):
    labels = [label for _, label in examples]
    rarest, count = min(Counter(labels).items(), key=lambda item: item[1])
    needed = max(2, -(-1 // min(fraction, 1 - fraction)).__trunc__())
    if count < needed:
        raise UserError(
            f"class {rarest!r} of folder {path} has {count} images; a hold-out of {fraction} needs "
            f"{needed} or more in each class. Add images, or change --holdout_fraction."
        )
    train, test = train_test_split(examples, test_size=fraction, stratify=labels, random_state=seed)
    return {"train": sorted(train), "test": sorted(test)}


def _check_images(root: Path, examples: list[Example]) -> list[str]:
    """The names of the files that do not decode, as training would decode them."""

    def is_bad(example):
        try:
            decode(tf.io.read_file(str(root / example[0])))
        except (tf.errors.OpError, ValueError):
            return True
        return False

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        checks = pool.map(is_bad, examples)
        shown = tqdm(
            checks, "checking images", len(examples), leave=False, disable=not sys.stderr.isatty()
        )
        return [name for (name, _), bad in zip(examples, shown, strict=True) if bad]
