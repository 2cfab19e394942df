"""A folder of a user's own images: one subfolder per class, with or without train/ and test/ above.

A subfolder unlabeled/ next to them holds training images, at any depth, of unknown class.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from supcon_tf.core.errors import StorageError, UserError
from supcon_tf.data.holding_out import Example
from supcon_tf.data.image_files import (
    extensions,
    files_in,
    ignored_line,
    images_in,
    is_junk,
    others_in,
)
from supcon_tf.data.own_images import UNLABELED_FOLDER, Listing


@contextlib.contextmanager
def _naming_folders():
    """Reports an unreadable folder in one line, with the system's reason."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot read folder {error.filename}: {error.strerror}. Make it readable, or move it "
            "away."
        ) from error


@_naming_folders()
def list_folder(path: str) -> Listing:
    """Lists a folder data set.

    Args:
        path: folder with one subfolder per class, or with train/ and test/ of this form; perhaps
            with unlabeled/ beside them.

    Raises:
        UserError: if it is not such a folder.
    """
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"folder data set not found. Received: {path!r}. Check the path.")
    splits = _list_splits(path, root)
    _check_names(path, {label for examples in splits.values() for _, label in examples})
    splits |= _list_unlabeled(root)
    ignored = ignored_in(root, [name for examples in splits.values() for name, _ in examples])
    return Listing(
        what=f"folder {path}",
        root=root,
        splits=splits,
        group_of=_groups(splits),
        group_source="subfolders below the class folders",
        undivided="a folder without train/ and test/",
        remarks=(ignored,) if ignored else (),
    )


def ignored_in(root: Path, used: Iterable[str]) -> str | None:
    """The line about the files of a folder that are not used, and are not junk; None if none."""
    return ignored_line(set(files_in(root, refuse=False)) - {root / name for name in used})


def _groups(splits):
    """The subfolder below its class, or below unlabeled/, that each file lies in."""
    group_of = {}
    for split, examples in splits.items():
        above = 2 if split in ("train", "test") else 1  # Folders above the group's.
        for name, _ in examples:
            parts = name.split("/")
            if len(parts) > above + 1:
                group_of[name] = parts[above]
    return group_of


def _list_unlabeled(root):
    """The examples of the subfolder unlabeled/, if there is one."""
    folder = root / UNLABELED_FOLDER
    if (root / "unlabelled").is_dir():
        raise UserError(f"folder {root} has unlabelled/. Name it unlabeled/, or rename the class.")
    if not folder.is_dir():
        return {}
    return {UNLABELED_FOLDER: [(file, "") for file in _list_images(root, folder)]}


def _list_splits(path, root):
    if not (root / "train").is_dir():
        return {"all": list_classes(root, "")}
    if not (root / "test").is_dir():
        raise UserError(f"{path} has train/ but no test/. Add test/, or move the classes up.")
    return {name: list_classes(root, name) for name in ("train", "test")}


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
        if not is_junk(folder.name) and folder != root / UNLABELED_FOLDER:
            examples += [(file, folder.name) for file in _list_images(root, folder)]
    return examples


def _list_images(root: Path, folder: Path) -> list[str]:
    """The image files in a folder at any depth, relative to the root, in a fixed order."""
    files = images_in(folder)
    if not files:
        kinds = ", ".join(extensions())
        others = others_in(folder)
        raise UserError(f"folder {folder} has no images ({kinds}).{others} Add some, or remove it.")
    return [file.relative_to(root).as_posix() for file in files]


def _check_names(path, names):
    """Refuses a folder without class folders, or one whose class folders are splits."""
    if not names:
        raise UserError(f"folder {path} has no class subfolders. Give it one subfolder per class.")
    if names <= {"train", "training", "val", "valid", "validation", "test", "testing"}:
        raise UserError(
            f"folder {path} has the subfolders {', '.join(sorted(names))}, which are not classes. "
            "Name the splits train and test, with one subfolder per class in each."
        )
