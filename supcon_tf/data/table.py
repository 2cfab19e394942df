"""Tables of a user's own images: CSV or JSON Lines, with one row per image.

Columns or keys: path (relative to the table's folder, or absolute), label, and optionally split
(train, validation, test) and group (images that holdout_by=folder keeps together).
"""

import csv
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from supcon_tf.core.errors import StorageError, UserError
from supcon_tf.data.own_images import Listing

SPLITS = ("train", "validation", "test")
_NEEDED, _OPTIONAL = ("path", "label"), ("split", "group")


class _WrongRowError(UserError):
    """A fault in a row, without its line number."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        path: path of the image, as written.
        labels: class names; exactly one, until training supports several.
        split: one of `SPLITS`, or '' for none.
        group: name of its group, or '' if it forms a group by itself.
    """

    path: str
    labels: tuple[str, ...]
    split: str
    group: str


def read_table(kind: str, path: str) -> Listing:
    """Lists the images of a table.

    Args:
        kind: "csv" or "jsonl".
        path: path of the file.

    Raises:
        UserError: if it cannot be read, or has a wrong row, whose line is named.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{kind} data set not found. Received: {path!r}. Check the path.")
    rows: dict[str, Row] = {}
    lines: dict[str, int] = {}
    unused: set[str] = set()
    try:
        for line, cells in {"csv": _csv_rows, "jsonl": _json_rows}[kind](file):
            row = _located(path, line, _row, cells)
            name = _name(file.parent, row.path)
            if name in rows:
                fault = f"the image is also in line {lines[name]}. Received: {row.path!r}."
                raise UserError(f"{path}, line {line}: {fault} Remove one of them.")
            rows[name], lines[name] = row, line
            unused |= cells.keys() - {*_NEEDED, *_OPTIONAL}
    except OSError as error:
        raise StorageError(f"cannot read table {path}: {error.strerror}.") from error
    if not rows:
        raise UserError(f"table {path} has no images. Give it one row per image.")
    return Listing(
        what=f"table {path}",
        root=file.parent,
        splits=_splits(path, rows, lines),
        group_of={name: row.group for name, row in rows.items() if row.group},
        group_source="a column group",
        undivided="a table without a column split",
        remarks=(f"columns not used: {', '.join(sorted(unused))}",) if unused else (),
        labels_in_names=False,
    )


def _located(path, line, make, *arguments):
    """Returns `make(*arguments)`; an error about the row is raised again with its line number."""
    try:
        return make(*arguments)
    except _WrongRowError as error:
        raise UserError(f"{path}, line {line}: {error}") from error


def _csv_rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells of each row below the header."""
    # Excel writes a byte order mark; file names may be any bytes.
    with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader = csv.DictReader(stream, skipinitialspace=True, strict=True)
        missing = [name for name in _NEEDED if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(
                f"table {file} must have the columns path and label. Received: "
                f"{', '.join(reader.fieldnames or ()) or 'an empty file'}. Name them in the first "
                "line, with commas between."
            )
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                line = reader.reader.line_num  # Of the failed row; the other is of the row before.
                raise UserError(f"{file}, line {line}: {error}. Correct it.") from error
            if cells is None:
                return
            if None in cells or None in cells.values():
                raise UserError(
                    f"{file}, line {reader.line_num}: the row must have as many cells as the "
                    "header. Put cells that contain commas in double quotes."
                )
            yield reader.line_num, {**cells, "label": cells["label"].split("|")}


def _json_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and content of each object."""
    with open(file, encoding="utf-8", errors="surrogateescape") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield number, _located(file, number, _object, line)


def _object(line):
    try:
        content = json.loads(line)
    except ValueError as error:
        raise _WrongRowError(f"not JSON ({error}). Write one object per line.") from error
    if not isinstance(content, dict) or not {*_NEEDED} <= content.keys():
        raise _WrongRowError(
            "not an object with the keys path and label. Received: "
            f"{', '.join(content) if isinstance(content, dict) else type(content).__name__}."
        )
    return content


def _row(cells: dict[str, Any]) -> Row:
    """A checked row."""
    labels = cells["label"] if isinstance(cells["label"], list) else [cells["label"]]
    row = Row(
        path=_text("path", cells["path"]),
        labels=tuple(_text("label", label) for label in labels),
        split=_text("split", cells.get("split"), optional=True),
        group=_text("group", cells.get("group"), optional=True),
    )
    if len(row.labels) != 1:
        raise _WrongRowError(
            f"one label per image is taken so far. Received: {', '.join(row.labels) or 'none'}."
        )
    if row.split not in ("", *SPLITS):
        raise _WrongRowError(f"split must be one of {', '.join(SPLITS)}. Received: {row.split!r}.")
    return row


def _text(name, value, optional=False):
    """A cell as text; integers in JSON are accepted and turned into text."""
    if value is None and optional:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or "\0" in value or (not value and not optional):
        raise _WrongRowError(f"{name} must be text that is not empty. Received: {value!r}.")
    return value


def _name(root: Path, path: str) -> str:
    """The file's name relative to the table's folder, or absolute if it lies elsewhere."""
    whole = Path(os.path.normpath(root / path))
    return whole.relative_to(root).as_posix() if whole.is_relative_to(root) else str(whole)


def _splits(path, rows, lines):
    """The examples by split, sorted by name; under "all" if the table has no splits."""
    given = {row.split for row in rows.values()}
    if given == {""}:
        return {"all": sorted((name, row.labels[0]) for name, row in rows.items())}
    for name, row in rows.items():
        if not row.split:
            raise UserError(
                f"{path}, line {lines[name]}: split is empty, in a table whose other rows have one."
                f" Give one of {', '.join(SPLITS)}."
            )
    missing = [split for split in ("train", "test") if split not in given]
    if missing:
        raise UserError(
            f"table {path} has no row of split {missing[0]!r}. Received: "
            f"{', '.join(sorted(given))}. Add some, or leave the column split out."
        )
    return {
        split: sorted((name, row.labels[0]) for name, row in rows.items() if row.split == split)
        for split in SPLITS
        if split in given
    }
