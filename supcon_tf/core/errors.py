"""Exceptions for faults that the user can correct."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A wrong setting, file or folder; the message is one line.

    It says what was wrong, the value received and what to do. The scripts print it and exit with
    status 2; nothing has been written when it is raised before a run begins.
    """


class StorageError(UserError):
    """Files that cannot be written or read, as on a full disk: no fault of the settings."""


def suggestion(received: str, known: Iterable[str]) -> str:
    """A sentence that names the known word nearest to a misspelt one; '' if none is near."""
    near = difflib.get_close_matches(received, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
