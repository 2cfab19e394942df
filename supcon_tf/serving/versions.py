"""Which version of a model is served: the newest that passes its checks."""

import asyncio
import gc
import logging
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from supcon_tf.bundles import SUMS, find_versions, identity, load_bundle
from supcon_tf.errors import UserError
from supcon_tf.serving import measures

_log = logging.getLogger("supcon_tf.serving")


def report(message: str) -> None:
    """Tells whoever runs the server, on one line."""
    print(message, file=sys.stderr, flush=True)


def warm_up(bundle: Any, max_batch_size: int) -> None:
    """Computes once what requests will ask for, so that none of them waits for TensorFlow's plans.

    Args:
        bundle: a `supcon_tf.bundles.Bundle`.
        max_batch_size: images that will be computed at once.
    """
    image = bundle.scale(np.zeros((8, 8, 3), np.uint8))
    for size in sorted({1, max_batch_size}):
        found = bundle.classify(np.stack([image] * size))
        if bundle.num_neighbors:
            bundle.nearest(found["embeddings"])


class Versions:
    """Watches the folder of a model.

    A version that fails its checks is left alone until its files change. It is reported when a
    second look finds the same files: a copy still under way is not a fault.

    Args:
        folder: `<saved_models>/<name>`.
        load: loads a version's folder, and raises `UserError` if anything is wrong with it.
        tell: is given one line for each event.
    """

    def __init__(
        self,
        folder: Path,
        load: Callable[[Path], Any],
        tell: Callable[[str], None] = report,
    ):
        self._folder, self._load, self._tell = folder, load, tell
        self._served: Any = None
        self._served_identity = ""
        self._suspects: dict[int, tuple[str, str]] = {}  # Version to identity and what was wrong.
        self._refused: dict[int, str] = {}
        self._loader = ThreadPoolExecutor(1, "load")

    @property
    def served(self) -> Any:
        """The bundle that answers new requests."""
        return self._served

    @property
    def refused(self) -> dict[int, str]:
        """What is wrong with the versions that were refused and are still there."""
        return dict(self._refused)

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
        return None if _identity(path) == self._served_identity else self._try(version)

    def _forget(self, found: list[int]) -> None:
        for version in set(self._suspects) - set(found):
            del self._suspects[version]
            self._refused.pop(version, None)
            measures.REFUSED.set(len(self._refused))

    def _try(self, version: int) -> tuple[Any, str] | None:
        """Loads a version, unless it is incomplete or known to be broken."""
        path = self._folder / str(version)
        seen = _identity(path)
        if not (path / SUMS).is_file() and self._served is not None:
            return None  # The sums are written last.
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
        self._suspects.pop(version, None)
        self._refused.pop(version, None)
        measures.REFUSED.set(len(self._refused))
        return bundle, seen

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
        message = self._suspects[version][1]
        if self._refused.get(version) == message:
            return
        self._refused[version] = message
        measures.REFUSED.set(len(self._refused))
        goes_on = f"; version {self._served.version} goes on" if self._served else ""
        self._tell(f"version {version} is refused{goes_on}: {message}")

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


def _identity(path: Path) -> str:
    try:
        return identity(path)
    except OSError:  # A file that goes while it is looked at.
        return ""


def load_version(path: Path, runtime: str, max_batch_size: int) -> Any:
    """Loads a version and warms it up.

    Args:
        path: its folder.
        runtime: one of `config.RUNTIMES`.
        max_batch_size: images that will be computed at once.

    Raises:
        UserError: if anything about it is wrong.
    """
    bundle = load_bundle(path, runtime)
    try:
        warm_up(bundle, max_batch_size)
    except Exception as error:
        raise UserError(
            f"bundle {path} computes nothing ({type(error).__name__}). Export it again."
        ) from error
    return bundle
