r"""Compares methods on one data set, at an equal budget and over seeds.

    supcon-tf compare --recipe=digits --validation_fraction=0.2 \
        --arms=cross_entropy,supcon,simclr --comparison_dir=runs/comparison

All flags of `supcon-tf pretrain` (its --help lists them) are taken too: they are the recipe that
the arms share. Started again with the same flags, it keeps what is finished and continues.
"""

from supcon_tf.cli import flags
from supcon_tf.config import PretrainConfig
from supcon_tf.config.comparison import DECIDED, CompareConfig


def main(config, base):
    """Runs what is left, and prints the tables."""
    if config.dry_run:
        from supcon_tf.comparison.planning import print_plan

        print_plan(config, base)
        return
    from supcon_tf.comparison.comparing import compare
    from supcon_tf.comparison.report import differences_table, scores_table

    report = compare(config, base)
    print(f"{scores_table(report)}\n\n{differences_table(report)}\n")
    print(report["budget"])
    print(f"{config.comparison_dir}/report.md    {config.comparison_dir}/report.json")


def program():
    """Runs the command."""
    flags.run(main, CompareConfig, __doc__, base=PretrainConfig, base_without=DECIDED)
