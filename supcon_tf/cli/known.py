"""Names of methods and augmentations, read from the source: importing it would load TensorFlow."""

import ast
from pathlib import Path

from supcon_tf.core.errors import UserError, suggestion

_PACKAGE = Path(__file__).parents[1]
# The setting, the file, and the dictionary in it whose keys are the names.
_DICTIONARIES = {
    "method": ("methods/__init__.py", "METHODS"),
    "augmentation": ("data/augment.py", "AUGMENTATIONS"),
}


def names_of(setting: str) -> tuple[str, ...]:
    """The names that a setting takes; none where they are no fixed list."""
    if setting not in _DICTIONARIES:
        return ()
    file, name = _DICTIONARIES[setting]
    for node in ast.parse((_PACKAGE / file).read_text(encoding="utf-8")).body:
        targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
        if any(isinstance(one, ast.Name) and one.id == name for one in targets):
            return tuple(key.value for key in node.value.keys)
    raise LookupError(f"{name} is not in {file}")


def check_names(config) -> None:
    """Raises `UserError` where a setting of a configuration is not one of its names."""
    for setting in _DICTIONARIES:
        value = getattr(config, setting, None)
        if value is not None and value not in names_of(setting):
            known = names_of(setting)
            raise UserError(
                f"{setting} must be one of {', '.join(known)}. Received: {value!r}."
                f"{suggestion(value, known)}"
            )
