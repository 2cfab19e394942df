"""Checks that a stage that is continued or built upon has its original data and initial weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supcon_tf.core.errors import UserError
from supcon_tf.core.provenance import SPLITS


def check_same_splits(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises `UserError` unless the splits are those that a stage began with.

    Args:
        path: the run directory, for the error.
        before: `ImageDataset.describe()` in the stage's manifest.
        now: `ImageDataset.describe()`.
    """
    for split in (*SPLITS, "unlabelled"):
        then, found = (data.get(split, {"examples": 0}) for data in (before, now))
        if then != found:
            others = ", not all the same" * (then["examples"] == found["examples"])
            raise UserError(
                f"split {split!r} of {now['name']} changed since {path} was pretrained: "
                f"{then['examples']} images then, {found['examples']} now{others}. Restore the "
                "images (one that was added or removed changes which are held out), or pretrain "
                "again."
            )


def check_same_initial_run(
    path: Path, before: Mapping[str, Any], now: Mapping[str, Mapping[str, str]]
) -> None:
    """Raises `UserError` if the encoder that a run began from has changed since.

    Args:
        path: the run directory, for the error.
        before: the stage's manifest.
        now: `initial_run` as it would be in the manifest; empty without one.
    """
    if before.get("initial_run", {}) != now.get("initial_run", {}):
        raise UserError(
            f"the encoder of initial_run {now['initial_run']['path']} changed since {path} began "
            "from it. Restore it, or give another --run_dir."
        )
