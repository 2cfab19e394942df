r"""Compares how much the scores of recipes depend on their settings.

    python scripts/studies/stability.py --study=scripts/studies/digits.stability.json \
        --study_dir=runs/stability

Each change of the study is made by itself to each recipe, which is trained with every seed. Started
again with --resume, it continues; a second process with --resume shares the work of the first. It
writes stability.json and stability.png. The format of the study file: docs/results/stability.md.
"""

import dataclasses

from supcon_tf.cli import flags
from supcon_tf.config.search import OBJECTIVES
from supcon_tf.config.settings import Config, setting
from supcon_tf.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class StabilityConfig(Config):
    """How much the score of recipes depends on their settings."""

    study: str = setting(
        "", "JSON file: the recipes to compare, and the changes to them.", identity=False
    )
    study_dir: str = setting(
        "runs/stability", "Directory that the study reads and writes.", identity=False
    )
    resume: bool = setting(
        False, "Continue the study if it was begun, or help a process that runs it.", identity=False
    )
    seeds: int = setting(
        3, "Number of seeds for every variation, counted from 0.", at_least=1, at_most=1000
    )
    objective: str = setting(
        "linear_top1",
        "Score on the validation set; of a linear classifier: top-1, or the loss (nll).",
        choices=tuple(OBJECTIVES),
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.study:
            raise UserError("no study given. Pass --study=FILE.json.")
        if not self.study_dir:
            raise UserError("study_dir must name a directory. Received: ''.")


def main(config):
    """Trains what is left, and prints both tables."""
    from _stability_report import spread_table, variation_table
    from _stability_run import run_study

    report = run_study(config)
    print(variation_table(report))
    print()
    print(spread_table(report))
    print(f"figure: {config.study_dir}/stability.png    {config.study_dir}/stability.json")


if __name__ == "__main__":
    flags.run(main, StabilityConfig, __doc__)
