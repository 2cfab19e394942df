"""Tables of a user's own images: CSV or JSON Lines, with one row per image.

Columns or keys: path (relative to the table's folder, or absolute), label, and optionally split
(train, validation, test) and group (images that holdout_by=folder keeps together).

A label is a class, or several: with | between in CSV, a list in JSON. If a row has several, the
images of the whole table have any number of classes, none included.
"""

import codecs
import csv
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from supcon_tf.core.errors import StorageError, UserError
from supcon_tf.core.files import parse_json
from supcon_tf.data.own_images import Listing

SPLITS = ("train", "validation", "test")
_NEEDED, _OPTIONAL = ("path", "label"), ("split", "group")
_BETWEEN_LABELS = "|"


class _WrongRowError(UserError):
    """A fault in a row, without its line number."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        path: path of the image, as written.
        labels: class names, ascending; exactly one unless the table's images have several.
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
        _refuse_utf16(file)
        for line, cells in {"csv": _csv_rows, "jsonl": _json_rows}[kind](file):
            row = _located(path, line, _row, cells)
            name = _name(file.parent, row.path)
            if name in rows:
                fault = f"the image is also in line {lines[name]}. Received: {row.path!r}."
                raise UserError(f"{path}, line {line}: {fault} Remove one of them.")
            rows[name], lines[name] = row, line
            unused |= cells.keys() - {*_NEEDED, *_OPTIONAL}
    except OSError as error:
        reason = f"{error.strerror}. Make it readable."
        raise StorageError(f"cannot read table {path}: {reason}") from error
    if not rows:
        raise UserError(f"table {path} has no images. Give it one row per image.")
    several = _has_several(path, rows, lines)
    return Listing(
        what=f"table {path}",
        root=file.parent,
        splits=_splits(path, rows, lines, several),
        group_of={name: row.group for name, row in rows.items() if row.group},
        group_source="a column group",
        undivided="a table without a column split",
        remarks=(f"columns not used: {', '.join(sorted(unused))}",) if unused else (),
        labels_in_names=False,
        multi_label=several,
    )


def _refuse_utf16(file):
    with open(file, "rb") as stream:
        if stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise UserError(f"table {file} is UTF-16. Save it as UTF-8.")


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
        _check_columns(file, _read(file, reader, lambda: reader.fieldnames or []))
        while (cells := _read(file, reader, lambda: next(reader, None))) is not None:
            if None in cells or None in cells.values():
                raise UserError(
                    f"{file}, line {reader.line_num}: the row must have as many cells as the "
                    "header. Put cells that contain commas in double quotes."
                )
            names = cells["label"].split(_BETWEEN_LABELS)
            several = [name.strip() for name in names] if len(names) > 1 else names
            yield reader.line_num, {**cells, "label": several if cells["label"] else []}


def _read(file, reader, read):
    """Returns `read()`, which reads from the table; an error is raised again with its line."""
    try:
        return read()
    except csv.Error as error:
        line = reader.reader.line_num  # Of the failed row; `reader.line_num` is of the one before.
        raise UserError(f"{file}, line {line}: {error}. Correct it.") from error


def _check_columns(file, columns):
    if not {*_NEEDED} <= {*columns}:
        raise UserError(
            f"table {file} must have the columns path and label. Received: "
            f"{', '.join(columns) or 'an empty file or line'}. Name them in the first line, "
            "separated by commas."
        )
    _reject_twice(f"table {file} has a column", columns)


def _reject_twice(what, names):
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise _WrongRowError(f"{what} twice. Received: {twice[0]!r}. Remove one of them.")


def _json_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and content of each object."""
    with open(file, encoding="utf-8-sig", errors="surrogateescape") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield number, _located(file, number, _object, line)


def _object(line):
    def unique(pairs):
        _reject_twice("a key occurs", [name for name, _ in pairs])
        return dict(pairs)

    try:
        content = parse_json(line, object_pairs_hook=unique)
    except _WrongRowError:
        raise
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
        labels=tuple(sorted({_text("label", label) for label in labels})),
        split=_text("split", cells.get("split"), optional=True),
        group=_text("group", cells.get("group"), optional=True),
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
    if isinstance(value, str) and name != "path":
        value = value.strip()  # Otherwise "cat" and "cat " would be two classes.
    if not isinstance(value, str) or "\0" in value or (not value and not optional):
        raise _WrongRowError(f"{name} must be non-empty text. Received: {value!r}.")
    try:
        (os.fsencode if name == "path" else str.encode)(value)  # File names may be any bytes.
    except UnicodeEncodeError as error:
        raise _WrongRowError(
            f"{name} is not UTF-8. Received: {value!r}. Save the table as UTF-8."
        ) from error
    return value


def _name(root: Path, path: str) -> str:
    """The file's name relative to the table's folder, or absolute if it lies elsewhere."""
    root = Path(os.path.abspath(root))
    whole = Path(os.path.abspath(root / path))
    return whole.relative_to(root).as_posix() if whole.is_relative_to(root) else str(whole)


def _has_several(path, rows, lines):
    """Whether the table's images have several classes: as soon as one of them has."""
    several = any(len(row.labels) > 1 for row in rows.values())
    for name, row in rows.items():
        if not row.labels and not several:
            raise UserError(
                f"{path}, line {lines[name]}: label must be non-empty text. Received: none."
            )
        joined = [label for label in row.labels if _BETWEEN_LABELS in label]
        if several and joined:  # Joined with others in one text, it would be two.
            raise UserError(
                f"{path}, line {lines[name]}: a label must have no {_BETWEEN_LABELS} in a table "
                f"whose images have several labels. Received: {joined[0]!r}. Rename the class."
            )
    return several


def _splits(path, rows, lines, several):
    """The examples by split, sorted by name; under "all" if the table has no splits."""
    given = {row.split for row in rows.values()}
    label_of = {name: row.labels if several else row.labels[0] for name, row in rows.items()}
    if given == {""}:
        return {"all": sorted(label_of.items())}
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
        split: sorted((name, label_of[name]) for name, row in rows.items() if row.split == split)
        for split in SPLITS
        if split in given
    }
