"""The directory of a search: what it was, and what came of each trial.

search.json      settings, base recipe, space, versions
oracle/          state of the oracle
trials/<trial>/  a run directory each; a trial that continues another one goes on in its directory
results/         <trial>.json: settings, score, cost;  <trial>.log: what it printed
"""

import contextlib
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from supcon_tf.errors import UserError
from supcon_tf.files import LOCK, TEMPORARY_PREFIX, lock, read_json, unlock, write_json
from supcon_tf.manifest import hardware, resumption
from supcon_tf.search.space_checks import is_number

STATUSES = ("finished", "paused", "pruned", "failed")
# Other trials that must have come as far before one of them is called hopeless.
_LEAST_TRIALS = 4


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of a trial.

    Attributes:
        trial: its number, as text.
        status: "finished" (all epochs), "paused" (at a rung of hyperband), "pruned", "failed".
        values: the settings that were searched.
        run: name of its run directory under `trials/`.
        score: the objective on the validation set; None where it failed.
        epochs: epochs that it trained.
        all_epochs: epochs of its encoder, those of the trial that it continues included.
        seconds: time of training and scoring.
        curve: online k-NN by epoch; None where it was not due.
        continues: the trial that it continues.
        reason: one line on why it failed.
        worker: which process ran it; KERASTUNER_TUNER_ID, or "tuner0" where there is one process;
            '' in a study.
    """

    trial: str
    status: str
    values: dict[str, Any]
    run: str
    score: float | None = None
    epochs: int = 0
    all_epochs: int = 0
    seconds: float = 0.0
    curve: list[float | None] = dataclasses.field(default_factory=list)
    continues: str | None = None
    reason: str | None = None
    worker: str = ""


def best_result(results: Sequence[Result], direction: str) -> Result | None:
    """The best trial: of those that trained longest, the first with the best score.

    A score after fewer epochs is an estimate of another thing, so it counts only where no trial
    finished.

    Args:
        results: all trials.
        direction: "max" or "min".
    """
    scored = [result for result in results if result.score is not None]
    finished = [result for result in scored if result.status == "finished"]
    longest = max((result.all_epochs for result in scored), default=0)
    candidates = finished or [result for result in scored if result.all_epochs == longest]
    return min(candidates, key=lambda result: rank(result, direction), default=None)


def rank(result: Result, direction: str) -> tuple:
    """A key that sorts scored trials from the best to the worst, and the others behind them."""
    if result.score is None:
        return (1, 0.0, int(result.trial))
    return (0, -result.score if direction == "max" else result.score, int(result.trial))


def is_hopeless(
    curve: Sequence[float | None], others: Sequence[Sequence[float | None]], grace_epochs: int
) -> bool:
    """The median stopping rule, for a curve where more is better.

    A trial is stopped at an epoch where its best value so far is below the median of the running
    averages, up to that epoch, of the trials that have come as far.

    Args:
        curve: one value, or None, per epoch so far.
        others: the same of trials that have ended.
        grace_epochs: epochs after which the first trial may be stopped.

    Returns:
        Whether to stop it now; never where it has no new value, or fewer than four others have
        come as far.

    Reference:
        Golovin et al. 2017, "Google Vizier: A Service for Black-Box Optimization", section 3.2.1.
    """
    epochs = len(curve)
    if epochs < grace_epochs or curve[-1] is None:
        return False
    averages = [
        statistics.fmean(value for value in other[:epochs] if value is not None)
        for other in others
        if len(other) >= epochs and any(value is not None for value in other[:epochs])
    ]
    if len(averages) < _LEAST_TRIALS:
        return False
    return max(value for value in curve if value is not None) < statistics.median(averages)


def _is_result(content, trial) -> bool:
    """Whether JSON is what `SearchDirectory.write` wrote of a trial."""
    if not isinstance(content, dict) or set(content) != set(Result.__dataclass_fields__):
        return False
    score, status, curve = content["score"], content["status"], content["curve"]
    counts = [content[name] for name in ("epochs", "all_epochs", "seconds")]
    return (
        content["trial"] == trial
        and status in STATUSES
        and ((score is None) if status == "failed" else is_number(score))
        and isinstance(content["values"], dict)
        and all(is_number(count) and count >= 0 for count in counts)
        and isinstance(curve, list)
        and all(value is None or is_number(value) for value in curve)
    )


class SearchDirectory:
    """One search, or one study.

    Args:
        path: the directory; nothing is written before `begin`.
        kind: what it holds, for messages: "search" or "study".
    """

    def __init__(self, path: str, kind: str = "search"):
        self.path, self.kind = Path(path), kind
        self.file = self.path / f"{kind}.json"
        self._known: dict[str, Result] = {}  # What is written of a trial never changes.

    def check(self, resume: bool) -> None:
        """Refuses what would collide with what is there; nothing is written.

        Raises:
            UserError: if the directory holds something else, or a search and `resume` is not given.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.kind}_dir is a file. Received: {self.path}. Give a directory.")
        entries = list(self.path.iterdir()) if self.path.is_dir() else []
        if self.file.exists() and not resume:
            raise UserError(
                f"{self.path} already holds a {self.kind}. Pass --resume to continue it, or "
                f"another --{self.kind}_dir."
            )
        if not self.file.exists() and any(
            not entry.name.startswith((TEMPORARY_PREFIX, LOCK)) for entry in entries
        ):
            raise UserError(
                f"{self.kind}_dir holds files but no {self.kind}. Received: {self.path}. Give "
                "another."
            )

    def begin(self, content: Mapping[str, Mapping], resume: bool, alone: bool = True) -> None:
        """Writes what the search is, after `check`.

        Args:
            content: what makes it the same search, ready for JSON.
            resume: whether it may have been begun before.
            alone: whether other processes are kept out.

        Raises:
            UserError: if it cannot be written, another process has it, or the settings differ from
                those that it was begun with.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if alone and not lock(self.path):
                raise UserError(
                    f"another process runs the {self.kind} in {self.path}. Wait for it, or stop it."
                )
            self.check(resume)
            if self.file.exists():
                self.check_same(content)
                before = read_json(self.file)
                past = before.get("resumed", [])
                resumed = [*(past if isinstance(past, list) else []), resumption()]
                write_json(self.file, {**before, "resumed": resumed})
            else:
                write_json(self.file, {**content, **resumption(), "hardware": hardware()})
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"cannot write to {self.kind}_dir {self.path}: {reason}. Give another."
            ) from error

    def release(self) -> None:
        """Lets other processes in; the end of this one does so too."""
        unlock(self.path)

    def check_same(self, content: Mapping[str, Mapping]) -> None:
        """Raises `UserError` unless the search was begun with these settings."""
        before = read_json(self.file)
        for part in content:
            if not isinstance(before, dict) or not isinstance(before.get(part), dict):
                raise UserError(f"{self.file} is damaged. Give another --{self.kind}_dir.")
            for name in sorted({*before[part], *content[part]}):
                old, new = (known[part].get(name) for known in (before, content))
                if old != new:
                    raise UserError(
                        f"{self.path} holds another {self.kind}: {name} was {old!r}. Received: "
                        f"{new!r}. Give the same settings, or another --{self.kind}_dir."
                    )

    def run_dir(self, name: str) -> str:
        """The run directory of a trial, by the name of `Result.run`."""
        return str(self.path / "trials" / name)

    def enter(self, name: str) -> bool:
        """Locks a run directory for this process; False where another one has it."""
        folder = Path(self.run_dir(name))
        folder.mkdir(parents=True, exist_ok=True)
        return lock(folder)

    @contextlib.contextmanager
    def counting_kills(self, trial: str, epochs: int):
        """Yields how often a process died in this block at as many epochs of a trial before.

        An exception is no death.
        """
        file = self.path / "results" / f"{trial}.begun"
        before = file.read_text().split() if file.exists() else []
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join([*before, str(epochs)]) + "\n")
        try:
            yield before.count(str(epochs))
        finally:
            file.unlink(missing_ok=True)

    def log(self, trial: str) -> Path:
        """Where a trial's output goes."""
        return self.path / "results" / f"{trial}.log"

    def write(self, result: Result) -> None:
        """Keeps what came of a trial."""
        write_json(self.path / "results" / f"{result.trial}.json", dataclasses.asdict(result))

    def result(self, trial: str) -> Result | None:
        """What came of a trial; None before it has ended.

        Raises:
            UserError: if its file is damaged.
        """
        file = self.path / "results" / f"{trial}.json"
        if trial not in self._known and file.exists():
            content = read_json(file)
            if not _is_result(content, trial):
                raise UserError(f"{file} is damaged. Give another --{self.kind}_dir.")
            self._known[trial] = Result(**content)
        return self._known.get(trial)

    def results(self) -> list[Result]:
        """What came of all trials that have ended, in their order."""
        names = [file.stem for file in (self.path / "results").glob("*.json")]
        found = [self.result(name) for name in names if name.isdecimal()]
        return sorted(found, key=lambda result: int(result.trial))
