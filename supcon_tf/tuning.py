"""Search for settings: each trial is an ordinary pretraining, scored on its validation set."""

import contextlib
import math
import os
import sys
import time
import traceback

import grpc
import keras
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.errors import FatalError

from supcon_tf import checkpoints
from supcon_tf.config import PretrainConfig, TuneConfig
from supcon_tf.errors import UserError
from supcon_tf.files import lock, printing_to
from supcon_tf.oracles import grace_epochs, make_oracle
from supcon_tf.pretraining import pretrain
from supcon_tf.runs import RunDirectory
from supcon_tf.scoring import OBJECTIVES, validation_score
from supcon_tf.search_checks import (
    ENVIRONMENT,
    check_base,
    check_first,
    check_size,
    role_of_process,
)
from supcon_tf.search_progress import SearchProgress
from supcon_tf.search_report import write_report
from supcon_tf.search_space import configured, read_space
from supcon_tf.trials import Result, SearchDirectory, is_hopeless

# Seconds between two looks whether there is something to do by now.
_IDLE_SECONDS = 0.5
# Until a file that another machine wrote is seen here.
_VISIBLE_SECONDS = 60


def tune(config: TuneConfig, base: PretrainConfig) -> dict:
    """Searches for the settings that score best on the validation set.

    The space, the settings and the data are checked before anything is written. With Keras Tuner's
    environment variables, one process (whose KERASTUNER_TUNER_ID holds "chief") proposes trials
    and the others run them; all are called alike, on a search directory that they share.

    Args:
        config: the search's settings.
        base: the recipe whose settings are searched; its `run_dir`, `resume` and `overwrite` are
            not used.

    Returns:
        As `write_report`: the best trial, all trials and what they cost; {} on the workers.

    Raises:
        UserError: if a setting, the space, the data or the directory cannot be used, or every
            trial failed.
    """
    role = role_of_process()
    check_base(base)
    space = read_space(config.space, base, config.algorithm)
    oracle = make_oracle(config, base, space)
    check_size(config, space, oracle)
    place = SearchDirectory(config.search_dir)
    if role == "worker":
        _wait_for_chief(place)
        place.check_same(config, base, space)
    else:
        place.check(config.resume)
        check_first(base, space)
        place.begin(config, base, space)
    progress = SearchProgress(place, config, space, oracle)
    oracle.prepare(progress.is_spent, progress)
    tuner = _Tuner(oracle, place, config, base, space)
    if role != "worker" and oracle.file.exists():
        oracle.reload()
    _search(tuner, role)
    return {} if role == "worker" else write_report(place, config, base, space)


def _search(tuner, role):
    address = ":".join(os.environ.get(name, "") for name in ENVIRONMENT[1:])
    try:
        # Keras Tuner 1.4.8 prints a value of each condition that it sends to another process.
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            tuner.search()
    except grpc.RpcError as error:
        raise UserError(
            f"the chief at {address} is out of reach. Start it again with --resume, then this "
            "worker, with the KERASTUNER_TUNER_ID that it had."
        ) from error
    except RuntimeError as error:
        if role != "chief":
            raise
        raise UserError(f"the chief cannot listen on {address}: {error}. Give another.") from error


def _wait_for_chief(place):
    if not place.file.exists():
        print(f"waiting for the chief to begin {place.file}", file=sys.stderr, flush=True)
    while not place.file.exists():
        time.sleep(_IDLE_SECONDS)


class _SearchEnds(FatalError, UserError):
    """What the next trial would run into as well; Keras Tuner lets it through."""


class _Tuner(BaseTuner):
    """Runs the trials that an oracle proposes, each in a run directory of the search."""

    def __init__(self, oracle, place, config, base, space):
        self.place, self.config, self.base, self.space = place, config, base, space
        self.is_idle = False
        super().__init__(oracle, directory=str(place.path), project_name="oracle")

    def save(self):
        """Nothing: the oracle saves itself after each trial, and there is no other state."""

    def pre_create_trial(self):
        """Waits a little where the last question gave no trial."""
        if self.is_idle:
            time.sleep(_IDLE_SECONDS)
        self.is_idle = True

    def on_trial_begin(self, trial):
        """Notes that there was a trial."""
        self.is_idle = False

    def run_trial(self, trial):
        """The score of a trial; the worst there is where it failed.

        A trial whose result is there ended in a process that was killed before the oracle knew.
        """
        result = self.place.result(trial.trial_id)
        try:
            if result is None:
                with printing_to(self.place.log(trial.trial_id)):
                    result = self._run(trial.trial_id, trial.hyperparameters.values)
                _free_memory()
        except OSError as error:
            reason = error.strerror or error
            raise _SearchEnds(
                f"cannot write to search_dir {self.place.path}: {reason}. Then continue with "
                "--resume."
            ) from error
        worst = -math.inf if OBJECTIVES[self.config.objective] == "max" else math.inf
        return {self.config.objective: worst if result.score is None else result.score}

    def _run(self, trial, values) -> Result:
        """Runs a trial and keeps its result before another process may enter its directory."""
        continues = values.get("tuner/trial_id")
        past = _ended(self.place, continues) if continues else None
        settings = self.space.decoded(values)
        known = {"trial": trial, "values": settings, "continues": continues}
        known |= {"run": past.run if past else trial, "worker": self.tuner_id}
        run = RunDirectory(self.place.run_dir(known["run"]))
        try:
            _wait_for(run)
            result = self.place.result(trial)
            if result is None:
                result = Result(**known, **self._attempt(run, settings, values, past))
                self.place.write(result)
            return result
        finally:
            run.release()

    def _attempt(self, run, settings, values, past) -> dict:
        """The fields of a `Result`, whether the trial succeeds or fails."""
        started, done = time.monotonic(), past.all_epochs if past else 0
        try:
            if past and past.status == "failed":
                raise UserError(f"trial {past.trial}, which this one continues, failed.")
            return self._train(run, settings, values, done)
        except Exception as error:  # Whatever a combination of settings runs into.
            traceback.print_exc()
            reason = " ".join(str(error).split()) or type(error).__name__
            epochs = max(0, len(_history(run).get("loss", ())) - done)
            seconds = time.monotonic() - started
            return {"status": "failed", "reason": reason, "epochs": epochs, "seconds": seconds}

    def _train(self, run, settings, values, done) -> dict:
        """Trains, continuing what is there, and scores; the fields of a `Result`."""
        config = configured(self.base, settings, run_dir=str(run.path), resume=True)
        pretrain(config, stop_when=self._stop_rule(values, config.epochs), maps=False)
        history, started = _history(run), time.monotonic()
        score = validation_score(run, self.config.objective)
        if not math.isfinite(score):
            raise UserError(f"{self.config.objective} is {score}.")
        stopped = "paused" if self.config.algorithm == "hyperband" else "pruned"
        epochs = len(history["loss"])
        return {
            "status": "finished" if epochs == config.epochs else stopped,
            "score": score,
            "epochs": epochs - done,
            "all_epochs": epochs,
            # Of training, what counts is what was kept: a killed process's time is in the curves.
            "seconds": sum(history["seconds"][done:]) + time.monotonic() - started,
            "curve": history["knn_top1"],
        }

    def _stop_rule(self, values, epochs):
        """From the curves so far to whether the trial stops; None where it never does."""
        if self.config.algorithm == "hyperband":
            return lambda history: len(history["loss"]) >= values["tuner/epochs"]
        if not self.config.is_pruning():
            return None
        grace = grace_epochs(self.config, epochs)

        def hopeless(history):
            ended = [result for result in self.place.results() if result.status != "failed"]
            return is_hopeless(history["knn_top1"], [result.curve for result in ended], grace)

        return hopeless


def _ended(place, trial) -> Result:
    """The result of a trial that another one continues; a shared file system may show it late."""
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while (result := place.result(trial)) is None:
        if time.monotonic() > deadline:
            raise _SearchEnds(
                f"{place.path}/results/{trial}.json is not there. Share the directory with the "
                "other workers, and start this one again."
            )
        time.sleep(_IDLE_SECONDS)
    return result


def _wait_for(run):
    """Waits while another worker is in a run: a chief that was restarted gives its trial again."""
    run.path.mkdir(parents=True, exist_ok=True)
    while not lock(run.path):
        time.sleep(_IDLE_SECONDS)


def _free_memory():
    """Lets go of the graphs of the trial before."""
    keras.utils.clear_session()


def _history(run) -> dict:
    """A run's curves so far; {} where there are none."""
    if run.has_finished("pretrain"):
        return run.history()["pretrain"]
    with contextlib.suppress(UserError):  # No sound checkpoint.
        state = checkpoints.newest(run.checkpoints("pretrain"))
        return state.history if state else {}
    return {}
