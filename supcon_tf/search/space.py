"""Search spaces: which settings a search may change and to what, as hyperparameters of Keras Tuner.

Each setting is one of these, under the setting's name: `Int` or `Float` for a range, and for
choices `Choice` of JSON texts, since Keras Tuner takes true for 1 and has no null. A setting whose
condition does not hold keeps the value of the base recipe.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from keras_tuner import HyperParameters
from keras_tuner.engine.hyperparameters import Choice, HyperParameter, Int

from supcon_tf.config import PretrainConfig

# The prefix of the name of a method's argument.
ARGUMENT = "method_args."
# Combinations that are enumerated to count a space, at most.
_COUNTED = 10**5


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """The settings to search.

    Attributes:
        content: what the file says, by setting.
        hyperparameters: Keras Tuner's, each after those that it depends on. Their values are the
            first value of each active one, with which the grid begins.
    """

    content: Mapping[str, Mapping[str, Any]]
    hyperparameters: HyperParameters

    @property
    def names(self) -> list[str]:
        """The settings that are searched."""
        return [parameter.name for parameter in self.hyperparameters.space]

    def first(self) -> dict[str, Any]:
        """The first choices and least values of all settings that are active with them."""
        return self.decoded(self.hyperparameters.values)

    def decoded(self, proposed: Mapping[str, Any]) -> dict[str, Any]:
        """A trial's active settings.

        Args:
            proposed: values as Keras Tuner holds them; what is missing counts as its first value.
        """
        active: dict[str, Any] = {}
        for parameter in self.hyperparameters.space:
            if all(condition.is_active(active) for condition in parameter.conditions):
                active[parameter.name] = proposed.get(parameter.name, parameter.default)
        return {name: _decoded(self._parameter(name), value) for name, value in active.items()}

    def encoded(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings as Keras Tuner holds them; the reverse of `decoded`."""
        return {
            parameter.name: _encoded(parameter, settings[parameter.name])
            for parameter in self.hyperparameters.space
            if parameter.name in settings
        }

    def values_of(self, recipe: PretrainConfig) -> dict[str, Any] | None:
        """The active settings with which a trial is the recipe; None if one is not in the space."""
        arguments = {f"{ARGUMENT}{name}": value for name, value in recipe.method_args.items()}
        known = {**dataclasses.asdict(recipe), **arguments}
        wanted = self.encoded({name: known.get(name) for name in self.names})
        inside = {
            parameter.name: wanted[parameter.name]
            for parameter in self.hyperparameters.space
            if _holds(parameter, wanted[parameter.name])
        }
        active = self.decoded(inside)
        return active if set(active) <= set(inside) else None

    def place(self, name: str, value: Any) -> float:
        """Where a value of a setting lies between the first (0) and the last (1), for figures."""
        parameter = self._parameter(name)
        return parameter.value_to_prob(_encoded(parameter, value))

    def shown(self, name: str) -> list[Any]:
        """The choices of a setting, or the ends of its range, for figures."""
        parameter = self._parameter(name)
        if isinstance(parameter, Choice):
            return [json.loads(text) for text in parameter.values]
        return [parameter.min_value, parameter.max_value]

    def _parameter(self, name: str) -> HyperParameter:
        return next(one for one in self.hyperparameters.space if one.name == name)

    def count(self) -> float:
        """The number of different combinations; infinite with a range, or above 100,000."""
        if not all(isinstance(one, Choice) for one in self.hyperparameters.space):
            return math.inf
        combinations = self._combinations({}, self.hyperparameters.space)
        found = sum(1 for _ in itertools.islice(combinations, _COUNTED + 1))
        return found if found <= _COUNTED else math.inf

    def _combinations(self, chosen, left) -> Iterator[dict[str, Any]]:
        """Every combination of choices for the active ones among the parameters left."""
        if not left:
            yield chosen
            return
        parameter, *others = left
        if not all(condition.is_active(chosen) for condition in parameter.conditions):
            yield from self._combinations(chosen, others)
            return
        for value in parameter.values:
            yield from self._combinations({**chosen, parameter.name: value}, others)


def six_digits(value: float) -> float:
    """A number as trials have it: six digits survive the float32 in which workers exchange it."""
    return float(f"{value:.6g}")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; true and false are not."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < 2**1023  # Larger integers are not floats.


def _encoded(parameter: HyperParameter, value: Any) -> Any:
    return json.dumps(value) if isinstance(parameter, Choice) else value


def _decoded(parameter: HyperParameter, value: Any) -> Any:
    if isinstance(parameter, Choice):
        return json.loads(value)
    value = int(value) if isinstance(parameter, Int) else six_digits(value)
    return min(max(value, parameter.min_value), parameter.max_value)


def _holds(parameter: HyperParameter, value: Any) -> bool:
    """Whether a value is one that a trial may have."""
    if isinstance(parameter, Choice):
        return value in parameter.values
    # An argument that the recipe leaves out is None.
    return is_number(value) and _decoded(parameter, value) == value


def configured(base: PretrainConfig, values: Mapping[str, Any], **placement) -> PretrainConfig:
    """The base recipe with a trial's settings.

    Args:
        base: the base recipe.
        values: settings by name, as in a space file.
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
