"""Which recipes a stability study compares, and around what: a small JSON file.

    {
        "recipes": {"SupCon": "digits.flags", "cross entropy": "digits_cross_entropy.flags"},
        "settings": {"validation_fraction": 0.2},
        "factors": {
            "learning rate": {"changes": [{"learning_rate": {"times": 0.1}},
                                          {"learning_rate": {"times": 10}}]},
            "optimizer": {"changes": [{"optimizer": "lars", "learning_rate": 1.0}]},
            "temperature": {"recipes": ["SupCon"], "changes": [{"temperature": 0.5}]}
        }
    }

Each change alone is made to each recipe (or to those that the factor names), whose own settings
are part of every factor. `settings` hold for all trials.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from supcon_tf.config import PretrainConfig
from supcon_tf.config.search import PLACEMENT
from supcon_tf.core.errors import UserError
from supcon_tf.core.files import read_json_of_people
from supcon_tf.search.checks import check_process
from supcon_tf.search.space import configured
from supcon_tf.search.space_checks import check_names, check_value, is_number
from supcon_tf.stages.checks import settings_checks

# The label of a recipe as it is.
UNCHANGED = "as it is"
# The factor that stands for all of them.
ALL = "all"
_FIELDS = {field.name: field for field in dataclasses.fields(PretrainConfig)}


@dataclasses.dataclass(frozen=True)
class Variation:
    """A recipe with one change.

    Attributes:
        recipe: its title.
        label: the change in words, such as "learning_rate x 0.1"; `UNCHANGED` for none.
        base: the recipe with the study's settings.
        values: by setting, what is changed.
        factors: those that it is part of.
    """

    recipe: str
    label: str
    base: PretrainConfig
    values: Mapping[str, Any]
    factors: tuple[str, ...]


def read_study(path: str, read_recipe: Callable[[Path], PretrainConfig]) -> list[Variation]:
    """Reads and checks a study: its variations, each recipe as it is first.

    Args:
        path: JSON file; the recipes' paths are relative to it.
        read_recipe: from a recipe's file to its settings.

    Raises:
        UserError: if a file cannot be read or used; one line says what is wrong, the value
            received, and what to do.
    """
    content = read_json_of_people(path, "study")
    try:
        return _variations(content, Path(path).parent, read_recipe)
    except UserError as error:
        raise UserError(f"study {path}: {error}") from error


def _variations(content, folder, read_recipe):
    _check_object("it", content, ("recipes", "settings", "factors"), ("recipes", "factors"))
    for part in ("recipes", "factors"):
        if not isinstance(content[part], dict) or not content[part]:
            raise UserError(
                f"{part} must be an object with one or more. Received: {json.dumps(content[part])}."
            )
    for name in [*content["recipes"], *content["factors"]]:
        if not name.strip() or not name.isprintable():
            raise UserError(f"a title must be a line of text. Received: {name!r}. Rename it.")
    for factor, entry in content["factors"].items():
        _check_factor(factor, entry, content["recipes"])
    settings = _settings(content.get("settings", {}))
    bases = {}
    for title, file in content["recipes"].items():
        if not isinstance(file, str):
            raise UserError(f"recipe {title} must be a file. Received: {json.dumps(file)}.")
        bases[title] = read_recipe(folder / file).replace(**settings)
        check_process(bases[title])
        if not bases[title].validation_fraction:
            raise UserError(
                f"recipe {title} has no validation set to score on. Received: "
                "validation_fraction=0. Give one in settings, such as 0.2."
            )
    found: dict[str, Variation] = {}
    for title, base in bases.items():
        factors = [
            name
            for name, entry in content["factors"].items()
            if title in entry.get("recipes", [title])
        ]
        _add(found, Variation(title, UNCHANGED, base, {}, tuple(factors)))
    for factor, entry in content["factors"].items():
        for variation in _of_factor(factor, entry, bases):
            _add(found, variation)
    return list(found.values())


def _check_object(name, content, allowed, needed):
    if not isinstance(content, dict):
        raise UserError(f"{name} must be an object. Received: {json.dumps(content)}.")
    for key in content:
        if key not in allowed:
            raise UserError(f"{name} may hold {', '.join(allowed)}. Received: {key!r}. Remove it.")
    for key in needed:
        if key not in content:
            raise UserError(
                f"{name} must hold {', '.join(needed)}. Received: {', '.join(content) or '{}'}. "
                f"Add {key}."
            )


def _settings(settings):
    if not isinstance(settings, dict):
        raise UserError(f"settings must be an object. Received: {json.dumps(settings)}.")
    for name in settings:
        if name not in _FIELDS or name in (*PLACEMENT, "seed"):
            raise UserError(f"settings cannot hold {name}. Received: {name!r}. Remove it.")
    return settings


def _check_factor(factor, entry, recipes):
    """Raises `UserError` unless a factor has changes, and names recipes if it names any."""
    if factor == ALL:
        raise UserError(f"{ALL!r} stands for all factors. Received: {factor!r}. Rename it.")
    _check_object(factor, entry, ("changes", "recipes"), ("changes",))
    titles = entry.get("recipes", list(recipes))
    if not isinstance(titles, list) or not titles or not all(name in [*recipes] for name in titles):
        raise UserError(
            f"{factor} must name recipes of {', '.join(recipes)}. Received: {json.dumps(titles)}."
        )
    changes = entry["changes"]
    if not isinstance(changes, list) or not changes:
        raise UserError(f"{factor} must have a list of changes. Received: {json.dumps(changes)}.")


def _of_factor(factor, entry, bases):
    """The variations of one factor."""
    for title in entry.get("recipes", list(bases)):
        for change in entry["changes"]:
            values, label = _change(factor, change, bases[title])
            yield Variation(title, label, bases[title], values, (factor,))


def _change(factor, change, base):
    """The values of one change to a recipe, and what it is called."""
    if not isinstance(change, dict) or not change:
        raise UserError(
            f"{factor} must have changes that are objects of settings. Received: "
            f"{json.dumps(change)}."
        )
    check_names(change)
    values, words = {}, []
    for name, value in change.items():
        if isinstance(value, dict):
            values[name] = _multiplied(name, value, base)
            words.append(f"{name} x {value['times']}")
        else:
            values[name] = check_value(name, value)
            words.append(f"{name} {value}")
    return values, ", ".join(words)


def _multiplied(name, value, base):
    times = value.get("times")
    if list(value) != ["times"] or not is_number(times):
        raise UserError(
            f'{name} must be a value or {{"times": number}}. Received: {json.dumps(value)}.'
        )
    own = getattr(base, name, None)
    if not is_number(own):
        raise UserError(
            f"{name} cannot be multiplied where the recipe has {own!r}. Received: "
            f"{json.dumps(value)}. Give a value."
        )
    found = float(f"{own * times:.6g}")
    whole = _FIELDS[name].metadata["kind"] is int
    if whole and not found.is_integer():
        raise UserError(
            f"{name} must stay a whole number. Received: {own} times {times}. Give a value."
        )
    return check_value(name, int(found) if whole else found)


def _add(found, variation):
    """Adds a variation, or its factor to one that comes to the same settings."""
    try:
        config = configured(variation.base, variation.values)
        for check in settings_checks(config):
            check()
    except UserError as error:
        raise UserError(f"{variation.recipe} with {variation.label}: {error}") from error
    key = json.dumps([variation.recipe, config.to_dict()])
    for other, known in found.items():
        if other != key and (known.recipe, known.label) == (variation.recipe, variation.label):
            raise UserError(
                f"two different changes are called alike. Received: {variation.label!r}. "
                "Remove one."
            )
    if key in found:
        factors = dict.fromkeys([*found[key].factors, *variation.factors])
        variation = dataclasses.replace(found[key], factors=tuple(factors))
    found[key] = variation
