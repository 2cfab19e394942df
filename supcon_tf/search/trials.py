"""One trial: an ordinary pretraining run, scored on its validation set, whatever goes wrong."""

import contextlib
import dataclasses
import errno
import math
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import keras

from supcon_tf.config import PretrainConfig
from supcon_tf.core.errors import StorageError, UserError
from supcon_tf.core.files import LOCK, printing_to, remove
from supcon_tf.engine import checkpoints
from supcon_tf.search.objective import validation_score
from supcon_tf.search.results import Result
from supcon_tf.search.search_directory import SearchDirectory
from supcon_tf.search.space import configured
from supcon_tf.search.workers import IDLE_SECONDS
from supcon_tf.stages.pretraining import pretrain
from supcon_tf.stages.run_directory import RunDirectory

# A trial whose process is killed this many times at the same epoch has failed.
_MOST_KILLS = 3


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial to be trained and scored.

    Attributes:
        name: its number, as text.
        base: the recipe that it changes.
        values: the new value of each setting that it changes.
        objective: a key of `config.search.OBJECTIVES`.
        worker: which process runs it; '' if it does not matter.
        past: the ended trial that it continues, or None.
        stop_when: as in `pretrain`.
        stopped: its status if `stop_when` stops it.
    """

    name: str
    base: PretrainConfig
    values: Mapping[str, Any]
    objective: str
    worker: str = ""
    past: Result | None = None
    stop_when: Callable[[dict], bool] | None = None
    stopped: str = "pruned"


def run_trial(trial: Trial, place: SearchDirectory) -> Result:
    """Runs a trial, and keeps its result before another process may enter its directory.

    A trial that a killed process had begun continues from its checkpoint, unless it has been killed
    too often at the same epoch. If another process is in its directory, this one waits. What is
    printed goes to the trial's log.

    Args:
        trial: what to run.
        place: the search's directory.

    Returns:
        Its result, even if it failed.

    Raises:
        StorageError: if the disk is full or cannot be written.
    """
    try:
        with printing_to(place.log(trial.name)):
            result = _run(trial, place)
    except OSError as error:
        again = "run this again" if place.kind == "comparison" else "continue with --resume"
        raise StorageError(
            f"cannot write to {place.kind}_dir {place.path}: {error.strerror or error}. Put it "
            f"right, then {again}."
        ) from error
    free_memory()
    return result


def _run(trial: Trial, place: SearchDirectory) -> Result:
    name = trial.past.run if trial.past else trial.name
    while not place.enter(name):
        time.sleep(IDLE_SECONDS)
    run = RunDirectory(place.run_dir(name))
    try:
        result = place.result(trial.name)
        if result is None:
            with place.earlier_deaths(trial.name, _epochs(run)) as kills:
                result = _attempt(trial, run, kills)
            place.write(result)
        return result
    finally:
        place.leave(name)


def _attempt(trial: Trial, run: RunDirectory, kills: int) -> Result:
    """The result of a trial, whether it succeeds or fails; a full disk is not its fault."""
    started, past = time.monotonic(), trial.past
    done = past.all_epochs if past else 0
    try:
        if past and past.status == "failed":
            raise UserError(f"trial {past.trial}, which this one continues, failed.")
        if kills >= _MOST_KILLS:
            raise UserError(
                f"its process was killed {kills} times without completing another epoch; perhaps "
                "it takes too much memory."
            )
        if not past:
            _forget_damaged(run)
        found = _train_and_score(trial, run, done)
    except StorageError:
        raise
    except Exception as error:  # Whatever a combination of settings runs into.
        if isinstance(error, OSError) and error.errno != errno.ENOMEM:
            raise
        traceback.print_exc()
        epochs = max(done, _epochs(run))
        found = {
            "status": "failed",
            "reason": " ".join(str(error).split()) or type(error).__name__,
            "epochs": epochs - done,
            "all_epochs": epochs,
            "seconds": time.monotonic() - started,
        }
    return Result(
        trial=trial.name,
        values=dict(trial.values),
        run=run.path.name,
        continues=past and past.trial,
        worker=trial.worker,
        **found,
    )


def _forget_damaged(run: RunDirectory) -> None:
    """Lets a trial whose checkpoints are all damaged start over."""
    try:
        checkpoints.newest(run.checkpoints("pretrain"))
    except UserError as error:
        print(f"{error} The trial starts again.")
        for path in run.path.iterdir():
            if path.name != LOCK:
                remove(path)


def _train_and_score(trial: Trial, run: RunDirectory, done: int) -> dict[str, Any]:
    """Trains, continuing what is there, and scores; returns the fields of a `Result`."""
    config = configured(trial.base, trial.values, run_dir=str(run.path), resume=True)
    pretrain(config, stop_when=trial.stop_when, maps=False)
    history, started = _history(run), time.monotonic()
    score = validation_score(run, trial.objective)
    if not math.isfinite(score):
        raise UserError(f"{trial.objective} is {score}.")
    epochs = len(history["loss"])
    return {
        "status": "finished" if epochs == config.epochs else trial.stopped,
        "score": score,
        "epochs": epochs - done,
        "all_epochs": epochs,
        # Only training that was kept counts: the time of killed processes is in the curves.
        "seconds": sum(history["seconds"][done:]) + time.monotonic() - started,
        "curve": history["knn_top1"],
    }


def free_memory() -> None:
    """Releases the graphs of the previous training run."""
    keras.utils.clear_session()


def _epochs(run: RunDirectory) -> int:
    return len(_history(run).get("loss", ()))


def _history(run: RunDirectory) -> dict:
    """A run's curves so far; {} if there are none."""
    if run.has_finished("pretrain"):
        return run.history()["pretrain"]
    with contextlib.suppress(UserError):  # No intact checkpoint.
        state = checkpoints.newest(run.checkpoints("pretrain"))
        return state.history if state else {}
    return {}
