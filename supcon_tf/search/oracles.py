"""Proposals of settings: Keras Tuner's oracles, made to resume exactly after a kill.

An oracle decides which settings the next trial gets. If one process searches, its tuner calls
the oracle; with a chief and workers the oracle lives in the chief, whose gRPC server calls it for
the workers, in a thread of its own. Keras Tuner's four oracles do the proposing. They are changed
where the search needs more than they offer:

* Keras Tuner writes one file for the oracle and one per trial, so a kill between two of them leaves
  trials that are forgotten or run again. Here one file, replaced in one step, holds everything.
* Some state is not saved at all: the position in the grid, the random numbers of the Bayesian
  search.
* A failure in a thread of the chief's server would go unnoticed.
* The search may end after a number of epochs, its first trial is the base recipe, a failed trial
  has the worst possible score, and hyperband has a minimum number of epochs.

This relies on private names of Keras Tuner 1.4, which setup.cfg keeps below 1.5; a comment that
begins with "Private" marks each use of one.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from keras_tuner.engine.trial import Trial as ProposedTrial
from keras_tuner.oracles import (
    BayesianOptimizationOracle,
    GridSearchOracle,
    HyperbandOracle,
    RandomSearchOracle,
)
from sklearn.exceptions import ConvergenceWarning

from supcon_tf.core.errors import UserError
from supcon_tf.core.files import read_json, write_json

# Random settings drawn in vain, one after another, before the space counts as exhausted.
_COLLISIONS = 1000


def _digest(state: Mapping[str, Any]) -> str:
    """SHA-256 of a state, the same before it is written as JSON and after."""
    text = json.dumps(json.loads(json.dumps(state)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class _Resumable:
    """The changes that all oracles share.

    Args:
        file: where the state of the oracle and of all trials is kept.
        first_values: the first trial's values as Keras Tuner holds them, or None for random ones.
        **settings: of Keras Tuner's oracle.

    Attributes:
        budget: a `Budget`, set before the search; it says when the search ends, and is told of each
            trial that has ended.
        failure: the exception raised in a thread of the chief's server, for a worker; it ends the
            search.
    """

    def __init__(self, *, file: Path, first_values: Mapping[str, Any] | None, **settings):
        super().__init__(**settings)
        self.file, self.first_values = file, first_values
        self.budget, self.failure = None, None
        self.verbose = 0
        # Private: how many times in a row random values may repeat others; too few by default.
        self._max_collisions = _COLLISIONS

    def save(self):
        """Writes the state of the oracle and of all trials."""
        trials = {name: trial.get_state() for name, trial in self.trials.items()}
        state = {**self.get_state(), "trials": trials}
        with self._noting_failures():
            write_json(self.file, {**state, "sha256": _digest(state)})

    def _save_trial(self, trial):
        """Private: nothing to do; `save` always follows, and writes the trials too."""

    def reload(self):
        """Reads the state back; the trials that had not ended are run first.

        Raises:
            UserError: if the file is damaged.
        """
        state = read_json(self.file)
        try:
            # Earlier versions wrote no digest. Keras Tuner itself notices damage late, if ever.
            if state.pop("sha256", None) not in (None, _digest(state)):
                raise ValueError("sha256")
            self._restore(state)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"{self.file} is damaged. Give another --search_dir.") from error

    def _restore(self, state):
        self.trials = {
            name: ProposedTrial.from_state(trial) for name, trial in state["trials"].items()
        }
        self.set_state(state)
        # The saved list of ongoing trials still holds one that had just ended.
        self.ongoing_trials = {}
        left = [name for name in self.start_order if self.trials[name].status == "RUNNING"]
        # Private: trials to run before new ones, of which the last is taken first.
        self._retry_queue = left[::-1]

    def populate_space(self, trial_id):
        """The values of a new trial, or the status that says there is none."""
        response = {"status": "STOPPED", "values": None}
        with self._noting_failures():
            if self.failure is None and not self.budget.is_spent():
                response = super().populate_space(trial_id)
        return response

    def _random_values(self):
        """Private: draws random values, for all oracles but the grid; the first trial's are set."""
        if self.first_values and not self.trials:
            return dict(self.first_values)
        return super()._random_values()

    def end_trial(self, trial):
        """Takes a trial's result, and tells the budget once."""
        # The values as proposed; those that come back from a worker went through float32.
        trial.hyperparameters = self.trials[trial.trial_id].hyperparameters
        # A worker may continue a trial while the chief is away. Restarted, the chief gives the
        # trial to another worker too, and it ends twice, with one result.
        if trial.trial_id in self._retry_queue:
            self._retry_queue.remove(trial.trial_id)
        is_new = trial.trial_id not in self.end_order
        super().end_trial(trial)
        if is_new:
            with self._noting_failures():
                self.budget.trial_ended(trial.trial_id)

    @contextlib.contextmanager
    def _noting_failures(self):
        """Notes what is raised in a thread of the chief's server, instead of raising it there.

        There, it would go unnoticed, and Keras Tuner would keep its lock forever. The next
        `populate_space` then ends the search, and the main thread raises the failure.
        """
        try:
            yield
        except Exception as error:
            if threading.current_thread() is threading.main_thread():
                raise
            self.failure = error


class Random(_Resumable, RandomSearchOracle):
    """Random settings."""


class Grid(_Resumable, GridSearchOracle):
    """Every combination of choices, each derived from a trial that has ended."""

    def _restore(self, state):
        """Also restores the position in the grid, which Keras Tuner does not save."""
        super()._restore(state)

        def in_grid(one, other):
            first, second = (self.trials[name].hyperparameters.values for name in (one, other))
            return self._compare(first, second)  # Private: which comes first in the grid.

        # Private: the trials in the grid's order, and those whose next combination is to be tried.
        for name in sorted(self.trials, key=functools.cmp_to_key(in_grid)):
            self._ordered_ids.insert(name)
        self._populate_next = list(self.trials)


class Bayesian(_Resumable, BayesianOptimizationOracle):
    """Random settings first, then those for which a Gaussian process predicts the best scores."""

    def populate_space(self, trial_id):
        """Never the same settings twice: a trial is deterministic, so nothing would be learned."""
        # Private: not saved. Seeded by the number of trials, so a resumed search proposes the same.
        self._random_state = np.random.RandomState(self.seed + len(self.trials))
        with warnings.catch_warnings():
            # The Gaussian process warns when a length scale ends at a bound.
            warnings.simplefilter("ignore", ConvergenceWarning)
            response = super().populate_space(trial_id)
        values = response["values"]
        # Private: whether values were tried before; if so, random values instead.
        return self._random_populate_space() if values and self._duplicate(values) else response

    def _vectorize_trials(self):
        """Private: the points and scores to learn from; failed trials get the worst known score.

        Their score is infinite, which Keras Tuner would take for 0.
        """
        points, scores = super()._vectorize_trials()
        known = scores[abs(scores) < math.inf]
        scores[abs(scores) == math.inf] = known.max() if len(known) else 0.0
        return points, scores


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that hyperband will do: trials, epochs, and different settings."""

    trials: int
    epochs: int
    settings: int


class Hyperband(_Resumable, HyperbandOracle):
    """Many trials of few epochs, of which the best continue, in brackets of rungs.

    Args:
        shortest: minimum epochs of the shortest rung; Keras Tuner's own minimum is 1.
        max_trials: maximum number of trials, or None.
        **settings: of `_Resumable` and of Keras Tuner's oracle.
    """

    def __init__(self, *, shortest: int, max_trials: int | None, **settings):
        self.shortest = shortest
        super().__init__(**settings)
        self.max_trials = max_trials

    def _get_num_brackets(self):
        """Private: the number of brackets; bracket b begins with rungs of max_epochs / factor^b."""
        return 1 + math.floor(math.log(self.max_epochs / self.shortest, self.factor) + 1e-9)

    def planned(self) -> Plan:
        """The whole search."""
        rungs = list(self._rungs())
        times = self.hyperband_iterations
        return Plan(
            trials=times * sum(trials for _, trials, _ in rungs),
            epochs=times * sum(trials * epochs for _, trials, epochs in rungs),
            settings=times * sum(trials for rung, trials, _ in rungs if rung == 0),
        )

    def _rungs(self) -> Iterator[tuple[int, int, int]]:
        """Each rung of each bracket: its number, its trials, the epochs that each of them adds."""
        for bracket in range(self._get_num_brackets()):
            before = 0
            for rung in range(bracket + 1):
                # Private: a rung's epochs, those of the rungs before included, and its trials.
                epochs = self._get_epochs(bracket, rung)
                yield rung, self._get_size(bracket, rung), epochs - before
                before = epochs
