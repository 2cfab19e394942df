"""What is checked of a search space's file, setting by setting."""

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping
from typing import Any

from supcon_tf.config import PretrainConfig
from supcon_tf.config.search import PLACEMENT
from supcon_tf.config.settings import checked
from supcon_tf.core.errors import UserError

ARGUMENT = "method_args."
_FIELDS = {field.name: field for field in dataclasses.fields(PretrainConfig)}
_PLACED = "it says where and how a run is kept, not what it learns"
_DATA = "trials are compared on the same data"
# Settings that trials must have in common, and why.
_FIXED = {
    **dict.fromkeys((*PLACEMENT, "checkpoint_steps", "keep_checkpoints", "strategy"), _PLACED),
    **dict.fromkeys(("dataset", "data_dir", "holdout_fraction", "skip_bad_images"), _DATA),
    **dict.fromkeys(("validation_fraction", "validation_epochs"), _DATA),
    "seed": "its best value is luck; run the search again with another --seed",
    "method_args": "search its arguments one by one, as method_args.NAME",
}
_KEYS = ("range", "choices", "scale", "step", "when")
_MOST_STEPS = 1000


def check_names(content: Mapping[str, Any], algorithm: str = "") -> None:
    """Raises `UserError` unless all names are settings that may be searched, by an algorithm."""
    fixed = dict(_FIXED)
    if algorithm == "hyperband":
        fixed["epochs"] = "hyperband itself says how long a trial trains"
    allowed = [name for name in _FIELDS if name not in fixed]
    for name in content:
        if name in fixed:
            raise UserError(
                f"{name} cannot be searched: {fixed[name]}. Received: {name!r}. Remove it."
            )
        if name not in _FIELDS and not name.removeprefix(ARGUMENT).isidentifier():
            raise UserError(_unknown(name, allowed))
        if name not in _FIELDS and not name.startswith(ARGUMENT):
            raise UserError(_unknown(name, allowed))
        if name == f"{ARGUMENT}temperature":
            raise UserError(f"{name} is the setting temperature. Received: {name!r}. Rename it.")


def _unknown(name, allowed):
    close = difflib.get_close_matches(name, allowed, n=1)
    advice = f"Did you mean {close[0]!r}?" if close else "pretrain.py --help lists the settings."
    return f"there is no setting of that name. Received: {name!r}. {advice}"


def check_entry(name: str, entry: Any, algorithm: str) -> dict[str, Any]:
    """Checks what is searched of one setting.

    Args:
        name: a name that `check_names` allows.
        entry: what the file says of it.
        algorithm: of `TuneConfig`.

    Returns:
        The fields of a `Parameter`. A range with a step becomes choices.

    Raises:
        UserError: if it cannot be searched like that.
    """
    if not isinstance(entry, dict) or ("range" in entry) == ("choices" in entry):
        raise UserError(
            f"{name} must be an object with either a range or choices. Received: "
            f"{json.dumps(entry)}."
        )
    for key in entry:
        if key not in _KEYS:
            raise UserError(
                f"{name} may hold {', '.join(_KEYS)}. Received: {key!r}. Correct or remove it."
            )
    if "choices" in entry:
        found = {"choices": _choices(name, entry)}
    else:
        found = _range(name, entry)
        if algorithm == "grid" and "choices" not in found:
            raise UserError(
                f"{name} is a range without end to a grid. Received: {json.dumps(entry)}. Give it "
                "a step, or choices."
            )
    return {**found, "when": _conditions(name, entry.get("when", {}))}


def check_value(name: str, value: Any) -> Any:
    """One value as its setting takes it; arguments of a method are checked by the method.

    Args:
        name: a name that `check_names` allows.
        value: from JSON.

    Raises:
        UserError: if it has another type, or is out of bounds.
    """
    if name in _FIELDS:
        return checked(_FIELDS[name], value)
    plain = value is None or isinstance(value, bool) or is_number(value)
    # Commas separate the arguments on the command line, and text like "1" would be read as 1.
    text = isinstance(value, str) and value.replace("_", "").replace("-", "").isalpha()
    if not (plain or text):
        raise UserError(
            f"{name} must be a number, true, false, null or a word. Received: {json.dumps(value)}."
        )
    return value


def _choices(name, entry):
    values = entry["choices"]
    for key in ("scale", "step"):
        if key in entry:
            raise UserError(
                f"{name} has choices, so no {key}. Received: {entry[key]!r}. Remove it."
            )
    if not isinstance(values, list) or not values:
        raise UserError(
            f"{name} must have one choice or more, as a list. Received: {json.dumps(values)}."
        )
    values = tuple(check_value(name, value) for value in values)
    texts = [json.dumps(value) for value in values]
    twins = [text for text in texts if texts.count(text) > 1]
    if twins:
        raise UserError(f"{name} has a choice twice. Received: {twins[0]}. Remove one.")
    return values


def _range(name, entry):
    ends = entry["range"]
    if not isinstance(ends, list) or len(ends) != 2 or not all(map(is_number, ends)):
        raise UserError(
            f"{name} must have a range of two numbers, [low, high]. Received: {json.dumps(ends)}."
        )
    kind = _FIELDS[name].metadata["kind"] if name in _FIELDS else float
    if kind not in (int, float):
        raise UserError(
            f"{name} is no number, so has no range. Received: {json.dumps(ends)}. Give choices."
        )
    low, high = (check_value(name, end) for end in ends)
    if name not in _FIELDS and not isinstance(entry.get("step"), int):
        low, high = float(low), float(high)  # Whether the method wants whole numbers is not known.
    if low >= high:
        raise UserError(
            f"{name} must have a range that rises. Received: {json.dumps(ends)}. Give the lower "
            "end first."
        )
    scale = entry.get("scale", "linear")
    if scale not in ("linear", "log"):
        raise UserError(f"{name} must have the scale linear or log. Received: {scale!r}.")
    if scale == "log" and low <= 0:
        raise UserError(
            f"{name} must have a range above 0 on a log scale. Received: {json.dumps(ends)}."
        )
    if six_digits(low) == six_digits(high):
        raise UserError(
            f"{name} must have a range whose ends six digits tell apart. Received: "
            f"{json.dumps(ends)}. Widen it."
        )
    if "step" in entry:
        return {"choices": _stepped(name, low, high, scale, entry["step"])}
    return {"low": low, "high": high, "log": scale == "log"}


def six_digits(value: float) -> float:
    """A number as trials have it: six digits survive the float32 in which workers exchange it."""
    return float(f"{value:.6g}")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; true and false are none."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < 2**1023  # Larger integers are no float.


def _stepped(name, low, high, scale, step):
    """The values of a range with a step: a difference, or on a log scale a factor."""
    whole = isinstance(low, int) and isinstance(high, int)
    least, most = (1, high / low) if scale == "log" else (0, high - low)
    if not is_number(step) or step <= least or (whole and not isinstance(step, int)):
        kind = "a whole number" if whole else "a number"
        raise UserError(f"{name} must have as its step {kind} above {least}. Received: {step!r}.")
    if step > most:
        raise UserError(
            f"{name} has a step that is larger than its range, [{low}, {high}]. Received: {step}. "
            "Lower it, or give choices."
        )
    # A little more than the ratio: 0.3 / 0.1 is 2.9999999999999996.
    ratio = (math.log(most, step) if scale == "log" else most / step) + 1e-9
    if not ratio < _MOST_STEPS:
        raise UserError(
            f"{name} has more than {_MOST_STEPS} steps in its range. Received: {step}. Raise it."
        )
    count = math.floor(ratio) + 1
    values = [low * step**place if scale == "log" else low + place * step for place in range(count)]
    rounded = tuple(value if whole else six_digits(value) for value in values)
    if len(set(rounded)) < count or not low <= rounded[0] <= rounded[-1] <= high:
        raise UserError(
            f"{name} has steps that six digits do not tell apart, [{low}, {high}]. Received: "
            f"{step}. Raise it, or give choices."
        )
    return rounded


def _conditions(name, when):
    if not isinstance(when, dict) or not all(
        isinstance(values, list) and values for values in when.values()
    ):
        raise UserError(
            f"{name} must have as its condition an object of lists, such as "
            f'{{"optimizer": ["sgd"]}}. Received: {json.dumps(when)}.'
        )
    return {
        parent: tuple(
            check_value(parent, value) if parent in _FIELDS else value for value in values
        )
        for parent, values in when.items()
    }


def in_order(parameters: Mapping[str, Any]) -> list[str]:
    """The names of parameters, each after those that its condition names.

    Raises:
        UserError: if a condition can never hold.
    """
    for parameter in parameters.values():
        for parent, wanted in parameter.when.items():
            _check_condition(parameter.name, parent, wanted, parameters)
    ordered: list[str] = []
    while len(ordered) < len(parameters):
        ready = [
            name
            for name, parameter in parameters.items()
            if name not in ordered and set(parameter.when) <= set(ordered)
        ]
        if not ready:
            left = [name for name in parameters if name not in ordered]
            raise UserError(
                f"conditions depend on each other in a circle. Received: {', '.join(left)}. Remove "
                "one of them."
            )
        ordered += ready
    return ordered


def _check_condition(name, parent, wanted, parameters):
    if parent not in parameters:
        raise UserError(
            f"{name} depends on {parent!r}, which is not searched. Received: when "
            f"{parent}={json.dumps(wanted)}. Search it too, or remove the condition."
        )
    taken = [json.dumps(value) for value in parameters[parent].choices]
    if not taken:
        raise UserError(
            f"{name} depends on {parent!r}, which is a range. Received: when "
            f"{parent}={json.dumps(wanted)}. Give {parent} choices or a step."
        )
    for value in wanted:
        if json.dumps(value) not in taken:
            raise UserError(
                f"{name} depends on a value that {parent} never takes; it takes "
                f"{', '.join(taken)}. Received: {json.dumps(value)}."
            )
