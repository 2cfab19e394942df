r"""Compares how much the scores of recipes depend on their settings.

    python scripts/stability.py --study=scripts/recipes/digits.stability.json \
        --study_dir=runs/stability

Each change of the study alone is made to each recipe, and trained with every seed. Started again
with --resume, it goes on; a second process with --resume beside the first shares the work. It
writes stability.json and stability.png; the study file: README.md, How much settings matter.
"""

from supcon_tf.cli import flags
from supcon_tf.config.search import StabilityConfig


def main(config):
    """Trains what is left, and prints both tables."""
    from supcon_tf.search.stability import stability
    from supcon_tf.search.stability_report import spread_table, variation_table

    report = stability(config, flags.read_recipe)
    print(variation_table(report))
    print()
    print(spread_table(report))
    print(f"figure: {config.study_dir}/stability.png    {config.study_dir}/stability.json")


if __name__ == "__main__":
    flags.run(main, StabilityConfig, __doc__)
