"""Flag files: recipes as text, one `--name=value` per line, as the scripts' `--flagfile` takes."""

import ast
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from supcon_tf.config.settings import Config, default_of
from supcon_tf.core.errors import UserError
from supcon_tf.core.files import writing

_COMMENTS = ("#", "//")


def flags_of(config: Config) -> list[str]:
    """The flags of a recipe: every setting that is not its default.

    Args:
        config: the settings; those that say where and how a run is kept are left out.
    """
    return [
        f"--{field.name}={_text(getattr(config, field.name))}"
        for field in dataclasses.fields(config)
        if field.metadata["identity"] and getattr(config, field.name) != default_of(field)
    ]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{name}={_text(argument)}" for name, argument in value.items())
    return str(value)


# As flags write them; Python's own words are taken as well.
_WORDS = {"true": "True", "false": "False", "none": "None"}


def parse_arguments(text: str, setting: str = "method_args") -> dict[str, Any]:
    """Turns "margin=0.2,mining=hard" into {"margin": 0.2, "mining": "hard"}.

    Args:
        text: the arguments.
        setting: the one to blame for a wrong argument.

    Raises:
        UserError: if an item is not `name=value`.
    """
    arguments = {}
    for item in filter(None, text.split(",")):
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            raise UserError(f"{setting} must be name=value,name=value. Received: {text!r}.")
        value = _WORDS.get(value.strip(), value.strip())
        try:
            arguments[name.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            arguments[name.strip()] = value
    return arguments


def write_flag_file(path: Path, config: Config, comments: Sequence[str]) -> None:
    """Writes a recipe in one step.

    Args:
        path: the file.
        config: the settings, as for `flags_of`.
        comments: lines above the flags.
    """
    lines = [*(f"# {comment}" for comment in comments), *flags_of(config)]
    with writing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def read_flag_file(path: str | Path) -> list[str]:
    """The flags of a file, without comments and empty lines.

    Raises:
        UserError: if it cannot be read, or a line is not a flag.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise UserError(f"Unable to open {path}: {reason}.") from error
    flags = [line for line in lines if line and not line.startswith(_COMMENTS)]
    for flag in flags:
        if not flag.startswith("-"):
            raise UserError(f"{path}: a line must begin with --. Received: {flag!r}. Correct it.")
    return flags
