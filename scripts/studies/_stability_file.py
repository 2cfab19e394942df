"""Reads a stability study, its recipes and the changes to them, from a small JSON file.

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

Each change is made by itself to each recipe (or to those that the factor names); the unchanged
recipe is part of every factor. `settings` hold for all trials. Paths are relative to the file.
"""

import dataclasses
import json
from pathlib import Path

from supcon_tf.cli.flags import read_recipe
from supcon_tf.config import PretrainConfig
from supcon_tf.config.search import PLACEMENT
from supcon_tf.config.trials import check_trials
from supcon_tf.core.errors import UserError
from supcon_tf.core.files import read_user_json
from supcon_tf.search.preparation import check_settings
from supcon_tf.search.space import configured, is_number, six_digits
from supcon_tf.search.space_file import check_name

# The label of an unchanged recipe, and the factor that means all factors.
UNCHANGED, ALL = "as it is", "all"


@dataclasses.dataclass(frozen=True)
class Variation:
    """A recipe with one change.

    Attributes:
        recipe: its title.
        label: the change in words, such as "learning_rate x 0.1"; `UNCHANGED` for none.
        base: the recipe with the study's settings, a `PretrainConfig`.
        values: by setting, what is changed.
        factors: those that it is part of, a tuple.
    """

    recipe: str
    label: str
    base: PretrainConfig
    values: dict
    factors: tuple

    @property
    def config(self):
        """The recipe with the change."""
        return configured(self.base, self.values)


def read_study(path):
    """Reads and checks a study.

    Returns:
        Its variations, each recipe as it is first.

    Raises:
        UserError: if a file cannot be read or used; one line says what is wrong, the value
            received, and what to do.
    """
    content = read_user_json(path, "study")
    try:
        _check_shape(content)
        return _variations(content, _bases(content, Path(path).parent))
    except UserError as error:
        raise UserError(f"study {path}: {error}") from error


def _check(holds, rule, received):
    if not holds:
        raise UserError(f"{rule}. Received: {json.dumps(received)}.")


def _check_keys(name, content, needed, optional):
    rule = f"{name} must hold {', '.join(needed)}, and may hold {optional}"
    keys = set(content) if isinstance(content, dict) else set()
    _check(set(needed) <= keys <= {*needed, optional}, rule, content)


def _check_shape(content):
    """Raises `UserError` unless titles, recipes and factors are where they belong."""
    _check_keys("it", content, ("factors", "recipes"), "settings")
    for part in ("recipes", "factors"):
        rule = f"{part} must be an object with one or more, under titles of one line"
        titles = list(content[part]) if isinstance(content[part], dict) else []
        _check(titles and all(t.strip() and t.isprintable() for t in titles), rule, content[part])
    for title, file in content["recipes"].items():
        _check(isinstance(file, str), f"recipe {title} must be a file", file)
    for factor, entry in content["factors"].items():
        _check(factor != ALL, f"{ALL!r} means all factors; rename it", factor)
        _check_keys(factor, entry, ("changes",), "recipes")
        changes, named = entry["changes"], entry.get("recipes", list(content["recipes"]))
        fits = isinstance(changes, list) and changes and all(isinstance(c, dict) for c in changes)
        _check(fits and all(changes), f"{factor} must have changes, objects of settings", changes)
        fits = isinstance(named, list) and all(title in [*content["recipes"]] for title in named)
        rule = f"{factor} must name recipes of {', '.join(content['recipes'])}"
        _check(fits and named, rule, named)


def _bases(content, folder):
    """The recipes with the settings of the study, by title."""
    settings, found = content.get("settings", {}), {}
    _check(isinstance(settings, dict), "settings must be an object", settings)
    allowed = {*PretrainConfig.__dataclass_fields__} - {*PLACEMENT, "seed"}
    for name in settings:
        _check(name in allowed, f"settings cannot hold {name}", name)
    for title, file in content["recipes"].items():
        found[title] = read_recipe(folder / file).replace(**settings)
        try:
            check_trials(found[title])
        except UserError as error:
            raise UserError(f"recipe {title}: {error}") from error
    return found


def _variations(content, bases):
    """A variation for each distinct configuration, which may belong to several factors."""
    found = []
    for title, base in bases.items():
        factors = [
            name for name, one in content["factors"].items() if title in one.get("recipes", [title])
        ]
        _add(found, Variation(title, UNCHANGED, base, {}, tuple(factors)))
    for factor, entry in content["factors"].items():
        for title in entry.get("recipes", list(bases)):
            for change in entry["changes"]:
                values, label = _change(change, bases[title])
                _add(found, Variation(title, label, bases[title], values, (factor,)))
    return found


def _change(change, base):
    """The values of a change to a recipe, and its label."""
    values, words = {}, []
    for name, value in change.items():
        check_name(name)
        if isinstance(value, dict):
            values[name] = _multiplied(name, value, getattr(base, name, None))
            words.append(f"{name} x {value['times']}")
        else:
            values[name] = value
            words.append(f"{name} {value}")
    return values, ", ".join(words)


def _multiplied(name, value, own):
    times = value.get("times")
    fits = list(value) == ["times"] and is_number(times)
    _check(fits, f'{name} must be a value or {{"times": number}}', value)
    _check(is_number(own), f"{name} cannot be multiplied where the recipe has {own!r}", value)
    product = six_digits(own * times)
    is_whole = isinstance(own, int) and product.is_integer()  # If not, the setting refuses it.
    return int(product) if is_whole else product


def _add(found, variation):
    """Adds a variation, or its factor to one that has the same settings."""
    title, label = variation.recipe, variation.label
    try:
        check_settings(variation.config)
    except UserError as error:
        raise UserError(f"{title} with {label}: {error}") from error
    for at, known in enumerate(found):
        if known.recipe == title and known.config == variation.config:
            factors = tuple(dict.fromkeys([*known.factors, *variation.factors]))
            found[at] = dataclasses.replace(known, factors=factors)
            return
        rule = "two different changes have one name; remove one"
        _check((known.recipe, known.label) != (title, label), rule, label)
    found.append(variation)
