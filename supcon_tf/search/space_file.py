"""Reads a search space: a small JSON file (docs/guides/search.md), each entry a hyperparameter.

The names are fields of `PretrainConfig`, or `method_args.NAME`. Each value is checked against the
configuration by itself; combinations are checked only when they are tried.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from keras_tuner import HyperParameters
from keras_tuner.engine.hyperparameters import Choice, Float, HyperParameter, Int

from supcon_tf.config import PretrainConfig
from supcon_tf.config.flag_files import parse_arguments
from supcon_tf.config.search import PLACEMENT
from supcon_tf.config.settings import checked
from supcon_tf.core.errors import UserError, suggestion
from supcon_tf.core.files import read_user_json
from supcon_tf.search.space import ARGUMENT, SearchSpace, is_number, six_digits

_FIELDS = {field.name: field for field in dataclasses.fields(PretrainConfig)}
_KEPT = "it says where and how a run is kept, not what it learns"
_DATA = "trials are compared on the same data"
# Settings that trials must have in common, and why.
_FIXED = {
    **dict.fromkeys((*PLACEMENT, "checkpoint_steps", "keep_checkpoints", "strategy"), _KEPT),
    **dict.fromkeys(("dataset", "data_dir", "holdout_fraction", "holdout_by"), _DATA),
    **dict.fromkeys(("skip_bad_images", "validation_fraction", "validation_epochs"), _DATA),
    "seed": "its best value is luck; run the search again with another --seed",
    "method_args": "search its arguments one by one, as method_args.NAME",
}
# The kinds of entries, and the other keys that each may have.
_KEYS = {"choices": ("when",), "range": ("scale", "step", "when")}
_MOST_STEPS = 1000


def read_space(path: str, algorithm: str) -> SearchSpace:
    """Reads and checks a search space.

    Args:
        path: JSON file.
        algorithm: of `TuneConfig`; what it cannot search is refused.

    Raises:
        UserError: if the file cannot be read or used; one line says what is wrong with which
            setting, the value received, and what to do.
    """
    content = read_user_json(path, "search space")
    try:
        return parse_space(content, algorithm)
    except UserError as error:
        raise UserError(f"search space {path}: {error}") from error


def parse_space(content: Any, algorithm: str) -> SearchSpace:
    """Makes a search space from a file's content; as `read_space`."""
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"it must be an object with at least one setting. Received: {json.dumps(content)}."
        )
    for name, entry in content.items():
        check_name(name, algorithm)
        _check_shape(name, entry, content)
        if algorithm == "grid" and "range" in entry and "step" not in entry:
            raise UserError(
                f"{name} is a range without steps, which a grid cannot list. Received: "
                f"{json.dumps(entry)}. Give it a step, or choices."
            )
    return SearchSpace(content, _hyperparameters(content))


def check_name(name: str, algorithm: str = "") -> None:
    """Raises `UserError` unless a name is that of a setting that trials may differ in."""
    hyperband = {"epochs": "hyperband itself says how long a trial trains"}
    fixed = _FIXED | (hyperband if algorithm == "hyperband" else {})
    if name in fixed:
        raise UserError(f"{name} cannot be searched: {fixed[name]}. Received: {name!r}. Remove it.")
    is_argument = name.startswith(ARGUMENT) and name.removeprefix(ARGUMENT).isidentifier()
    if name not in _FIELDS and not is_argument:
        near = suggestion(name, _FIELDS.keys() - fixed.keys())
        advice = near.strip() or "See supcon-tf pretrain --help."
        raise UserError(f"there is no setting of that name. Received: {name!r}. {advice}")


def _check_shape(name, entry, content) -> None:
    """Raises `UserError` unless an entry is an object with the right keys."""
    keys = set(entry) if isinstance(entry, dict) else set()
    if not any({needed} <= keys <= {needed, *others} for needed, others in _KEYS.items()):
        raise UserError(
            f"{name} must be an object with either a range (and scale, step, when) or choices (and "
            f"when). Received: {json.dumps(entry)}."
        )
    when = entry.get("when", {})
    if not isinstance(when, dict) or not all(isinstance(v, list) and v for v in when.values()):
        raise UserError(
            f"the condition of {name} must be an object of lists, such as "
            f'{{"optimizer": ["sgd"]}}. Received: {json.dumps(when)}.'
        )
    for parent, wanted in when.items():
        if parent not in content:
            raise UserError(
                f"{name} depends on {parent!r}, which is not searched. Received: when "
                f"{parent}={json.dumps(wanted)}. Search it too, or remove the condition."
            )


def _hyperparameters(content) -> HyperParameters:
    """Keras Tuner's hyperparameters, in an order in which each follows those it depends on."""
    found = HyperParameters()
    # By setting: its choices as texts, none for a range; the choices of others that it needs.
    choices: dict[str, list[str]] = {}
    needs: dict[str, dict[str, set[str]]] = {}
    for name in _in_order(content):
        conditions = {
            parent: [json.dumps(_checked(parent, value)) for value in wanted]
            for parent, wanted in content[name].get("when", {}).items()
        }
        needs[name] = _needed(name, conditions, choices, needs)
        kind, settings = _searched(name, content[name])
        choices[name] = settings.get("values", [])
        # Keras Tuner's own scopes do not take a parent that has conditions itself.
        parents = [
            {"class_name": "Parent", "config": {"name": parent, "values": texts}}
            for parent, texts in conditions.items()
        ]
        found.merge([kind.from_config({"name": name, "conditions": parents, **settings})])
    return found


def _in_order(content) -> list[str]:
    """The settings, each after those that its condition names."""
    ordered: list[str] = []
    while len(ordered) < len(content):
        left = [name for name in content if name not in ordered]
        ready = [name for name in left if set(content[name].get("when", {})) <= set(ordered)]
        if not ready:
            raise UserError(
                f"conditions depend on each other in a circle. Received: {', '.join(left)}. Remove "
                "one of them."
            )
        ordered += ready
    return ordered


def _needed(name, conditions, choices, needs) -> dict[str, set[str]]:
    """The values that other settings must have, directly or not, for this one to be searched.

    Raises:
        UserError: if no combination of values allows it.
    """
    found: dict[str, set[str]] = {}
    for parent, texts in conditions.items():
        if not set(texts) <= set(choices[parent]):
            taken = ", ".join(choices[parent]) or "a range; give it choices or a step"
            raise UserError(
                f"{name} depends on a value that {parent} never takes; it takes {taken}. Received: "
                f"when {parent}={', '.join(texts)}."
            )
        for other, wanted in [(parent, set(texts)), *needs[parent].items()]:
            found[other] = found.get(other, wanted) & wanted
    if not all(found.values()):
        raise UserError(
            f"{name} depends on values that never occur together. Received: when "
            f"{json.dumps(conditions)}. Remove one of the conditions."
        )
    return found


def _searched(name: str, entry: Mapping[str, Any]) -> tuple[type[HyperParameter], dict[str, Any]]:
    """The kind of a hyperparameter, and its choices as texts or its ends."""
    if "choices" in entry:
        return Choice, {"values": _texts(name, entry["choices"])}
    low, high = _ends(name, entry)
    if "step" in entry:
        return Choice, {"values": _texts(name, _stepped(name, low, high, entry))}
    kind, scale = Int if isinstance(low, int) else Float, entry.get("scale", "linear")
    return kind, {"min_value": low, "max_value": high, "sampling": scale}


def _texts(name: str, values: Any) -> list[str]:
    if not isinstance(values, list) or not values:
        raise UserError(
            f"{name} must have one choice or more, as a list. Received: {json.dumps(values)}."
        )
    texts = [json.dumps(_checked(name, value)) for value in values]
    for text in texts:
        if texts.count(text) > 1:
            raise UserError(
                f"{name} has the same choice twice. Received: {text}. Remove one; values made from "
                "a step are rounded to six digits."
            )
    return texts


def _ends(name, entry) -> Sequence[float]:
    """Both ends of a range: whole numbers if the setting takes them, else rounded to six digits."""
    ends, scale = entry["range"], entry.get("scale", "linear")
    if not isinstance(ends, list) or len(ends) != 2 or not all(map(is_number, ends)):
        raise UserError(
            f"{name} must have a range of two numbers, [low, high]. Received: {json.dumps(ends)}."
        )
    if scale not in ("linear", "log"):
        raise UserError(f"{name} must have the scale linear or log. Received: {scale!r}.")
    # Whether a method wants whole numbers is known only from the step.
    field = _FIELDS.get(name)
    if field:
        whole = field.metadata["kind"] is int
    else:
        whole = all(isinstance(number, int) for number in (*ends, entry.get("step")))
    low, high = (_checked(name, end if whole else six_digits(end)) for end in ends)
    if low >= high or (scale == "log" and low <= 0):
        above = ", both above 0 on a log scale" if scale == "log" else ""
        raise UserError(
            f"{name} must have a range with a low end below its high end{above}, which differ when "
            f"rounded to six digits. Received: {json.dumps(ends)}."
        )
    return low, high


def _stepped(name, low, high, entry) -> list[float]:
    """The values of a range with a step: a difference, or on a log scale a factor."""
    step, log = entry["step"], entry.get("scale") == "log"
    whole, least = isinstance(low, int), int(log)
    if not is_number(step) or step <= least or (whole and not isinstance(step, int)):
        kind = "a whole number" if whole else "a number"
        raise UserError(f"the step of {name} must be {kind} above {least}. Received: {step!r}.")
    # A little more than the ratio: 0.3 / 0.1 is 2.9999999999999996.
    ratio = (math.log(high / low, step) if log else (high - low) / step) + 1e-9
    if not 1 <= ratio < _MOST_STEPS:
        raise UserError(
            f"{name} must have a step that fits 1 to {_MOST_STEPS} times into its range, [{low}, "
            f"{high}]. Received: {step}."
        )
    places = range(math.floor(ratio) + 1)
    values = [low * step**place if log else low + place * step for place in places]
    return values if whole else [six_digits(value) for value in values]


def _checked(name: str, value: Any) -> Any:
    """A value as its setting takes it; raises `UserError` if it does not."""
    if name in _FIELDS:
        return checked(_FIELDS[name], value)
    argument = name.removeprefix(ARGUMENT)
    PretrainConfig(method_args={argument: value})  # The method itself checks its arguments.
    try:
        kept = not isinstance(value, list | dict) and parse_arguments(f"{argument}={value}")
    except UserError:
        kept = False
    if kept != {argument: value}:  # The recipe is a flag file in the end.
        raise UserError(
            f"{name} must be a number, true, false, null or a word. Received: {json.dumps(value)}."
        )
    return value
