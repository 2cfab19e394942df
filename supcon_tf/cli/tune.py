r"""Searches for the settings of a recipe that score best on validation images.

    supcon-tf tune --recipe=digits --validation_fraction=0.2 \
        --space=digits --search_dir=runs/search

All flags of `supcon-tf pretrain` (its --help lists them) are taken too: they are the recipe that
the search starts from. The space file, and how several machines search together: docs, Search.
"""

from supcon_tf.cli import flags
from supcon_tf.config import PretrainConfig
from supcon_tf.config.search import PLACEMENT, TuneConfig


def main(config, base):
    """Searches, prints the best trials, and says what comes next."""
    from supcon_tf.search.report import base_line, cost_line, next_commands, search_table
    from supcon_tf.search.space import configured
    from supcon_tf.search.tuning import tune

    report = tune(config, base)
    if not report:
        print(f"the search is over; its chief writes the results into {config.search_dir}")
        return
    print(search_table(report))
    print(cost_line(report["cost"]))
    best = report["best"]
    print(base_line(report))
    print(f"best: trial {best['trial']}, validation {config.objective} {best['score']:.4f}")
    print(f"recipe: {report['recipe']}    pictures: {config.search_dir}/pictures")
    print("next, to score it once on images that the search has not seen:")
    for command in next_commands(report, config, configured(base, best["values"])):
        print(f"  {command}")


def program():
    """Runs the command."""
    flags.run(main, TuneConfig, __doc__, base=PretrainConfig, base_without=PLACEMENT)
