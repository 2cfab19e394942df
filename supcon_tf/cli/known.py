"""Names that settings take, found without TensorFlow, which takes seconds to load."""

import ast
from pathlib import Path

from supcon_tf.core.errors import UserError, suggestion
from supcon_tf.data.policies import AUGMENTATIONS, named_augmentation

# The methods load TensorFlow: their names are read from the source.
_METHODS = Path(__file__).parents[1] / "methods/__init__.py"


def names_of(setting: str) -> tuple[str, ...]:
    """The names that a setting takes; none where they are no fixed list."""
    return {"method": _method_names, "augmentation": lambda: tuple(AUGMENTATIONS)}.get(
        setting, tuple
    )()


def _method_names():
    for node in ast.parse(_METHODS.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and node.target.id == "METHODS":
            return tuple(key.value for key in node.value.keys)
    raise LookupError(f"METHODS is not in {_METHODS}")


def check_names(config) -> None:
    """Raises `UserError` where a setting of a configuration is not one of its names."""
    method = getattr(config, "method", None)
    if method is not None and method not in names_of("method"):
        known = names_of("method")
        raise UserError(
            f"method must be one of {', '.join(known)}. Received: {method!r}."
            f"{suggestion(method, known)}"
        )
    augmentation = getattr(config, "augmentation", None)
    if augmentation is not None and not augmentation.endswith(".keras"):
        named_augmentation(augmentation, getattr(config, "augmentation_args", None))
