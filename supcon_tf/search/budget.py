"""The remaining budget of a search, and the line that it prints for each trial."""

import math
import sys

from supcon_tf.config.search import OBJECTIVES, TuneConfig
from supcon_tf.search.results import best_result
from supcon_tf.search.search_directory import SearchDirectory
from supcon_tf.search.space import SearchSpace


class Budget:
    """Trials and epochs of a search, counted from the results in its directory.

    Args:
        place: the search's directory.
        config: the search's settings.
        space: the settings that are searched.
        oracle: proposes the trials.
    """

    def __init__(self, place: SearchDirectory, config: TuneConfig, space: SearchSpace, oracle):
        self.place, self.objective = place, config.objective
        self.most_epochs = math.inf if config.max_total_epochs is None else config.max_total_epochs
        possible, self.planned_epochs = space.count(), math.inf
        if config.algorithm == "hyperband":
            plan = oracle.planned()
            possible = plan.trials
            self.planned_epochs = math.inf if oracle.max_trials else plan.epochs
        self.most_trials = min(oracle.max_trials or math.inf, possible)

    def is_spent(self) -> bool:
        """Whether the trials that have ended used up the permitted epochs."""
        return sum(result.epochs for result in self.place.results()) >= self.most_epochs

    def trial_ended(self, trial: str) -> None:
        """Prints the outcome of a trial, the best score so far, and the time left."""
        results, result = self.place.results(), self.place.result(trial)
        if result is None:
            return  # Not visible yet on the shared file system; the report waits for it.
        if result.score is None:
            outcome = f"failed: {(result.reason or '').rstrip('.')}"
        else:
            best = best_result(results, OBJECTIVES[self.objective])
            outcome = f"{result.status}: {self.objective} {result.score:.4f}"
            outcome += f" (best {best.score:.4f}, trial {best.trial})"
        cost = f"{result.epochs} epochs in {result.seconds:.0f} s"
        total = "" if math.isinf(self.most_trials) else f" of {self.most_trials}"
        count = f"{len(results)}{total} trials{self._time_left(results)}"
        print(f"trial {trial} {outcome}; {cost}; {count}", file=sys.stderr, flush=True)

    def _time_left(self, results) -> str:
        """The time left, estimated from the epochs left and the seconds per epoch so far."""
        spent = sum(result.epochs for result in results)
        left = self.planned_epochs - spent
        if math.isinf(left):
            left = (self.most_trials - len(results)) * spent / len(results)
        left = min(left, self.most_epochs - spent)
        if not spent or not math.isfinite(left) or left <= 0:
            return ""
        workers = len({result.worker for result in results})
        seconds = sum(result.seconds for result in results) / workers
        minutes = left / spent * seconds / 60
        return f", about {minutes:.0f} min left" if minutes >= 1 else ", less than a minute left"
