"""The models of keras.applications by name, known without importing Keras, which takes seconds."""

import ast
import difflib
import functools
import importlib.util
from pathlib import Path

from supcon_tf.core.errors import UserError

APPLICATION, _LIST = "applications:", "https://keras.io/api/applications"


def application_name(name: str) -> str:
    """The model that `applications:NAME` means, as keras.applications spells it.

    Raises:
        UserError: if there is no such model.
    """
    known = {model.lower(): model for model in _models()}
    wanted = name.removeprefix(APPLICATION).lower()
    if wanted not in known:
        close = difflib.get_close_matches(wanted, known, n=1)
        hint = (
            f"did you mean {APPLICATION}{known[close[0]]}?" if close else f"choose one of {_LIST}."
        )
        raise UserError(f"keras.applications has no such model; {hint} Received: {name!r}.")
    return known[wanted]


@functools.cache
def _models():
    """Models are the only names there that begin with a capital letter."""
    keras = Path(importlib.util.find_spec("keras").origin).parent
    tree = ast.parse((keras / "applications/__init__.py").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    names = (alias.asname or alias.name for node in imports for alias in node.names)
    return tuple(name for name in names if name[0].isupper())
