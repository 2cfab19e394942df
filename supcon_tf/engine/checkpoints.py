"""Checkpoints of one stage, a folder each: weights, optimizer, metrics and curves after a step."""

import dataclasses
import math
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from supcon_tf.core.errors import StorageError, UserError
from supcon_tf.core.files import NO_ROOM, format_bytes, parse_json, sha256, write_json, writing

_WEIGHTS, _REST = "model.weights.h5", "rest.npz"


@dataclasses.dataclass
class State:
    """The state of a stage.

    Attributes:
        step: steps done since the stage began.
        history: curves so far, one value per finished epoch.
        seconds: time spent in the epoch that is not finished.
    """

    step: int = 0
    history: dict[str, list[float | None]] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


def folder_of(folder: Path, stage: str) -> Path:
    """The folder of a stage's checkpoints in a run directory."""
    return folder / "checkpoints" / stage


def save(
    folder: Path,
    state: State,
    model: keras.Model,
    *,
    keep: int = 2,
    protect: int | None = None,
    chief: bool = True,
) -> None:
    """Saves a checkpoint in one step, and removes all but the newest.

    Args:
        folder: the stage's folder of checkpoints.
        state: the state of the stage.
        model: compiled and built.
        keep: checkpoints to keep.
        protect: step of one more to keep.
        chief: whether this process writes; the other workers only take part in reading the weights.

    Raises:
        UserError: if the disk is full.
    """
    if not chief:
        with tempfile.TemporaryDirectory() as scratch:
            _write(Path(scratch), model)
        return
    target = folder / f"{state.step:09d}"
    needed = _check_space(folder, model)
    for path in _newest_first(folder):
        if int(path.name) >= state.step:
            shutil.rmtree(path)  # Corrupted ones, which the run has passed over.
    with writing(target) as temporary:
        temporary.mkdir(parents=True)
        try:
            _reserve(temporary / _WEIGHTS, needed)  # Exceeding a quota, too, would crash HDF5.
            _write(temporary, model)
        except (OSError, RuntimeError) as error:  # HDF5 raises either.
            raise StorageError(
                f"cannot write checkpoint {target}: {error}. The ones before it are kept."
            ) from error
        content = {**dataclasses.asdict(state), "sha256": _digests(temporary)}
        write_json(temporary / "state.json", content)
    for old in _newest_first(folder)[keep:]:
        if int(old.name) != protect:
            shutil.rmtree(old)


def _write(folder: Path, model: keras.Model) -> None:
    model.save_weights(folder / _WEIGHTS)
    np.savez(folder / _REST, *[np.asarray(variable) for variable in _rest(model)])


def _rest(model: keras.Model) -> list:
    """The variables that Keras leaves out of a weights file: metrics, the seeds of dropout."""
    metrics = [variable for metric in model.metrics for variable in metric.variables]
    known = {id(variable) for variable in (*model.weights, *metrics)}
    return metrics + [variable for variable in model.variables if id(variable) not in known]


def _digests(folder: Path) -> dict[str, str]:
    return {name: sha256(folder / name) for name in (_WEIGHTS, _REST)}


def _check_space(folder: Path, model: keras.Model) -> int:
    """Stops before a disk fills, which HDF5 does not always survive; returns the bytes needed."""
    folder.mkdir(parents=True, exist_ok=True)
    variables = [*model.variables, *model.optimizer.variables]
    needed = int(1.1 * sum(4 * math.prod(variable.shape) for variable in variables)) + 2**20
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageError(
            f"the disk of {folder} is full: {format_bytes(free)} free, a checkpoint takes "
            f"{format_bytes(needed)}. The ones before it are kept: free some space and continue "
            "from them (pretrain and classify: --resume)."
        )
    return needed


def _reserve(path: Path, size: int) -> None:
    """Reserves space for a file, which a quota or a limit may refuse even if the disk has room.

    Args:
        path: a new file.
        size: in bytes.

    Raises:
        OSError: if there is no room; if the system cannot tell, nothing is reserved.
    """
    with open(path, "wb") as file:
        try:
            getattr(os, "posix_fallocate", lambda *nothing: None)(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise


def _read(path: Path) -> State | None:
    """The state of a checkpoint; None unless it is intact.

    Raises:
        StorageError: if this user may not read it.
    """
    try:
        content = parse_json((path / "state.json").read_bytes())
        digests = content.pop("sha256")
        state = State(**content)
        whole = type(state.step) is int and state.step == int(path.name)
        whole = whole and is_history(state.history)
        whole = whole and 0 <= state.seconds < math.inf
        return state if whole and _digests(path) == digests else None
    except PermissionError as error:  # If passed over, it would be replaced.
        raise StorageError(
            f"checkpoint {path} cannot be read: {error.strerror}. Make it readable."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def is_history(history: Any) -> bool:
    """Whether JSON holds curves of numbers or None, all of one length."""
    if not isinstance(history, dict) or not all(isinstance(v, list) for v in history.values()):
        return False
    numbers = all(
        value is None or isinstance(value, int | float)
        for values in history.values()
        for value in values
    )
    return numbers and len({len(values) for values in history.values()}) <= 1


def newest(folder: Path) -> State | None:
    """Finds the newest sound checkpoint, and reports those that it passes over.

    Args:
        folder: the stage's folder of checkpoints.

    Returns:
        Its state; None if there is no checkpoint.

    Raises:
        UserError: if there are checkpoints and none is intact.
    """
    found = _newest_first(folder)
    for path in found:
        state = _read(path)
        if state is not None:
            return state
        print(f"checkpoint {path} is damaged; skipping it", file=sys.stderr)
    if found:
        raise UserError(
            f"no sound checkpoint among {len(found)} in {folder}. Start again with --overwrite."
        )
    return None


def read(folder: Path, step: int) -> State:
    """Reads the state of a stage from the checkpoint of a step.

    Args:
        folder: the stage's folder of checkpoints.
        step: that of an existing checkpoint; 0 is the beginning.

    Raises:
        UserError: if it is not there, or not sound.
    """
    if step == 0:
        return State()
    path = folder / f"{step:09d}"
    state = _read(path)
    if state is None:
        raise UserError(
            f"checkpoint {path} is missing or damaged. Several workers must share the run "
            "directory; otherwise start again with --overwrite."
        )
    return state


def restore(folder: Path, step: int, model: keras.Model) -> State:
    """Loads the checkpoint of a step. Several workers wait for each other.

    Args:
        folder: the stage's folder of checkpoints.
        step: as `read` takes it; 0 leaves the model as it is.
        model: compiled and built as when it was saved.

    Returns:
        The state of the stage.

    Raises:
        UserError: if it is not there, not sound, or of a different model.
    """
    state = read(folder, step)
    load(folder, state, model)
    return state


def load(folder: Path, state: State, model: keras.Model) -> None:
    """Loads the checkpoint that `read` found, as `restore` does."""
    if state.step == 0:
        return
    path = folder / f"{state.step:09d}"
    try:
        model.load_weights(path / _WEIGHTS)
        with np.load(path / _REST) as saved:
            values = [saved[name] for name in saved.files]
        for variable, value in zip(_rest(model), values, strict=True):
            variable.assign(value)
    except ValueError as error:
        raise UserError(
            f"checkpoint {path} belongs to a different model. Start again with --overwrite."
        ) from error


def _newest_first(folder: Path) -> list[Path]:
    found = (path for path in folder.glob("[0-9]*") if path.name.isdecimal() and path.is_dir())
    return sorted(found, reverse=True)


def steps(folder: Path) -> set[int]:
    """The steps of the checkpoints in a folder, sound or not."""
    return {int(path.name) for path in _newest_first(folder)}
