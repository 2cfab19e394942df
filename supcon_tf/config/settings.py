"""How a setting is declared, checked, and written to JSON."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from supcon_tf.core.errors import UserError

_MISSING = dataclasses.MISSING


def setting(
    default: Any,
    help: str,
    *,
    kind: type | None = None,
    choices: tuple[str, ...] | None = None,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    identity: bool = True,
    any_bytes: bool = False,
) -> Any:
    """Declares one setting.

    Args:
        default: value when the user gives none; its type is the setting's type. A dict is copied.
        help: one sentence, shown by `--help`.
        kind: type of a setting whose default is None, which means "not given".
        choices: the allowed values of a text setting, besides its default.
        above: exclusive lower bound of a number.
        at_least: inclusive lower bound of a number.
        at_most: inclusive upper bound of a number.
        below: exclusive upper bound of a number.
        identity: whether the setting is part of what a run *is*. Where a run lies and whether it
            may be continued are not.
        any_bytes: whether it is a path, which may hold bytes that are not UTF-8.

    Returns:
        A dataclass field.
    """
    bounds = {"above": above, "at_least": at_least, "at_most": at_most, "below": below}
    metadata = {
        "help": help,
        "kind": kind or type(default),
        "choices": choices,
        "bounds": {name: bound for name, bound in bounds.items() if bound is not None},
        "identity": identity,
        "any_bytes": any_bytes,
    }
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def default_of(field: dataclasses.Field) -> Any:
    """The default value of a dataclass field."""
    return field.default if field.default is not _MISSING else field.default_factory()


_HOLDS = {
    "above": (lambda value, bound: value > bound, "above"),
    "at_least": (lambda value, bound: value >= bound, "at least"),
    "at_most": (lambda value, bound: value <= bound, "at most"),
    "below": (lambda value, bound: value < bound, "below"),
}


def _check_type(name: str, value: Any, expected: type, optional: bool) -> Any:
    """Returns `value` as `expected`; only ints become floats, and paths text."""
    if value is None and optional:
        return None
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 2**1023 else math.inf  # Larger ones are not floats.
    if expected is str and isinstance(value, PurePath):
        return str(value)
    if expected is dict and isinstance(value, Mapping):
        return dict(value)
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise UserError(f"{name} must be of type {expected.__name__}. Received: {value!r}.")
    return value


def _is_text(value: str, any_bytes: bool) -> bool:
    """Whether it has no NUL and, except with `any_bytes`, none of the bytes that are not UTF-8."""
    # Python keeps such bytes as surrogates.
    odd = not any_bytes and any("\ud800" <= letter <= "\udfff" for letter in value)
    return not odd and "\0" not in value


def _check_value(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} must be a finite number. Received: {value}.")
    if isinstance(value, str) and not _is_text(value, metadata["any_bytes"]):
        raise UserError(f"{name} must be UTF-8 text. Received: {value!r}. Give another.")
    bounds = metadata["bounds"]
    if not all(_HOLDS[kind][0](value, bound) for kind, bound in bounds.items()):
        allowed = " and ".join(f"{_HOLDS[kind][1]} {bound}" for kind, bound in bounds.items())
        raise UserError(f"{name} must be {allowed}. Received: {value}.")
    if metadata["choices"] and value not in metadata["choices"]:
        raise UserError(
            f"{name} must be one of {', '.join(metadata['choices'])}. Received: {value!r}."
        )


def checked(field: dataclasses.Field, value: Any) -> Any:
    """A value as its setting takes it; an int becomes a float if the setting is one.

    Args:
        field: made by `setting`.
        value: the value to check.

    Raises:
        UserError: if it has the wrong type, or is out of bounds.
    """
    default = default_of(field)
    value = _check_type(field.name, value, field.metadata["kind"], default is None)
    if value != default:
        _check_value(field.name, value, field.metadata)
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The base of every stage's configuration: validation, and JSON in and out."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, checked(field, getattr(self, field.name)))

    def to_dict(self) -> dict[str, Any]:
        """All settings that are part of what the run is, ready for JSON."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.metadata["identity"]
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **placement: Any) -> "Config":
        """Rebuilds a configuration from `to_dict`'s result.

        Args:
            values: setting names and values.
            **placement: settings that `to_dict` leaves out, such as `run_dir`.

        Raises:
            UserError: if a name is unknown or a value is not allowed.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - names)
        if unknown:
            raise UserError(
                f"{cls.__name__} has no setting {unknown[0]!r}. Remove it, or use the version of "
                "supcon_tf that wrote it."
            )
        return cls(**{**values, **placement})

    def replace(self, **changes: Any) -> "Config":
        """A copy with some settings changed, validated again."""
        return dataclasses.replace(self, **changes)
