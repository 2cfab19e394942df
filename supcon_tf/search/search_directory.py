"""The directory of a search: its settings, and the result of each trial.

search.json      (or study.json, comparison.json) settings, base recipe, space, versions
oracle/          state of the oracle
trials/<trial>/  a run directory each; a trial that continues another continues in its directory
results/         <trial>.json: settings, score, cost;  <trial>.log: what it printed;
                 <trial>.begun: the epochs done when each process began it; removed at its end
"""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path

from supcon_tf.core.errors import UserError
from supcon_tf.core.files import LOCK, TEMPORARY_PREFIX, lock, read_json, unlock, write_json
from supcon_tf.core.provenance import hardware, resumption
from supcon_tf.search.results import Result, is_result


class SearchDirectory:
    """One search, study or comparison.

    Args:
        path: the directory; nothing is written before `begin`.
        kind: what it holds, for messages: "search", "study" or "comparison".
    """

    def __init__(self, path: str, kind: str = "search"):
        self.path, self.kind = Path(path), kind
        self.file = self.path / f"{kind}.json"
        self._known: dict[str, Result] = {}  # A written result never changes.

    def check(self, resume: bool) -> None:
        """Refuses what would collide with existing files; nothing is written.

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
        """Writes the description of the search, after `check`.

        Args:
            content: what identifies the search, ready for JSON.
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
        if not isinstance(before, dict) or not set(content) <= set(before):
            raise UserError(
                f"{self.file} was not written by this version of supcon_tf. Finish the {self.kind} "
                f"with the version that began it, or give another --{self.kind}_dir."
            )
        for part in content:
            if not isinstance(before[part], dict):
                raise UserError(f"{self.file} is damaged. Give another --{self.kind}_dir.")
            for name in sorted({*before[part], *content[part]}):
                old, new = (known[part].get(name) for known in (before, content))
                if old != new:
                    raise UserError(
                        f"{self.path} holds a different {self.kind}: {name} was {old!r}. Received: "
                        f"{new!r}. Give the same settings, or another --{self.kind}_dir."
                    )

    def run_dir(self, name: str) -> str:
        """The run directory of a trial, by the name of `Result.run`."""
        return str(self.path / "trials" / name)

    def enter(self, name: str) -> bool:
        """Locks a run directory for this process; False if another has it."""
        folder = Path(self.run_dir(name))
        folder.mkdir(parents=True, exist_ok=True)
        return lock(folder)

    def leave(self, name: str) -> None:
        """Lets other processes into a run directory that `enter` has locked."""
        unlock(Path(self.run_dir(name)))

    @contextlib.contextmanager
    def earlier_deaths(self, trial: str, epochs: int):
        """Yields how many processes have died in this block at this epoch of a trial.

        A trial that raises an exception does not count as killed.
        """
        file = self.path / "results" / f"{trial}.begun"
        before = file.read_text().split() if file.exists() else []
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "a") as begun:
            begun.write(f"{epochs}\n")
        try:
            yield before.count(str(epochs))
        finally:
            file.unlink(missing_ok=True)

    def log(self, trial: str) -> Path:
        """Where a trial's output goes."""
        return self.path / "results" / f"{trial}.log"

    def write(self, result: Result) -> None:
        """Writes the result of a trial."""
        write_json(self.path / "results" / f"{result.trial}.json", dataclasses.asdict(result))

    def result(self, trial: str) -> Result | None:
        """The result of a trial; None before it has ended.

        Raises:
            UserError: if its file is damaged.
        """
        file = self.path / "results" / f"{trial}.json"
        if trial not in self._known and file.exists():
            content = read_json(file)
            if not is_result(content, trial):
                raise UserError(f"{file} is damaged. Give another --{self.kind}_dir.")
            self._known[trial] = Result(**content)
        return self._known.get(trial)

    def results(self) -> list[Result]:
        """The results of all trials that have ended, in their order."""
        names = [file.stem for file in (self.path / "results").glob("*.json")]
        found = [self.result(name) for name in names if name.isdecimal()]
        return sorted(found, key=lambda result: int(result.trial))
