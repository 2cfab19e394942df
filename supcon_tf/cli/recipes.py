"""The recipes that come with the package, by name."""

import re
from collections.abc import Sequence
from pathlib import Path

from supcon_tf.core.errors import UserError, suggestion

FOLDER = Path(__file__).parents[1] / "recipes"
# The flag, the flag that takes its file, and how its files end.
_NAMED = {"recipe": ("flagfile", ".flags"), "space": ("space", ".space.json")}
_NAME = re.compile(r"\w+")


def names(ending: str = ".flags") -> list[str]:
    """The names of the packaged files with this ending, in alphabetical order."""
    return sorted(path.name.removesuffix(ending) for path in FOLDER.glob(f"*{ending}"))


def with_files(arguments: Sequence[str]) -> list[str]:
    """Arguments of a command with the packaged files in place of their names.

    `--recipe=digits` becomes `--flagfile=.../digits.flags`; `--space=digits`, where there is no
    file of that name, becomes `--space=.../digits.space.json`.

    Raises:
        UserError: if there is no such recipe.
    """
    found, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        flag, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or flag not in _NAMED:
            found.append(argument)
            continue
        value = value if equals else (rest.pop(0) if rest else "")
        found.append(f"--{_NAMED[flag][0]}={_file(flag, value)}")
    return found


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
