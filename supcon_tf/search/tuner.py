"""Keras Tuner's tuner, whose trials are pretraining runs in directories of the search."""

import math
import time

from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.errors import FatalError

from supcon_tf.config import PretrainConfig
from supcon_tf.config.search import OBJECTIVES, TuneConfig
from supcon_tf.core.errors import StorageError, UserError
from supcon_tf.search.algorithms import grace_epochs
from supcon_tf.search.results import Result, is_hopeless
from supcon_tf.search.search_directory import SearchDirectory
from supcon_tf.search.space import SearchSpace
from supcon_tf.search.trials import Trial, run_trial
from supcon_tf.search.workers import IDLE_SECONDS

# Seconds until a file that another machine wrote is visible here.
_VISIBLE_SECONDS = 60


class SearchEnds(FatalError, UserError):
    """An error that the next trial would run into as well; Keras Tuner lets it through."""


class PretrainTuner(BaseTuner):
    """Runs the trials that an oracle proposes.

    Args:
        oracle: as `make_oracle` gives it.
        place: the search's directory.
        config: the search's settings.
        base: the recipe that the trials change.
        space: what is searched.
    """

    def __init__(
        self,
        oracle,
        place: SearchDirectory,
        config: TuneConfig,
        base: PretrainConfig,
        space: SearchSpace,
    ):
        self.place, self.config, self.base, self.space = place, config, base, space
        self.is_idle = False
        super().__init__(oracle, directory=str(place.path), project_name=oracle.file.parent.name)

    def save(self):
        """Nothing: the oracle saves itself after each trial, and there is no other state."""

    def pre_create_trial(self):
        """Waits a little if the last request gave no trial."""
        if self.is_idle:
            time.sleep(IDLE_SECONDS)
        self.is_idle = True

    def on_trial_begin(self, trial):
        """Notes that there was a trial."""
        self.is_idle = False

    def run_trial(self, trial):
        """The score of a trial; the worst possible if it failed.

        A trial that already has a result ended in a process that was killed before the oracle knew.
        """
        result = self.place.result(trial.trial_id)
        try:
            if result is None:
                result = run_trial(self._trial(trial), self.place)
        except StorageError as error:
            raise SearchEnds(str(error)) from error
        worst = -math.inf if OBJECTIVES[self.config.objective] == "max" else math.inf
        return {self.config.objective: worst if result.score is None else result.score}

    def _trial(self, proposed) -> Trial:
        values = proposed.hyperparameters.values
        # Hyperband adds values of its own to those of the space.
        continues, rung_epochs = values.get("tuner/trial_id"), values.get("tuner/epochs")
        settings = self.space.decoded(values)
        return Trial(
            name=proposed.trial_id,
            base=self.base,
            values=settings,
            objective=self.config.objective,
            worker=self.tuner_id,
            past=awaited_result(self.place, continues) if continues else None,
            stop_when=self._stop_rule(settings, rung_epochs),
            stopped="paused" if rung_epochs else "pruned",
        )

    def _stop_rule(self, settings, rung_epochs):
        """A function from the curves so far to whether the trial stops; None if it never does."""
        if rung_epochs:
            return lambda history: len(history["loss"]) >= rung_epochs
        if not self.config.is_pruning():
            return None
        grace = grace_epochs(self.config, settings.get("epochs", self.base.epochs))

        def hopeless(history):
            ended = [result for result in self.place.results() if result.status != "failed"]
            return is_hopeless(history["knn_top1"], [result.curve for result in ended], grace)

        return hopeless


def awaited_result(
    place: SearchDirectory, trial: str, patience: float = _VISIBLE_SECONDS
) -> Result:
    """The result of a trial that has ended; a shared file system may show it late.

    Args:
        place: the search's directory.
        trial: its number, as text.
        patience: seconds to wait for it.

    Raises:
        SearchEnds: if it does not appear.
    """
    deadline = time.monotonic() + patience
    while (result := place.result(trial)) is None:
        if time.monotonic() > deadline:
            raise SearchEnds(
                f"{place.path}/results/{trial}.json is missing. If several machines search, they "
                "must share the directory; if it was removed, give another --search_dir."
            )
        time.sleep(IDLE_SECONDS)
    return result
