"""Settings of comparisons, from which the flags of `supcon-tf compare` are made."""

import dataclasses
from typing import ClassVar

from supcon_tf.config.arms import ARMS
from supcon_tf.config.search import PLACEMENT
from supcon_tf.config.settings import Config, setting
from supcon_tf.config.training import PretrainConfig
from supcon_tf.config.trials import check_trials
from supcon_tf.core.errors import UserError, suggestion

# Settings of pretraining that a comparison sets itself for each of its cells.
DECIDED = (*PLACEMENT, "seed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareConfig(Config):
    """Methods side by side: seeds, an equal budget, a learning rate for each."""

    # The first setting of each group, and the group's title in `--help`.
    SECTIONS: ClassVar[dict[str, str]] = {
        "comparison_dir": "comparison",
        "rate_factors": "learning rates, chosen on validation images",
        "seconds": "budget",
        "corruptions": "scores",
    }

    comparison_dir: str = setting(
        "runs/comparison", "Directory that the comparison reads and writes.", identity=False
    )
    arms: str = setting(",".join(ARMS), "Methods to compare, separated by commas.", identity=False)
    reference: str = setting(
        "cross_entropy", "The arm that the others are compared with.", identity=False
    )
    seeds: int = setting(
        5,
        "Number of seeds that every arm is trained with, counted from 0.",
        at_least=1,
        at_most=1000,
        identity=False,
    )
    dry_run: bool = setting(
        False, "Print the cells (runs to train) and their time, and stop.", identity=False
    )
    rate_factors: str = setting(
        "0.3,1,3",
        "Factors on learning_rate that every arm tries; a single 1 skips the choice.",
        identity=False,
    )
    tuning_seeds: int = setting(
        1,
        "Number of seeds that every factor is tried with, counted from 0.",
        at_least=1,
        at_most=100,
    )
    seconds: float | None = setting(
        None,
        "Equal wall-clock time instead of epochs: seconds of training in each run (none: off).",
        kind=float,
        above=0,
        at_most=1e9,
    )
    corruptions: bool = setting(
        False, "Also score on corrupted images, as evaluate does.", identity=False
    )
    corruption_images: int | None = setting(
        None,
        "Held-out images that are corrupted (none: all).",
        kind=int,
        at_least=1,
        identity=False,
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.comparison_dir:
            raise UserError("comparison_dir must name a directory. Received: ''.")
        names = self.arm_names()
        for name in names:
            if name not in ARMS:
                raise UserError(
                    f"arms must be among {', '.join(ARMS)}. Received: {name!r}."
                    f"{suggestion(name, ARMS)}"
                )
        if len(set(names)) < max(2, len(names)):
            raise UserError(
                f"arms must name two or more arms, each once. Received: {self.arms!r}. Add one, "
                "or remove the repeated one."
            )
        if self.reference not in names:
            raise UserError(
                f"reference must be one of the arms. Received: {self.reference!r} with arms="
                f"{self.arms!r}. Pass --reference={names[0]}."
            )
        self.factors()
        if self.corruption_images is not None and not self.corruptions:
            raise UserError(
                "corruption_images has no effect without corruptions. Received: "
                f"{self.corruption_images}. Pass --corruptions, or leave it out."
            )

    def arm_names(self) -> tuple[str, ...]:
        """The names in `arms`."""
        return tuple(name.strip() for name in self.arms.split(",") if name.strip())

    def factors(self) -> tuple[float, ...]:
        """`rate_factors`, ascending; raises `UserError` unless they are numbers above 0."""
        try:
            factors = sorted(float(part) for part in self.rate_factors.split(","))
            if len(set(factors)) < len(factors) or not all(0 < one < 1e6 for one in factors):
                raise ValueError
            return tuple(factors)
        except ValueError:
            raise UserError(
                "rate_factors must be different numbers above 0, separated by commas. Received: "
                f"{self.rate_factors!r}. Pass --rate_factors=0.3,1,3."
            ) from None

    def check_base(self, base: PretrainConfig) -> None:
        """Raises `UserError` if the recipe's arms cannot be tuned, as far as settings tell."""
        if self.is_tuned():
            check_trials(base)

    def is_tuned(self) -> bool:
        """Whether a learning rate is chosen for each arm."""
        return len(self.factors()) > 1
