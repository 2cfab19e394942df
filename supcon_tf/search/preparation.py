"""The checks of a search before the first trial, except those of its space file."""

from supcon_tf.config import PretrainConfig
from supcon_tf.config.search import TuneConfig
from supcon_tf.config.trials import check_scored
from supcon_tf.core.errors import UserError
from supcon_tf.data.datasets import ImageDataset, from_config
from supcon_tf.engine.devices import make_strategy
from supcon_tf.search.algorithms import make_oracle
from supcon_tf.search.space import SearchSpace, configured
from supcon_tf.search.space_file import read_space
from supcon_tf.stages.checks import data_checks, settings_checks


def prepare(config: TuneConfig, base: PretrainConfig):
    """Reads and checks everything that a search needs except the data.

    Args:
        config: the search's settings.
        base: the recipe whose settings are searched.

    Returns:
        A `SearchSpace`, and the oracle, as `make_oracle` gives it.

    Raises:
        UserError: if a setting or the space cannot be used.
    """
    config.check_base(base)
    space = read_space(config.space, config.algorithm)
    oracle = make_oracle(config, base, space)
    if config.algorithm == "hyperband" and space.count() < oracle.planned().settings:
        raise UserError(
            f"hyperband begins with {oracle.planned().settings} different settings; the space has "
            f"{space.count()}. Received: epochs={oracle.max_epochs}, hyperband_factor="
            f"{oracle.factor}. Use --algorithm=grid, add values, or raise --grace_epochs."
        )
    return space, oracle


def open_first(base: PretrainConfig, space: SearchSpace) -> ImageDataset:
    """Opens the data; `UserError` unless the space's first settings can be used to train on it."""
    first = space.first()
    try:
        config = configured(base, first)
        check_settings(config)
    except UserError as error:
        shown = ", ".join(f"{name}={value}" for name, value in first.items())
        raise UserError(
            f"training with the space's first values is not possible ({shown}): {error} Add a "
            "condition (when), or begin with another value."
        ) from error
    dataset = from_config(config)
    check_scored(dataset.validation is not None)
    if dataset.multi_label:
        raise UserError(
            f"a search needs images of one class each. Received: {dataset.name}, whose images "
            "have several. Give other data."
        )
    check_data(config, dataset)
    return dataset


def check_settings(config: PretrainConfig) -> None:
    """Raises `UserError` unless the settings of a pretraining run are compatible."""
    for check in settings_checks(config):
        check()


def check_data(config: PretrainConfig, dataset: ImageDataset) -> None:
    """Raises `UserError` unless pretraining can run with this data on these devices."""
    replicas = make_strategy(config.strategy).num_replicas_in_sync
    for check in data_checks(config, dataset, replicas):
        check()
