"""Settings of searches, from which the flags of `supcon-tf tune` are made."""

import dataclasses

from supcon_tf.config.settings import Config, setting
from supcon_tf.config.training import PretrainConfig
from supcon_tf.config.trials import check_trials
from supcon_tf.core.errors import UserError

# The scores of a trial on its validation set, and which way is better.
OBJECTIVES = {"knn_top1": "max", "linear_top1": "max", "nll": "min"}
# Settings of pretraining that a search sets itself for each of its trials.
PLACEMENT = ("run_dir", "resume", "overwrite", "dry_run", "verbose")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuneConfig(Config):
    """Search for settings of the pretraining."""

    space: str = setting(
        "",
        "Settings to search and their values: a JSON file, or a packaged name such as digits.",
        identity=False,
    )
    search_dir: str = setting(
        "runs/search", "Directory that the search reads and writes.", identity=False
    )
    resume: bool = setting(False, "Continue the search if it has begun.", identity=False)
    algorithm: str = setting(
        "bayesian",
        "How settings are proposed.",
        choices=("random", "bayesian", "hyperband", "grid"),
    )
    objective: str = setting(
        "knn_top1",
        "Validation score to optimize: k-NN top-1, or a linear classifier's top-1 or loss (nll).",
        choices=tuple(OBJECTIVES),
    )
    max_trials: int | None = setting(
        None,
        "Largest number of trials (none: 20; grid, hyperband: all that they propose).",
        kind=int,
        at_least=1,
        at_most=10**5,
        identity=False,
    )
    max_total_epochs: int | None = setting(
        None,
        "Start no new trial once this many epochs have been trained in all (none: no limit).",
        kind=int,
        at_least=1,
        identity=False,
    )
    prune: bool | None = setting(
        None, "Stop hopeless trials early (none: yes; hyperband does so itself).", kind=bool
    )
    grace_epochs: int | None = setting(
        None,
        "Epochs before a trial may be stopped (none: a tenth of its epochs, at least 1).",
        kind=int,
        at_least=1,
    )
    hyperband_factor: int | None = setting(
        None, "hyperband: one in this many trials is promoted (none: 3).", kind=int, at_least=2
    )
    hyperband_iterations: int | None = setting(
        None, "hyperband: times to run all of its brackets (none: 1).", kind=int, at_least=1
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.space:
            raise UserError("no search space given. Pass --space=FILE.json, or --space=digits.")
        if not self.search_dir:
            raise UserError("search_dir must name a directory. Received: ''.")
        hyperband = self.algorithm == "hyperband"
        for name in ("hyperband_factor", "hyperband_iterations"):
            if getattr(self, name) is not None and not hyperband:
                raise UserError(
                    f"{name} is for --algorithm=hyperband. Received: {name}={getattr(self, name)} "
                    f"with {self.algorithm}. Leave it out."
                )
        if self.prune and hyperband:
            raise UserError("hyperband stops trials by itself. Received: prune=True. Leave it out.")
        if self.grace_epochs is not None and self.prune is False:
            raise UserError(
                f"grace_epochs is for trials that may be stopped. Received: {self.grace_epochs} "
                "with prune=False. Leave one of them out."
            )

    def check_base(self, base: PretrainConfig) -> None:
        """Raises `UserError` if the recipe cannot be searched from, as far as settings tell."""
        if self.grace_epochs is not None and self.grace_epochs > base.epochs:
            raise UserError(
                f"grace_epochs must be at most the {base.epochs} epochs of the recipe. Received: "
                f"{self.grace_epochs}. Lower it."
            )
        check_trials(base)

    def is_pruning(self) -> bool:
        """Whether hopeless trials are stopped by the median rule."""
        return self.algorithm != "hyperband" and self.prune is not False
