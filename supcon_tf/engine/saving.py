"""The choice of the checkpoints to write and keep, and of the best epoch."""

import dataclasses
import sys
from pathlib import Path

import keras

from supcon_tf.engine import checkpoints

History = dict[str, list[float | None]]


@dataclasses.dataclass(frozen=True)
class Saving:
    """Settings of when checkpoints are written and which are kept.

    Attributes:
        every_steps: steps between two checkpoints within epochs; None for those at the ends only.
        share: share of the time that may go into checkpoints at the ends of epochs. An epoch that
            ends too soon after the last checkpoint writes none, unless it is the best so far, or
            the last, or several workers train.
        keep: newest checkpoints to keep.
        best_metric: the best epoch in this curve is kept as well; '' for none.
    """

    every_steps: int | None = None
    share: float = 0.05
    keep: int = 2
    best_metric: str = ""


def best_epoch(history: History, metric: str) -> int | None:
    """The first of the epochs that are best in a metric, from 0 on; None before there is a value.

    Args:
        history: one value, or None, per epoch for each metric.
        metric: its name; more is better, except for `loss`.
    """
    sign = -1 if metric == "loss" else 1
    scored = [(sign * v, -e) for e, v in enumerate(history.get(metric, ())) if v is not None]
    return -max(scored)[1] if scored else None


def forget_lost(history: History, metric: str, folder: Path, steps_per_epoch: int) -> None:
    """Excludes epochs whose checkpoint is gone from the choice of the best, with a warning.

    Args:
        history: as in `best_epoch`; the values of excluded epochs become None.
        metric: as in `best_epoch`.
        folder: the stage's folder of checkpoints.
        steps_per_epoch: batches per epoch.
    """
    kept = checkpoints.steps(folder)
    while (best := best_epoch(history, metric)) is not None:
        if (best + 1) * steps_per_epoch in kept:
            return
        print(f"the checkpoint of the best epoch, {best + 1}, is gone", file=sys.stderr)
        history[metric][best] = None


def restore_best(
    model: keras.Model, history: History, metric: str, folder: Path, steps_per_epoch: int
) -> int | None:
    """Restores the weights of the best epoch.

    Args:
        model: as it was trained.
        history: as in `best_epoch`.
        metric: as in `best_epoch`; '' for none.
        folder: the stage's folder of checkpoints.
        steps_per_epoch: batches per epoch.

    Returns:
        The epoch, from 0 on; None if none is wanted, or none has been scored.
    """
    best = best_epoch(history, metric) if metric else None
    if best is not None:
        with model.distribute_strategy.scope():
            checkpoints.restore(folder, (best + 1) * steps_per_epoch, model)
    return best
