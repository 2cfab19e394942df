"""Search for settings: each trial is an ordinary pretraining, scored on its validation set."""

import contextlib
import dataclasses
import math
import os
import sys
import time

import grpc
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.errors import FatalError

from supcon_tf.config import PretrainConfig
from supcon_tf.config.search import OBJECTIVES, TuneConfig
from supcon_tf.core.errors import StorageError, UserError
from supcon_tf.search.checks import (
    ENVIRONMENT,
    check_base,
    check_first,
    check_size,
    role_of_process,
)
from supcon_tf.search.directory import SearchDirectory
from supcon_tf.search.oracles import grace_epochs, make_oracle
from supcon_tf.search.progress import SearchProgress
from supcon_tf.search.report import write_report
from supcon_tf.search.results import Result, is_hopeless
from supcon_tf.search.running import IDLE_SECONDS, Trial, run_trial
from supcon_tf.search.space import read_space

# Until a file that another machine wrote is seen here.
_VISIBLE_SECONDS = 60
# Until it is said that the chief does not answer.
_ANSWER_SECONDS = 3


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
    check_base(base, config)
    space = read_space(config.space, base, config.algorithm)
    oracle = make_oracle(config, base, space)
    check_size(config, space, oracle)
    place = SearchDirectory(config.search_dir)
    if role == "worker":
        place.check(resume=True)
        _wait_for_chief(place)
    else:
        place.check(config.resume)
    content = _described(config, base, space, check_first(base, space))
    if role == "worker":
        place.check_same(content)
    else:
        place.begin(content, config.resume)
    try:
        return _searched(config, base, space, oracle, place, role)
    finally:
        place.release()


def _searched(config, base, space, oracle, place, role) -> dict:
    """As `tune`, after all checks."""
    progress = SearchProgress(place, config, space, oracle)
    known = space.values_of(base)
    oracle.prepare(progress.is_spent, progress, known and space.proposed(known))
    tuner = _Tuner(oracle, place, config, base, space)
    if role != "worker" and oracle.file.exists():
        try:
            oracle.reload()
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"{oracle.file} is damaged. Give another --search_dir.") from error
    _search(tuner, role)
    if oracle.failure is not None:
        raise UserError(
            f"the chief ends: {oracle.failure}. Put it right, then --resume."
        ) from oracle.failure
    if role == "worker":
        return {}
    for trial in oracle.end_order:
        _ended(place, trial, patience=_VISIBLE_SECONDS if role == "chief" else 0)
    return write_report(place, config, base, space)


def _described(config, base, space, dataset) -> dict[str, dict]:
    """What makes a search the same search, as JSON gives it back."""
    parameters = {}
    for parameter in space.parameters:
        entry = dataclasses.asdict(parameter)
        entry["choices"] = list(parameter.choices)
        entry["when"] = {parent: list(wanted) for parent, wanted in parameter.when.items()}
        parameters[parameter.name] = entry
    return {
        "settings": config.to_dict(),
        "base": base.to_dict(),
        "space": parameters,
        "data": dataset.describe(),
    }


def _search(tuner, role):
    address = ":".join(os.environ.get(name, "") for name in ENVIRONMENT[1:])
    try:
        if role == "worker":
            _say_whether_chief_answers(address)
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
        time.sleep(IDLE_SECONDS)


def _say_whether_chief_answers(address):
    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_ANSWER_SECONDS)
        except grpc.FutureTimeoutError:
            print(f"waiting for the chief at {address}", file=sys.stderr, flush=True)


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
            time.sleep(IDLE_SECONDS)
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
                result = run_trial(self._trial(trial), self.place)
        except StorageError as error:
            raise _SearchEnds(str(error)) from error
        worst = -math.inf if OBJECTIVES[self.config.objective] == "max" else math.inf
        return {self.config.objective: worst if result.score is None else result.score}

    def _trial(self, proposed) -> Trial:
        values = proposed.hyperparameters.values
        continues = values.get("tuner/trial_id")
        return Trial(
            name=proposed.trial_id,
            base=self.base,
            values=self.space.decoded(values),
            objective=self.config.objective,
            worker=self.tuner_id,
            past=_ended(self.place, continues) if continues else None,
            stop_when=self._stop_rule(values),
            stopped="paused" if self.config.algorithm == "hyperband" else "pruned",
        )

    def _stop_rule(self, values):
        """From the curves so far to whether the trial stops; None where it never does."""
        if self.config.algorithm == "hyperband":
            return lambda history: len(history["loss"]) >= values["tuner/epochs"]
        if not self.config.is_pruning():
            return None
        epochs = self.space.decoded(values).get("epochs", self.base.epochs)
        grace = grace_epochs(self.config, epochs)

        def hopeless(history):
            ended = [result for result in self.place.results() if result.status != "failed"]
            return is_hopeless(history["knn_top1"], [result.curve for result in ended], grace)

        return hopeless


def _ended(place, trial, patience=_VISIBLE_SECONDS) -> Result:
    """The result of a trial that another one continues; a shared file system may show it late."""
    deadline = time.monotonic() + patience
    while (result := place.result(trial)) is None:
        if time.monotonic() > deadline:
            raise _SearchEnds(
                f"{place.path}/results/{trial}.json is not there. Where several machines search, "
                "share the directory; where it was removed, give another --search_dir."
            )
        time.sleep(IDLE_SECONDS)
    return result
