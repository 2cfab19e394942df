"""Which settings a search may change and to what: a small JSON file, checked before any trial.

    {
        "learning_rate": {"range": [0.02, 1.0], "scale": "log"},
        "optimizer": {"choices": ["sgd", "lars", "adamw"]},
        "nesterov": {"choices": [false, true], "when": {"optimizer": ["sgd", "lars"]}},
        "temperature": {"range": [0.05, 0.3], "step": 0.05},
        "method_args.margin": {"range": [0.1, 1.0], "when": {"method": ["triplet"]}}
    }

The names are fields of `PretrainConfig`, or `method_args.NAME`. A setting whose condition (`when`)
does not hold keeps the value of the base recipe.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from supcon_tf.config import PretrainConfig
from supcon_tf.core.errors import UserError
from supcon_tf.core.files import read_json_of_people
from supcon_tf.search.space_checks import ARGUMENT, check_entry, check_names, in_order, six_digits

# What is enumerated to count a space, at most.
_COUNTED = 10**5


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One setting to search: values to choose from, or a range.

    Attributes:
        name: a field of `PretrainConfig`, or `method_args.NAME`.
        choices: the values; () for a range.
        low: least value of a range.
        high: largest value of a range.
        log: whether a range is searched on a logarithmic scale.
        when: by the name of another parameter, its values with which this one is searched.
    """

    name: str
    choices: tuple = ()
    low: float = 0
    high: float = 0
    log: bool = False
    when: Mapping[str, tuple] = dataclasses.field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether a range holds whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def first(self) -> Any:
        """The first choice, or the least value."""
        return self.choices[0] if self.choices else self.low

    def decoded(self, value: Any) -> Any:
        """From a value as the oracles hold it: choices are JSON texts, numbers are rounded."""
        if self.choices:
            return json.loads(value)
        value = int(value) if self.is_whole else six_digits(value)
        return min(max(value, self.low), self.high)

    def holds(self, value: Any) -> bool:
        """Whether a value is one that a trial may have."""
        if self.choices:
            return json.dumps(value) in encoded(self.choices)
        known = isinstance(value, int | float)  # An argument that the recipe leaves out is not.
        return known and self.low <= value <= self.high and self.decoded(value) == value

    def place(self, value: Any) -> float:
        """Where a value lies between the first (0) and the last (1) one, for pictures."""
        if self.choices:
            return encoded(self.choices).index(json.dumps(value)) / max(1, len(self.choices) - 1)
        low, high, value = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return (value - low) / (high - low)


def encoded(values) -> list[str]:
    """Choices as the oracles hold them: texts, which keep true, 1, 1.0 and null apart."""
    return [json.dumps(value) for value in values]


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """The parameters to search; each after those that it depends on."""

    parameters: tuple[Parameter, ...]

    def active(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of some values whose conditions hold.

        Args:
            values: by parameter, of each that is active at least.
        """
        kept = {}
        for parameter in self.parameters:
            holds = all(
                parent in kept and json.dumps(kept[parent]) in encoded(wanted)
                for parent, wanted in parameter.when.items()
            )
            if holds:
                kept[parameter.name] = values[parameter.name]
        return kept

    def decoded(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A trial's active settings, from the values that an oracle proposes."""
        known = [parameter for parameter in self.parameters if parameter.name in values]
        found = {parameter.name: parameter.decoded(values[parameter.name]) for parameter in known}
        return self.active({**self._firsts(), **found})

    def values_of(self, recipe: PretrainConfig) -> dict[str, Any] | None:
        """The active settings that make a trial a recipe; None where one is not in the space."""
        arguments = {f"{ARGUMENT}{name}": value for name, value in recipe.method_args.items()}
        known = {**dataclasses.asdict(recipe), **arguments}
        named = {parameter.name: parameter for parameter in self.parameters}
        active = self.active({name: known.get(name) for name in named})
        return active if all(named[name].holds(value) for name, value in active.items()) else None

    def proposed(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings as the oracles hold them; the reverse of `decoded`."""
        chosen = {parameter.name for parameter in self.parameters if parameter.choices}
        return {
            name: json.dumps(value) if name in chosen else value for name, value in settings.items()
        }

    def _firsts(self):
        return {parameter.name: parameter.first() for parameter in self.parameters}

    def first(self) -> dict[str, Any]:
        """The first values of all that are active."""
        return self.active(self._firsts())

    def _combinations(self, names) -> Iterator[dict[str, Any]]:
        """The active settings with every combination of some choices; the others are the first."""
        varied = [parameter for parameter in self.parameters if parameter.name in names]
        firsts = self._firsts()
        for values in itertools.product(*(parameter.choices for parameter in varied)):
            pairs = zip((parameter.name for parameter in varied), values, strict=True)
            yield self.active({**firsts, **dict(pairs)})

    def never_active(self) -> set[str]:
        """The parameters whose conditions contradict each other."""
        parents = {name for parameter in self.parameters for name in parameter.when}
        if _product(self.parameters, parents) > _COUNTED:
            return set()
        never = {parameter.name for parameter in self.parameters}
        for settings in self._combinations(parents):
            never -= set(settings)
        return never

    def count(self) -> float:
        """How many different settings there are; infinite with a range, or above 100,000."""
        if not all(parameter.choices for parameter in self.parameters):
            return math.inf
        names = {parameter.name for parameter in self.parameters}
        if _product(self.parameters, names) > _COUNTED:
            return math.inf
        return len({json.dumps(settings) for settings in self._combinations(names)})


def _product(parameters, names):
    return math.prod(len(parameter.choices) for parameter in parameters if parameter.name in names)


def configured(base: PretrainConfig, values: Mapping[str, Any], **placement) -> PretrainConfig:
    """The base recipe with a trial's settings.

    Args:
        base: the base recipe.
        values: settings by the names of parameters.
        **placement: where the run lies and whether it is continued.

    Raises:
        UserError: if `PretrainConfig` refuses the combination.
    """
    arguments = {
        name.removeprefix(ARGUMENT): value
        for name, value in values.items()
        if name.startswith(ARGUMENT)
    }
    fields = {name: value for name, value in values.items() if not name.startswith(ARGUMENT)}
    method_args = {**base.method_args, **arguments}
    return base.replace(method_args=method_args, **fields, **placement)


def read_space(path: str, base: PretrainConfig, algorithm: str) -> SearchSpace:
    """Reads and checks a search space.

    Args:
        path: JSON file.
        base: the recipe that the space changes.
        algorithm: of `TuneConfig`; what it cannot search is refused.

    Raises:
        UserError: if the file cannot be read or used; one line says what is wrong with which
            setting, the value received, and what to do.
    """
    content = read_json_of_people(path, "search space")
    try:
        return parse_space(content, base, algorithm)
    except UserError as error:
        raise UserError(f"search space {path}: {error}") from error


def parse_space(content: Any, base: PretrainConfig, algorithm: str) -> SearchSpace:
    """Makes a search space of a file's content; as `read_space`."""
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"it must be an object of settings, with one or more. Received: {json.dumps(content)}."
        )
    check_names(content, algorithm)
    parameters = {
        name: Parameter(name, **check_entry(name, entry, algorithm))
        for name, entry in content.items()
    }
    space = SearchSpace(tuple(parameters[name] for name in in_order(parameters)))
    never = sorted(space.never_active())
    if never:
        raise UserError(
            f"{never[0]} depends on values that never come together. Received: when "
            f"{json.dumps(dict(parameters[never[0]].when))}. Remove one of the conditions."
        )
    try:
        configured(base, space.first())
    except UserError as error:
        shown = ", ".join(f"{name}={value}" for name, value in space.first().items())
        raise UserError(f"its first values cannot be combined ({shown}): {error}") from error
    return space
