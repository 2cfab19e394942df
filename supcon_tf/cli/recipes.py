"""The recipes that come with the package, by name."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from supcon_tf.config.flag_files import read_flag_file
from supcon_tf.core.errors import UserError, suggestion

FOLDER = Path(__file__).parents[1] / "recipes"
# The flag, the flag that takes its file, and how its files end.
_NAMED = {"recipe": ("flagfile", ".flags"), "space": ("space", ".space.json")}
_NAME = re.compile(r"\w+")
# Settings that belong to a recipe's method. A different method has its own defaults for them.
_OF_METHOD = ("temperature", "method_args", "embedding_dim", "projection_hidden_dim", "queue_size")


def names(ending: str = ".flags") -> list[str]:
    """The names of the packaged files with this ending, in alphabetical order."""
    return sorted(path.name.removesuffix(ending) for path in FOLDER.glob(f"*{ending}"))


def with_files(arguments: Sequence[str]) -> list[str]:
    """Arguments of a command with the packaged files in place of their names.

    `--recipe=digits` becomes `--flagfile=.../digits.flags`; `--space=digits`, if there is no file
    of that name, becomes `--space=.../digits.space.json`. If `--method` names a different method
    afterwards, the flags of a recipe or flag file take its place, without those that belong to its
    own method; this is said on standard error.

    Raises:
        UserError: if there is no such recipe.
    """
    found, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        flag, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or flag not in (*_NAMED, "flagfile"):
            found.append(argument)
            continue
        value = value if equals else (rest.pop(0) if rest else "")
        taken, file = (_NAMED[flag][0], _file(flag, value)) if flag in _NAMED else (flag, value)
        method = _method(rest)
        if taken == "flagfile" and method is not None:
            found += _flags_for(method, file)
        else:
            found.append(f"--{taken}={file}")
    return found


def _method(arguments):
    """The value of the last `--method`; None if there is none."""
    named = re.findall(r"^--?method[=\n](.*)$", "\n".join(arguments), re.MULTILINE)
    return named[-1] if named else None


def _flags_for(method, file):
    """The flags of a file; without those of its own method if another method is used."""
    flags = read_flag_file(file)
    own = _method(flags)
    if own in (None, method):
        return [f"--flagfile={file}"]
    dropped = [flag for flag in flags if flag.lstrip("-").partition("=")[0] in _OF_METHOD]
    if dropped:
        shown = ", ".join(flag.lstrip("-") for flag in dropped)
        print(
            f"--method={method} replaces {own}, whose own settings are left out: {shown}",
            file=sys.stderr,
        )
    return [flag for flag in flags if flag not in dropped]


def _file(flag, value):
    ending = _NAMED[flag][1]
    path = FOLDER / f"{value}{ending}"
    if _NAME.fullmatch(value) and path.exists() and not (flag == "space" and Path(value).exists()):
        return path
    if flag == "recipe":
        known = names(ending)
        raise UserError(
            f"recipe must be one of {', '.join(known)}. Received: {value!r}."
            f"{suggestion(value, known)} A file of your own is given as --flagfile=FILE."
        )
    return value
