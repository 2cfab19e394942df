"""The cells of a comparison and the time that they take, before any of them is run."""

from supcon_tf.comparison.arms import final_config
from supcon_tf.comparison.budget import budget_line, seconds_per_epoch
from supcon_tf.comparison.comparing import prepare
from supcon_tf.comparison.selection import trials_of
from supcon_tf.config import PretrainConfig
from supcon_tf.config.arms import ARMS
from supcon_tf.config.comparison import CompareConfig
from supcon_tf.search.search_directory import SearchDirectory
from supcon_tf.stages.tables import format_table


def print_plan(config: CompareConfig, base: PretrainConfig) -> None:
    """Checks everything, times a few steps of every arm, and prints the cells; writes nothing.

    Args:
        config: the comparison's settings.
        base: the recipe that all arms share.

    Raises:
        UserError: if the comparison could not be run.
    """
    base, dataset = prepare(config, base)
    SearchDirectory(config.comparison_dir, "comparison").check(resume=True)
    rows, total = [], 0.0
    for arm in config.arm_names():
        one = seconds_per_epoch(final_config(base, arm), dataset)
        epochs = base.epochs
        if config.seconds is not None:
            epochs = max(1, int(config.seconds / one))
        tuning = len(trials_of(config, base, arm, epochs))
        share = 1 - base.validation_fraction
        seconds = epochs * one * (config.seeds + tuning * share)
        total += seconds
        counts = [str(tuning), str(config.seeds), str(epochs), f"{one:.2f} s"]
        rows.append([ARMS[arm].title, *counts, f"{seconds / 60:.0f} min"])
    header = ["arm", "tuning cells", "final cells", "epochs", "one epoch", "in all"]
    print(format_table(header, rows))
    print(budget_line(config, base, dataset.train.num_examples))
    print(
        f"about {total / 60:.0f} min of training on this machine, classifiers and scoring not "
        "counted\nnothing written; ready"
    )
