"""The learning rate of every arm, chosen on validation images; the test split is not used."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence

from supcon_tf.comparison.arms import arm_config
from supcon_tf.config import PretrainConfig
from supcon_tf.config.comparison import CompareConfig
from supcon_tf.core.errors import UserError
from supcon_tf.search.results import Result
from supcon_tf.search.search_directory import SearchDirectory
from supcon_tf.search.trials import Trial, run_trial

# The score that decides: the top-1 of the arm's own classifier, or of a linear one.
OBJECTIVE = "linear_top1"


@dataclasses.dataclass(frozen=True)
class Selection:
    """The learning rates tried for an arm, and the one chosen.

    Attributes:
        factor: of `rate_factors`, the one chosen.
        rate: the learning rate that it gives.
        scores: by learning rate, ascending, the validation top-1 of each tuning seed; None for a
            training run that failed.
        at_edge: whether a rate beyond those tried might be better.
    """

    factor: float
    rate: float
    scores: dict[float, list[float | None]]
    at_edge: bool


def trials_of(config: CompareConfig, base: PretrainConfig, arm: str, epochs: int) -> list[Trial]:
    """The training runs on which the choice of an arm's learning rate is based, rate by rate."""
    if not config.is_tuned():
        return []
    return [
        Trial(
            name=f"{arm}-{factor:g}-{seed}",
            # Only the score at the end decides; k-NN scores before it would cost as much as steps.
            base=arm_config(base, arm, seed=seed, epochs=epochs, validation_epochs=epochs),
            values={"learning_rate": base.learning_rate * factor},
            objective=OBJECTIVE,
        )
        for factor in config.factors()
        for seed in range(config.tuning_seeds)
    ]


def select_rate(
    config: CompareConfig,
    base: PretrainConfig,
    arm: str,
    trials: Sequence[Trial],
    place: SearchDirectory,
    ended: Callable[[str, Result], None],
) -> Selection:
    """Runs the trials that are left, and chooses the rate with the best mean score.

    If rates tie, the lowest is chosen; a rate with which a training run failed is never chosen.

    Args:
        config: the comparison's settings.
        base: the shared recipe.
        arm: the arm's name.
        trials: as from `trials_of`.
        place: the comparison's directory.
        ended: called with a trial's name and result, even if the result existed already.

    Raises:
        UserError: if a training run failed with every rate.
    """
    scores: dict[float, list[float | None]] = {}
    factors = {base.learning_rate * factor: factor for factor in config.factors()}
    reason = None
    for trial in trials:
        result = place.result(trial.name) or run_trial(trial, place)
        ended(trial.name, result)
        reason = reason or result.reason
        scores.setdefault(trial.values["learning_rate"], []).append(result.score)
    if not scores:
        ((rate, factor),) = factors.items()
        return Selection(factor, rate, {}, False)
    means = {rate: statistics.fmean(own) for rate, own in scores.items() if None not in own}
    if not means:
        raise UserError(
            f"arm {arm} cannot be trained with any learning rate: {reason} Pass other "
            "--rate_factors, or leave it out of --arms."
        )
    rate = max(means, key=lambda one: (means[one], -one))
    return Selection(factors[rate], rate, scores, rate in (min(scores), max(scores)))
