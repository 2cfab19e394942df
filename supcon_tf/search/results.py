"""Results of trials: which is the best, and which are hopeless while they train."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from supcon_tf.search.space import is_number

STATUSES = ("finished", "paused", "pruned", "failed")
# Other trials that must have trained as long before a trial is called hopeless.
_LEAST_TRIALS = 4


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a trial.

    Attributes:
        trial: its number, as text.
        status: "finished" (all epochs), "paused" (at a rung of hyperband), "pruned", "failed".
        values: the settings that were searched.
        run: name of its run directory under `trials/`.
        score: the objective on the validation set; None if the trial failed.
        epochs: epochs that it trained.
        all_epochs: epochs of its encoder, those of the trial that it continues included.
        seconds: time of training and scoring.
        curve: online k-NN top-1 by epoch; None for epochs in which it was not due.
        continues: the trial that it continues.
        reason: one line on why it failed.
        worker: which process ran it; KERASTUNER_TUNER_ID, or "tuner0" if there is only one;
            '' in a study or comparison.
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

    A score after fewer epochs estimates something different, so it counts only if no trial
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
    """A key that sorts scored trials from the best to the worst, and the others after them."""
    if result.score is None:
        return (1, 0.0, int(result.trial))
    return (0, -result.score if direction == "max" else result.score, int(result.trial))


def is_hopeless(
    curve: Sequence[float | None], others: Sequence[Sequence[float | None]], grace_epochs: int
) -> bool:
    """The median stopping rule, for a curve where more is better.

    A trial is stopped at an epoch where its best value so far is below the median of the running
    averages, up to that epoch, of the trials that have reached it.

    Args:
        curve: one value, or None, per epoch so far.
        others: the same for trials that have ended.
        grace_epochs: epochs after which a trial may be stopped at the earliest.

    Returns:
        Whether to stop it now; never if it has no new value, or if fewer than four others have
        reached this epoch.

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


def is_result(content: Any, trial: str) -> bool:
    """Whether JSON content is a trial's result as it was written."""
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
