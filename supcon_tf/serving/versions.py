"""Which version of a model is served: the newest that passes its checks."""

import asyncio
import gc
import hashlib
import logging
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from supcon_tf.core.errors import UserError
from supcon_tf.exporting.layout import SUMS, find_versions
from supcon_tf.serving import measures

_PATIENCE_SECONDS = 10.0
_log = logging.getLogger("supcon_tf.serving")


def report(message: str) -> None:
    """Tells whoever runs the server, on one line."""
    print(message, file=sys.stderr, flush=True)


class Versions:
    """Watches the folder of a model.

    A version that fails its checks is left alone until its files change. It is reported when a
    second look finds the same files: a copy still under way is not a fault. One without sums, which
    are written last, is reported once its files have not changed for a while.

    Args:
        folder: `<saved_models>/<name>`.
        load: loads a version's folder, and raises `UserError` if anything is wrong with it.
        tell: is given one line for each event.
        patience_seconds: how long that while is.
    """

    def __init__(
        self,
        folder: Path,
        load: Callable[[Path], Any],
        tell: Callable[[str], None] = report,
        patience_seconds: float = _PATIENCE_SECONDS,
    ):
        self._folder, self._load, self._tell = folder, load, tell
        self._served: Any = None
        self._served_identity = ""
        self._suspects: dict[int, tuple[str, str]] = {}  # Version to identity and what was wrong.
        self._refused: dict[int, tuple[str, str]] = {}  # Those of them that were reported.
        self._incomplete: dict[int, tuple[str, float]] = {}  # Version to identity and since when.
        self._patience_seconds = patience_seconds
        self._loader = ThreadPoolExecutor(1, "load")

    @property
    def served(self) -> Any:
        """The bundle that answers new requests."""
        return self._served

    @property
    def refused(self) -> dict[int, str]:
        """What is wrong with the versions that were refused and are still there.

        For clients, who need not know where the files are.
        """
        folders = [f"{folder}/" for folder in (self._folder, self._folder.resolve())]
        found = {}
        for version, (_, message) in sorted(self._refused.items()):
            for folder in folders:
                message = message.replace(folder, "")
            found[version] = message
        return found

    def start(self) -> None:
        """Loads the newest valid version.

        Raises:
            UserError: if there is none.
        """
        if (self._folder / "saved_model.pb").is_file():
            raise UserError(
                f"model_dir is one version. Received: {str(self._folder)!r}. Pass "
                f"--model_dir={self._folder.parent}, whose newest version is served."
            )
        found = find_versions(self._folder)
        for version in reversed(found):
            loaded = self._try(version)
            if loaded is not None:
                self._serve(*loaded)
                break
            self._refuse(version)
        else:
            raise UserError(self._nothing(found))

    def _nothing(self, found: list[int]) -> str:
        if not found:
            return (
                f"model_dir has no version of a model. Received: {str(self._folder)!r}. Give a "
                "directory that export.py wrote, such as saved_models/NAME."
            )
        return f"no version in {self._folder} is valid; the newest: {self._suspects[found[-1]][1]}"

    async def watch(self, seconds: float) -> None:
        """Looks for other versions, for ever; the event loop goes on meanwhile.

        Args:
            seconds: between two looks.
        """
        loop = asyncio.get_running_loop()
        replaced = False
        while True:
            await asyncio.sleep(seconds)
            try:
                if replaced:  # Its last batch is done, and TensorFlow's objects form cycles.
                    await loop.run_in_executor(self._loader, gc.collect)
                loaded = await loop.run_in_executor(self._loader, self.look)
                replaced = loaded is not None
                if loaded is not None:
                    self._serve(*loaded)
                    del loaded
            except Exception:
                _log.exception("the look for new versions failed")

    def look(self) -> tuple[Any, str] | None:
        """Looks once: the bundle that should be served instead, and its identity, if there is one.

        Nothing else is served before `_serve`, which belongs to the event loop.
        """
        try:
            found = find_versions(self._folder)
        except OSError:  # A folder out of reach for a moment is no reason to stop.
            return None
        self._forget(found)
        for version in reversed(found):
            if self._served is not None and version == self._served.version:
                return self._again(version)
            loaded = self._try(version)
            if loaded is not None:
                return loaded
        return None

    def _again(self, version: int) -> tuple[Any, str] | None:
        """The served version, if it was written anew; a damaged one goes on from memory."""
        path = self._folder / str(version)
        return None if identity(path) == self._served_identity else self._try(version)

    def _forget(self, found: list[int]) -> None:
        for version in {*self._suspects, *self._incomplete} - set(found):
            self._clear(version)

    def _clear(self, version: int) -> None:
        for known in (self._suspects, self._refused, self._incomplete):
            known.pop(version, None)
        measures.REFUSED.set(len(self._refused))

    def _try(self, version: int) -> tuple[Any, str] | None:
        """Loads a version, unless it is incomplete or known to be broken."""
        path = self._folder / str(version)
        seen = identity(path)
        if not (path / SUMS).is_file() and self._served is not None:
            self._wait_for_sums(version, seen)
            return None
        if version in self._suspects and self._suspects[version][0] == seen:
            self._refuse(version)
            return None
        try:
            bundle = self._load(path)
            self._check(bundle, version)
        except Exception as error:  # A file may go while it is read; the watch must go on.
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            self._suspects[version] = seen, kind + " ".join(str(error).split())
            return None
        self._clear(version)
        return bundle, seen

    def _wait_for_sums(self, version: int, seen: str) -> None:
        before, since = self._incomplete.get(version, ("", 0.0))
        if before != seen:
            self._incomplete[version] = seen, time.monotonic()
        elif time.monotonic() - since >= self._patience_seconds:
            message = f"it has no {SUMS}, and nothing more is written to it. Copy all of it."
            self._suspects[version] = seen, message
            self._refuse(version)

    def _check(self, bundle: Any, version: int) -> None:
        if bundle.version != version:
            raise UserError(
                f"the bundle says that it is version {bundle.version}. Name its folder so."
            )
        if self._served is not None and bundle.name != self._served.name:
            raise UserError(
                f"the bundle is of the model {bundle.name!r}, and this server serves "
                f"{self._served.name!r}. Put it into a folder of its own."
            )

    def _refuse(self, version: int) -> None:
        """Reports a version once for each state of its files."""
        if self._refused.get(version) == self._suspects[version]:
            return
        self._refused[version] = self._suspects[version]
        measures.REFUSED.set(len(self._refused))
        goes_on = f"; version {self._served.version} goes on" if self._served else ""
        self._tell(f"version {version} is refused{goes_on}: {self._suspects[version][1]}")

    def _serve(self, bundle: Any, seen: str) -> None:
        """Lets new requests be answered by `bundle`; those under way keep the one they have."""
        before, self._served = self._served, bundle
        self._served_identity = seen
        measures.VERSION.labels(model_name=bundle.name).set(bundle.version)
        if before is not None:
            self._tell(
                f"serving {bundle.name} version {bundle.version} instead of {before.version}"
            )

    def close(self) -> None:
        """Ends the thread that loads."""
        self._loader.shutdown(wait=False, cancel_futures=True)


def identity(path: Path) -> str:
    """Changes when a file of a version is added, removed, resized or touched; nothing is read.

    Args:
        path: version directory. "" is returned where a file goes while it is looked at.
    """
    digest = hashlib.sha256()
    try:
        for file in sorted(path.rglob("*")):
            status = file.lstat()
            known = f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n"
            digest.update(known.encode(errors="replace"))
    except OSError:
        return ""
    return digest.hexdigest()
