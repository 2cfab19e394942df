"""Checkpoints of one stage: weights, optimizer and curves after an epoch, in one folder each."""

import json
import math
import shutil
import sys
from pathlib import Path

import keras

from supcon_tf.errors import UserError
from supcon_tf.files import sha256, write_json, writing

_KEPT = 2
_WEIGHTS = "model.weights.h5"


def save(folder: Path, epoch: int, model: keras.Model, history: dict) -> None:
    """Saves a checkpoint in one step, and removes all but the newest two.

    Args:
        folder: the stage's folder of checkpoints.
        epoch: epochs done.
        model: compiled and built.
        history: curves so far.

    Raises:
        UserError: if the disk is full.
    """
    target = folder / f"{epoch:06d}"
    if target.exists():
        shutil.rmtree(target)  # A corrupted one, which the run has passed over.
    _check_space(folder, model)
    with writing(target) as temporary:
        temporary.mkdir(parents=True)
        try:
            model.save_weights(temporary / _WEIGHTS)
        except (OSError, RuntimeError) as error:  # HDF5 raises either.
            raise UserError(
                f"cannot write checkpoint {target}: {error}. The ones before it are kept."
            ) from error
        digest = sha256(temporary / _WEIGHTS)
        write_json(temporary / "state.json", {"epoch": epoch, "history": history, "sha256": digest})
    for old in _newest_first(folder)[_KEPT:]:
        shutil.rmtree(old)


def _check_space(folder: Path, model: keras.Model) -> None:
    """Stops before a disk fills, which HDF5 does not always survive."""
    folder.mkdir(parents=True, exist_ok=True)
    variables = [*model.variables, *model.optimizer.variables]
    needed = 1.1 * sum(4 * math.prod(variable.shape) for variable in variables) + 2**20
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"the disk of {folder} is full: {free / 2**20:.0f} MiB free, a checkpoint takes "
            f"{needed / 2**20:.0f}. The ones before it are kept; free some space and --resume."
        )


def newest(folder: Path) -> tuple[Path, dict] | None:
    """Finds the newest sound checkpoint, and says so when it passes one over.

    Args:
        folder: the stage's folder of checkpoints.

    Returns:
        The checkpoint and its state; None where there is no checkpoint.

    Raises:
        UserError: if there are checkpoints and none is sound.
    """
    found = _newest_first(folder)
    for path in found:
        try:
            state = json.loads((path / "state.json").read_text())
            whole = isinstance(state["epoch"], int) and isinstance(state["history"], dict)
            if whole and sha256(path / _WEIGHTS) == state["sha256"]:
                return path, state
        except (OSError, ValueError, KeyError, TypeError):
            pass
        print(f"checkpoint {path} is corrupted; passing it over", file=sys.stderr)
    if found:
        raise UserError(
            f"no sound checkpoint among {len(found)} in {folder}. Start again with --overwrite."
        )
    return None


def restore(folder: Path, model: keras.Model) -> tuple[int, dict]:
    """Loads the newest sound checkpoint.

    Args:
        folder: the stage's folder of checkpoints.
        model: compiled and built as when it was saved.

    Returns:
        Epochs done and the curves so far; `(0, {})` where there is no checkpoint.

    Raises:
        UserError: if there are checkpoints and none is sound.
    """
    found = newest(folder)
    if found is None:
        return 0, {}
    path, state = found
    try:
        model.load_weights(path / _WEIGHTS)
    except ValueError as error:
        raise UserError(
            f"checkpoint {path} is of another model. Start again with --overwrite."
        ) from error
    return state["epoch"], state["history"]


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("[0-9]*") if path.is_dir()), reverse=True)
