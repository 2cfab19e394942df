"""Names of a user's own data sets: folder:PATH, csv:FILE and jsonl:FILE."""

import os
from pathlib import Path

from supcon_tf.core.errors import UserError

_KINDS = {"folder": "folder", "csv": "table", "jsonl": "table"}


def own_data(dataset: str) -> tuple[str, str] | None:
    """The kind ("folder", "csv" or "jsonl") and path of a user's own images; None for others."""
    kind, colon, path = dataset.partition(":")
    return (kind, path) if colon and kind in _KINDS else None


def is_table(dataset: str) -> bool:
    """Whether a table lists the images."""
    own = own_data(dataset)
    return own is not None and _KINDS[own[0]] == "table"


def without_place(dataset: str) -> str:
    """The name without the folders of its path, which are private."""
    own = own_data(dataset)
    return f"{_KINDS[own[0]]} {os.path.basename(own[1])}" if own else dataset


def absolute_dataset(dataset: str) -> str:
    """The name with an absolute path, so that a later stage finds the data from any directory.

    Raises:
        UserError: if the path is missing.
    """
    own = own_data(dataset)
    if own is None:
        return dataset
    kind, path = own
    if not path:
        raise UserError(f"dataset must name a {_KINDS[kind]}. Received: '{kind}:'.")
    return f"{kind}:{absolute(path)}"


def absolute(path: str) -> str:
    """An absolute path, with ~ resolved."""
    return os.path.abspath(os.path.expanduser(path))


def own_data_advice(name: str) -> str:
    """A sentence if an unknown data set's name is that of a folder or a table; else ''."""
    path = os.path.expanduser(name)
    if os.path.isdir(path):
        return f"Did you mean 'folder:{name}'?"
    kind = os.path.splitext(name)[1][1:].lower()
    is_listed = _KINDS.get(kind) == "table" and os.path.isfile(path)
    return f"Did you mean '{kind}:{name}'?" if is_listed else ""


def plain_path_advice(path: str) -> str:
    """A sentence after a space, if a path was given as a data set's name; else ''."""
    own = own_data(path)
    return f" Did you mean {own[1]!r}?" if own and os.path.exists(own[1]) else ""


def refuse_in_folder(dataset: str, name: str, path: str) -> None:
    """Refuses an output path in a data set's folder of images, where it would become a class.

    Args:
        dataset: name of the data set, of any kind.
        name: the setting to blame.
        path: its value; links are followed.

    Raises:
        UserError: if it lies there.
    """
    own = own_data(dataset)
    if own is None or own[0] != "folder":
        return
    folder, place = (Path(os.path.realpath(at)) for at in (own[1], path))
    if folder in (place, *place.parents):
        raise UserError(
            f"{name} must not lie in the data set's folder {folder}. Received: {path}. Anything "
            "written there would become a class or one of its images."
        )
