"""Files that are never half-written: written under a temporary name, then renamed."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

from supcon_tf.core.errors import StorageError, UserError
from supcon_tf.core.interrupts import check_interrupts

TEMPORARY_PREFIX = ".writing-"
LOCK = ".lock"
# A full disk, a full quota, and a file larger than the process may write.
NO_ROOM = errno.ENOSPC, errno.EDQUOT, errno.EFBIG
# Open files and how often they were locked, by folder: one lock per process.
_locks: dict[Path, tuple[int, int]] = {}


def new_folder(output_dir: str) -> Path:
    """The absolute path of a folder to write; `UserError` if it is a file or holds one."""
    if not output_dir:
        raise UserError("output_dir must name a folder. Received: ''.")
    folder = Path(output_dir).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"output_dir must be new or empty. Received: {output_dir!r}.")
    return folder


@contextlib.contextmanager
def writing(path: Path):
    """Yields a temporary path next to `path`, and renames it to `path` when the block succeeds.

    A file is replaced; a folder that is already there and not empty is a `UserError`. The content
    is on the disk before the name is.

    Raises:
        StorageError: if the disk or a quota is full, or the file is larger than allowed.
    """
    new = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    # Whether a process is alive is known only on its own machine; the folder may be shared.
    # A host name never contains an @.
    prefix = f"{TEMPORARY_PREFIX}{socket.gethostname()}@"
    temporary = path.with_name(f"{prefix}{os.getpid()}-{path.name}")
    for left in path.parent.glob(f"{glob.escape(prefix)}*-{glob.escape(path.name)}"):
        if left == temporary or not _is_alive(left.name.removeprefix(prefix)):
            remove(left)  # Left by a process that was killed.
    try:
        yield temporary
        check_interrupts()
        for file in [temporary, *temporary.rglob("*")]:
            _flush(file)
        try:
            os.replace(temporary, path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise UserError(
                f"{path} was written by another process in the meantime. Run this again."
            ) from error
        _flush(path.parent)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        fault = {
            errno.EDQUOT: "the disk quota is full",
            errno.EFBIG: "the limit on file size (ulimit -f) is reached",
        }.get(error.errno, "the disk is full")
        raise StorageError(
            f"{fault}: only {format_bytes(_size(temporary))} of {path} could be written; "
            f"{format_bytes(shutil.disk_usage(path.parent).free)} of the disk is left. Free some "
            "space or raise the limit, then run this again."
        ) from error
    finally:
        remove(temporary)
        if not path.exists():
            with contextlib.suppress(OSError):  # Another process uses one by now.
                for folder in new:  # The innermost first; a failure leaves nothing behind.
                    folder.rmdir()


def _is_alive(name: str) -> bool:
    """Whether the process of a temporary name, `<pid>-...`, lives, as far as can be known."""
    try:
        os.kill(int(name.partition("-")[0]), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OverflowError, OSError):
        return True  # Not a name of ours, or another user's process.
    return True


def lock(folder: Path) -> bool:
    """Keeps other processes from locking a folder until `unlock`, or for as long as this one lives.

    Within the process it may be locked several times; the last `unlock` releases it.

    Returns:
        Whether it is locked for this process; False if another one has it.
    """
    folder = folder.resolve()
    descriptor, times = _locks.get(folder, (None, 0))
    if descriptor is None:
        descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_WRONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
    _locks[folder] = descriptor, times + 1
    return True


def without_links(path: str) -> Path:
    """The path itself, or where it leads now if there are links in it, which may change later."""
    real = Path(os.path.realpath(path))
    return Path(path) if real == Path(os.path.abspath(path)) else real


def has_lost_lock(folder: Path) -> bool:
    """Whether a folder that this process has locked has since been removed, perhaps replaced.

    Args:
        folder: as `without_links` gives it; a link in its place is a different folder.
    """
    descriptor, _ = _locks.get(Path(os.path.abspath(folder)), (None, 0))
    if descriptor is None:
        return False
    try:
        return not os.path.samestat(os.fstat(descriptor), os.stat(folder / LOCK))
    except FileNotFoundError:
        return True


def unlock(folder: Path) -> None:
    """Releases a folder that this process has locked; does nothing if it has not."""
    folder = folder.resolve()
    descriptor, times = _locks.pop(folder, (None, 0))
    if times > 1:
        _locks[folder] = descriptor, times - 1
    elif descriptor is not None:
        os.close(descriptor)


@contextlib.contextmanager
def updating(folder: Path):
    """Waits until no other process is inside such a block for the folder.

    For changes that take a moment, such as reading a file, changing it and writing it back.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Removes a file, a link or a folder with its content; does nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def printing_to(path: Path):
    """Appends everything printed inside to a file, instead of showing it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(path, "a", buffering=1, errors="backslashreplace") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        yield


def write_json(path: Path, content: Any) -> None:
    """Writes JSON in one step."""
    with writing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def check_readable(path: Path) -> None:
    """Opens a file before it goes to a library that could not say why it failed.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def parse_json(text: str | bytes, **how: Any) -> Any:
    """Parses JSON; any fault in it is a `ValueError`.

    Args:
        text: in UTF-8.
        **how: keyword arguments of `json.loads`.

    Raises:
        ValueError: if it is not JSON.
    """
    try:
        return json.loads(text, **how)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(path: Path) -> Any:
    """Reads JSON that this package wrote.

    Raises:
        UserError: if the file cannot be read, or is not JSON.
    """
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {path}: {reason}. Restore it, or move it away.") from error


def read_user_json(path: str, title: str) -> Any:
    """Reads JSON written by hand, in which a name given twice is a mistake.

    Args:
        path: the file.
        title: what it is, for messages.

    Raises:
        UserError: if it cannot be read, or is not JSON.
    """

    def reject_duplicate_keys(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{twice[0]!r} occurs twice")
        return dict(pairs)

    def reject_constant(text):
        raise ValueError(f"{text} is not a number")

    try:
        text = Path(path).read_text("utf-8-sig")  # Windows editors write a byte order mark.
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise UserError(f"{title} {path} cannot be read: {reason}. Pass a JSON file.") from error
    try:
        return parse_json(
            text, object_pairs_hook=reject_duplicate_keys, parse_constant=reject_constant
        )
    except ValueError as error:
        raise UserError(f"{title} {path} is not JSON: {error}. Correct it.") from error


def format_bytes(number: float) -> str:
    """A size as "3.2 MiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
