"""What a person watching a search sees, and when it has spent what it may."""

import math
import sys

from supcon_tf.config.search import OBJECTIVES
from supcon_tf.search.results import best_result


class SearchProgress:
    """A line for each trial that has ended.

    Args:
        place: the search's directory.
        config: the search's settings.
        space: what is searched.
        oracle: who proposes the trials.
    """

    def __init__(self, place, config, space, oracle):
        self.place, self.config, self.oracle = place, config, oracle
        self.planned = oracle.planned() if config.algorithm == "hyperband" else {}
        most = oracle.max_trials or math.inf
        self.total = min(most, self.planned.get("trials", space.count()))

    def _spent(self) -> int:
        return sum(result.epochs for result in self.place.results())

    def is_spent(self) -> bool:
        """Whether the trials that have ended trained as many epochs as they may."""
        limit = self.config.max_total_epochs
        return limit is not None and self._spent() >= limit

    def __call__(self, trial: str) -> None:
        """Says what came of a trial, the best so far, and the time left."""
        results, result = self.place.results(), self.place.result(trial)
        if result is None:
            return  # Not visible yet on the file system that is shared; the report waits for it.
        name = self.config.objective
        if result.score is None:
            said = f"failed: {result.reason}"
        else:
            best = best_result(results, OBJECTIVES[name])
            said = f"{result.status}: {name} {result.score:.4f}"
            said += f" (best {best.score:.4f}, trial {best.trial})"
        cost = f"{result.epochs} epochs in {result.seconds:.0f} s"
        total = "" if math.isinf(self.total) else f" of {self.total}"
        place = f"{len(results)}{total} trials{self._time_left(results)}"
        print(f"trial {trial} {said}; {cost}; {place}", file=sys.stderr, flush=True)

    def _time_left(self, results) -> str:
        """From the epochs that are left, and the seconds that an epoch took so far."""
        spent = sum(result.epochs for result in results)
        left = (self.total - len(results)) * spent / len(results)
        if self.planned and not self.oracle.max_trials:
            left = self.planned["epochs"] - spent
        if self.config.max_total_epochs is not None:
            left = min(left, self.config.max_total_epochs - spent)
        if not spent or not math.isfinite(left) or left <= 0:
            return ""
        workers = len({result.worker for result in results})
        seconds = sum(result.seconds for result in results) / workers
        minutes = left / spent * seconds / 60
        return f", about {minutes:.0f} min left" if minutes >= 1 else ", less than a minute left"
