"""Choice of the version of a model that is served: the newest that passes its checks."""

import asyncio
import dataclasses
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
from supcon_tf.serving import metrics

_PATIENCE_SECONDS = 10.0
_log = logging.getLogger("supcon_tf.serving")


def report(message: str) -> None:
    """Prints one line for the person who runs the server."""
    print(message, file=sys.stderr, flush=True)


@dataclasses.dataclass
class _Seen:
    """A version that is not served, as its files were when they were first seen."""

    identity: str
    since: float = dataclasses.field(default_factory=time.monotonic)
    fault: str = ""  # "" while a copy may be in progress.
    reported: bool = False


class Versions:
    """Watches the folder of a model.

    A version that fails its checks is left alone until its files change. It is reported when a
    second look finds the same files: a copy in progress is not a fault. A version without
    checksums, which are written last, is reported once its files have not changed for a while.

    Args:
        folder: `<saved_models>/<name>`.
        load: loads a version's folder, and raises `UserError` if anything is wrong with it.
        tell: is given one line for each event.
        patience_seconds: how long the files must remain unchanged.
    """

    def __init__(
        self,
        folder: Path,
        load: Callable[[Path], Any],
        tell: Callable[[str], None] = report,
        patience_seconds: float = _PATIENCE_SECONDS,
    ):
        self._folder, self._load, self._tell = folder, load, tell
        self._patience_seconds = patience_seconds
        self.served: Any = None  # The bundle that answers new requests.
        self._served_identity = ""
        self._seen: dict[int, _Seen] = {}
        self._loader = ThreadPoolExecutor(1, "load")

    @property
    def refused(self) -> dict[int, str]:
        """Faults of the versions that were refused and are still there.

        For clients, who need not know where the files are.
        """
        found = {}
        for version, seen in sorted(self._seen.copy().items()):
            if seen.reported:
                found[version] = seen.fault
                for folder in (self._folder, self._folder.resolve()):
                    found[version] = found[version].replace(f"{folder}/", "")
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
        if not found:
            raise UserError(
                f"model_dir has no version of a model. Received: {str(self._folder)!r}. Give a "
                "directory that supcon-tf export wrote, such as saved_models/NAME."
            )
        for version in reversed(found):
            loaded = self._try(version)
            if loaded is not None:
                self._serve(*loaded)
                return
            self._refuse(version)
        raise UserError(
            f"no version in {self._folder} is valid; the newest: {self._seen[found[-1]].fault}"
        )

    async def watch(self, seconds: float) -> None:
        """Looks for other versions, forever; the event loop keeps running.

        Args:
            seconds: between two checks.
        """
        loop = asyncio.get_running_loop()
        replaced = False
        while True:
            await asyncio.sleep(seconds)
            try:
                # The old bundle's last batch is done; TensorFlow's objects form cycles.
                if replaced:
                    await loop.run_in_executor(self._loader, gc.collect)
                loaded = await loop.run_in_executor(self._loader, self.look)
                replaced = loaded is not None
                if loaded is not None:
                    self._serve(*loaded)
                    del loaded
            except Exception:
                _log.exception("the check for new versions failed")

    def look(self) -> tuple[Any, str] | None:
        """Looks once: the bundle that should be served instead, and its identity, if there is one.

        Nothing else is served before `_serve`, which belongs to the event loop.
        """
        try:
            found = find_versions(self._folder)
        except OSError:  # A folder that is out of reach for a moment is not a reason to stop.
            return None
        for version in set(self._seen) - set(found):
            self._forget(version)
        for version in reversed(found):
            loaded = None
            if version != self.served.version or self._was_rewritten():
                loaded = self._try(version)
            if loaded is not None or version == self.served.version:
                return loaded  # If the served one is damaged, it continues from memory.
        return None

    def _was_rewritten(self) -> bool:
        return identity(self._folder / str(self.served.version)) != self._served_identity

    def _forget(self, version: int) -> None:
        self._seen.pop(version, None)
        metrics.REFUSED.set(len(self.refused))

    def _try(self, version: int) -> tuple[Any, str] | None:
        """Loads a version, unless it is incomplete or known to be broken."""
        path = self._folder / str(version)
        now, seen = identity(path), self._seen.get(version)
        if seen is None or seen.identity != now:
            self._seen[version] = seen = _Seen(now)
            if self.served is not None and not (path / SUMS).is_file():
                return None
            try:
                bundle = self._load(path)
                self._check(bundle, version)
            except Exception as error:  # A file may vanish while it is read; the watch continues.
                kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
                seen.fault = kind + " ".join(str(error).split())
                return None
            self._forget(version)
            return bundle, now
        if not seen.fault and time.monotonic() - seen.since >= self._patience_seconds:
            seen.fault = f"it has no {SUMS}, and no more files are arriving. Copy the whole folder."
        if seen.fault:
            self._refuse(version)
        return None

    def _check(self, bundle: Any, version: int) -> None:
        if bundle.version != version:
            raise UserError(
                f"the bundle says that it is version {bundle.version}. Name its folder accordingly."
            )
        if self.served is not None and bundle.name != self.served.name:
            raise UserError(
                f"the bundle belongs to the model {bundle.name!r}, but this server serves "
                f"{self.served.name!r}. Put it into a folder of its own."
            )

    def _refuse(self, version: int) -> None:
        """Reports a version once for each state of its files."""
        seen = self._seen[version]
        if not seen.reported:
            seen.reported = True
            metrics.REFUSED.set(len(self.refused))
            remaining = f"; version {self.served.version} stays in service" if self.served else ""
            self._tell(f"version {version} is refused{remaining}: {seen.fault}")

    def _serve(self, bundle: Any, seen: str) -> None:
        """Answers new requests with `bundle`; those in progress keep the one they have."""
        before, self.served = self.served, bundle
        self._served_identity = seen
        metrics.VERSION.labels(model_name=bundle.name).set(bundle.version)
        if before is not None:
            self._tell(
                f"serving {bundle.name} version {bundle.version} instead of {before.version}"
            )

    def close(self) -> None:
        """Stops the loading thread."""
        self._loader.shutdown(wait=False, cancel_futures=True)


def identity(path: Path) -> str:
    """A digest that changes when a file of a version is added, removed, resized or touched.

    Args:
        path: version directory. "" is returned if a file disappears in the meantime.
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
