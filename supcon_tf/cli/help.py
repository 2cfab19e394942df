"""The text of `--help`: the flags of a command in groups, with their defaults and choices."""

import contextlib
import dataclasses
import os
import sys
import textwrap
from typing import NoReturn

from supcon_tf.cli import known
from supcon_tf.config import PretrainConfig
from supcon_tf.config.settings import Config, default_of

_WIDTH, _COLUMN = 100, 26


def help_text(config_class: type[Config], usage: str, takes_recipe: bool = False) -> str:
    """The text that a command prints for `--help`.

    Args:
        config_class: its fields are the flags; `SECTIONS` maps the first field of each group to
            the group's title.
        usage: printed above the flags.
        takes_recipe: whether the flags of pretraining are taken too, and so its recipes.
    """
    lines = [usage.strip(), ""]
    if any(default_of(field) is None for field in dataclasses.fields(config_class)):
        lines += ["(none: ...) says what a flag means if it is left out or given as none.", ""]
    lines += _entry("--flagfile=FILE", "A recipe: a file with one flag per line.")
    sections = getattr(config_class, "SECTIONS", {})
    if takes_recipe or issubclass(config_class, PretrainConfig):
        lines += _entry(
            "--recipe=NAME", "A recipe of this package; flags given after it override it."
        )
    for field in dataclasses.fields(config_class):
        if field.name in sections:
            lines += ["", f"{sections[field.name]}:"]
        lines += _entry(_flag(field), _described(field))
    return "\n".join(lines)


def _flag(field):
    default = default_of(field)
    if isinstance(default, bool):
        return f"--[no]{field.name}"
    return f"--{field.name}" + ("" if default in (None, "", {}) else f"={default}")


def _described(field):
    allowed = field.metadata["choices"] or known.names_of(field.name)
    return field.metadata["help"] + (f" One of {', '.join(allowed)}." if allowed else "")


def _entry(flag, text):
    indent = " " * _COLUMN
    lines = textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent)
    if len(flag) + 4 > _COLUMN:
        return [f"  {flag}", *lines]
    return [f"  {flag}".ljust(_COLUMN) + lines[0].lstrip(), *lines[1:]]


def print_and_exit(text: str) -> NoReturn:
    """Prints a text, for a reader that may not read to its end, and exits with status 0."""
    with contextlib.suppress(BrokenPipeError):
        print(text, flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(0)
