"""Who proposes a trial's settings: Keras Tuner's oracles, made to survive a kill and failures."""

import contextlib
import functools
import math
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine.oracle import Objective
from keras_tuner.engine.trial import Trial as ProposedTrial
from keras_tuner.oracles import (
    BayesianOptimizationOracle,
    GridSearchOracle,
    HyperbandOracle,
    RandomSearchOracle,
)
from sklearn.exceptions import ConvergenceWarning

from supcon_tf.config import PretrainConfig
from supcon_tf.config.search import OBJECTIVES, TuneConfig
from supcon_tf.core.files import read_json, write_json
from supcon_tf.search.space import SearchSpace, encoded

_MAX_TRIALS, _FACTOR, _ITERATIONS = 20, 3, 1
# Random settings drawn in vain before the space counts as exhausted.
_COLLISIONS = 1000


class _Lasting:
    """What all oracles share here.

    Keras Tuner writes a file for the oracle and one for each trial, so a kill between two leaves
    trials that are forgotten or run again. Here one file, written in one step, holds everything.

    Attributes:
        failure: what was raised for a worker, in a thread of the chief's server.
    """

    failure: Exception | None = None

    def prepare(
        self,
        is_spent: Callable[[], bool],
        after_trial: Callable[[str], None],
        begin_with: Mapping[str, Any] | None = None,
    ):
        """To be called before the search.

        Args:
            is_spent: whether no further trial may begin.
            after_trial: called with the number of a trial that has ended.
            begin_with: what the first trial has in place of random values, as the oracle holds it.
        """
        self._is_spent, self._after_trial, self._begin_with = is_spent, after_trial, begin_with
        self._max_collisions = _COLLISIONS
        self.verbose = 0

    @property
    def file(self) -> Path:
        """Where the oracle's state is kept."""
        return Path(self._get_oracle_fname())

    def _save_trial(self, trial):
        """Nothing: `save` writes the trials too, and always follows."""

    @contextlib.contextmanager
    def _noting_failures(self):
        """Notes what is raised in a thread of the chief's server; it then ends the search.

        Nobody would hear of it there, and Keras Tuner 1.4.8 would keep its lock.
        """
        try:
            yield
        except Exception as error:
            if threading.current_thread() is threading.main_thread():
                raise
            self.failure = error

    def save(self):
        """Writes the state of the oracle and of all trials."""
        trials = {name: trial.get_state() for name, trial in self.trials.items()}
        with self._noting_failures():
            write_json(self.file, {**self.get_state(), "trials": trials})

    def reload(self):
        """Reads the state back; the trials that had not ended are run first."""
        state = read_json(self.file)
        self.trials = {
            name: ProposedTrial.from_state(trial) for name, trial in state["trials"].items()
        }
        self.set_state(state)
        self.ongoing_trials = {}
        # The state is saved before an ended trial is taken off the ongoing ones. The last is
        # taken from the queue first.
        left = [name for name in self.start_order if self.trials[name].status == "RUNNING"]
        self._retry_queue = left[::-1]

    def populate_space(self, trial_id):
        """The settings of a new trial, or that there is none."""
        response = {"status": "STOPPED", "values": None}
        with self._noting_failures():
            if self.failure is None and not self._is_spent():
                response = super().populate_space(trial_id)
        return response

    def _random_values(self):
        """The base recipe first, where it lies in the space: the best trial is no worse then."""
        begins = self._begin_with and not self.trials
        return dict(self._begin_with) if begins else super()._random_values()

    def end_trial(self, trial):
        """Takes a trial's result; the settings stay as proposed, since workers round them.

        Where a worker went on with it while the chief was away, it is given to another one and
        then ends twice, with one result.
        """
        trial.hyperparameters = self.trials[trial.trial_id].hyperparameters
        if trial.trial_id in self._retry_queue:
            self._retry_queue.remove(trial.trial_id)
        is_new = trial.trial_id not in self.end_order
        super().end_trial(trial)
        if is_new:
            with self._noting_failures():
                self._after_trial(trial.trial_id)


class _Random(_Lasting, RandomSearchOracle):
    pass


class _Grid(_Lasting, GridSearchOracle):
    def reload(self):
        """Also finds the place in the grid again, which Keras Tuner does not save."""
        super().reload()

        def order(one, other):
            first, second = (self.trials[name].hyperparameters.values for name in (one, other))
            return self._compare(first, second)

        for name in sorted(self.trials, key=functools.cmp_to_key(order)):
            self._ordered_ids.insert(name)
        self._populate_next = list(self.trials)


class _Bayesian(_Lasting, BayesianOptimizationOracle):
    def populate_space(self, trial_id):
        """Never the same settings twice: a trial is deterministic, so nothing would be learned."""
        # Not saved by Keras Tuner; from the number of trials, a resumed search proposes the same.
        self._random_state = np.random.RandomState(self.seed + len(self.trials))
        with warnings.catch_warnings():
            # Its Gaussian process says so when a length scale ends at a bound.
            warnings.simplefilter("ignore", ConvergenceWarning)
            response = super().populate_space(trial_id)
        values = response["values"]
        return self._random_populate_space() if values and self._duplicate(values) else response

    def _vectorize_trials(self):
        """Failed trials, whose score is infinite, count as the worst of the others."""
        places, scores = super()._vectorize_trials()
        known = scores[abs(scores) < math.inf]
        scores[abs(scores) == math.inf] = known.max() if len(known) else 0.0
        return places, scores


class _Hyperband(_Lasting, HyperbandOracle):
    def __init__(self, *, shortest, **settings):
        self.shortest = shortest
        super().__init__(**settings)

    def _get_num_brackets(self):
        """No rung is shorter than the grace epochs; Keras Tuner's own least is 1."""
        return 1 + math.floor(math.log(self.max_epochs / self.shortest, self.factor) + 1e-9)

    def _sizes(self):
        """Of each rung of each bracket: its number, trials, and epochs that each of them trains."""
        for bracket in range(self._get_num_brackets()):
            epochs = [0, *(self._get_epochs(bracket, rung) for rung in range(bracket + 1))]
            for rung in range(bracket + 1):
                yield rung, self._get_size(bracket, rung), epochs[rung + 1] - epochs[rung]

    def planned(self) -> dict:
        """What the whole search takes: `trials`, `epochs`, and different `settings`."""
        sizes = list(self._sizes())
        times = self.hyperband_iterations
        return {
            "trials": times * sum(size for _, size, _ in sizes),
            "epochs": times * sum(size * epochs for _, size, epochs in sizes),
            "settings": times * sum(size for rung, size, _ in sizes if rung == 0),
        }


def hyperparameters(space: SearchSpace) -> keras_tuner.HyperParameters:
    """A search space as Keras Tuner's."""
    entries = []
    for parameter in space.parameters:
        conditions = [
            {"class_name": "Parent", "config": {"name": parent, "values": encoded(wanted)}}
            for parent, wanted in parameter.when.items()
        ]
        config = {"name": parameter.name, "conditions": conditions}
        if parameter.choices:
            kind = "Choice"
            config |= {"values": encoded(parameter.choices), "ordered": False}
        else:
            kind = "Int" if parameter.is_whole else "Float"
            sampling = "log" if parameter.log else "linear"
            config |= {"min_value": parameter.low, "max_value": parameter.high}
            config |= {"sampling": sampling}
        entries.append({"class_name": kind, "config": config})
    # The grid begins with the first values, and looks here for which of them are active.
    values = space.proposed(space.first())
    return keras_tuner.HyperParameters.from_config({"space": entries, "values": values})


def grace_epochs(config: TuneConfig, epochs: int) -> int:
    """The epochs before a trial may be stopped: as given, or a tenth of its epochs, at least 1."""
    return config.grace_epochs or max(1, epochs // 10)


def make_oracle(config: TuneConfig, base: PretrainConfig, space: SearchSpace):
    """The oracle of a search, not yet prepared.

    Args:
        config: the search's settings.
        base: the base recipe; its seed draws the proposals, its epochs are hyperband's longest.
        space: what is searched.
    """
    direction = OBJECTIVES[config.objective]
    settings = {
        "objective": Objective(config.objective, direction),
        "hyperparameters": hyperparameters(space),
        "seed": base.seed + 1,  # Keras Tuner takes 0 for none.
    }
    if config.algorithm == "hyperband":
        oracle = _Hyperband(
            shortest=min(base.epochs, grace_epochs(config, base.epochs)),
            max_epochs=base.epochs,
            factor=config.hyperband_factor or _FACTOR,
            hyperband_iterations=config.hyperband_iterations or _ITERATIONS,
            **settings,
        )
        oracle.max_trials = config.max_trials
        return oracle
    if config.algorithm == "grid":
        return _Grid(max_trials=config.max_trials, **settings)
    settings["max_trials"] = config.max_trials or _MAX_TRIALS
    if config.algorithm == "random":
        return _Random(**settings)
    # Keras Tuner's own number of random trials, but a third of all at most: of 20 trials with six
    # parameters it would leave two to what was learned.
    expected = settings["max_trials"]
    if config.max_total_epochs is not None:
        expected = min(expected, config.max_total_epochs // base.epochs)
    first = min(3 * len(space.parameters), expected // 3)
    return _Bayesian(num_initial_points=max(3, first), **settings)
