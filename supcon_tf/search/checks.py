"""What a search is checked for before any trial, beside its space."""

import os
import socket

from supcon_tf.config import PretrainConfig
from supcon_tf.config.search import TuneConfig
from supcon_tf.core.errors import UserError
from supcon_tf.data.datasets import from_config
from supcon_tf.data.splits import ImageDataset
from supcon_tf.engine.devices import make_strategy
from supcon_tf.search.space import SearchSpace, configured
from supcon_tf.stages.checks import data_checks, settings_checks

# Keras Tuner's own, for a chief and workers.
ENVIRONMENT = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")


def role_of_process() -> str:
    """Of this process: "chief", "worker", or "alone"."""
    given = {name: os.environ.get(name, "") for name in ENVIRONMENT}
    if not any(name in os.environ for name in ENVIRONMENT):
        return "alone"
    missing = [name for name, value in given.items() if not value]
    if missing:
        raise UserError(f"chief and workers need {missing[0]} too. Set {', '.join(ENVIRONMENT)}.")
    port = given["KERASTUNER_ORACLE_PORT"]
    if not (port.isdecimal() and 0 < int(port) < 2**16):
        raise UserError(f"KERASTUNER_ORACLE_PORT must be a port. Received: {port!r}.")
    if "chief" not in given["KERASTUNER_TUNER_ID"]:
        return "worker"
    address = (given["KERASTUNER_ORACLE_IP"], int(port))
    try:
        with socket.create_server(address):
            return "chief"
    except OSError as error:
        raise UserError(
            f"the chief cannot listen on {':'.join(map(str, address))}: {error.strerror or error}. "
            "Give another KERASTUNER_ORACLE_IP or KERASTUNER_ORACLE_PORT."
        ) from error


def check_base(base: PretrainConfig, config: TuneConfig) -> None:
    """Raises `UserError` unless trials can be scored, each in one process, and stopped in time."""
    if config.grace_epochs is not None and config.grace_epochs > base.epochs:
        raise UserError(
            f"grace_epochs must be at most the {base.epochs} epochs of the recipe. Received: "
            f"{config.grace_epochs}. Lower it."
        )
    if not base.validation_fraction:
        raise UserError(
            "a search scores its trials on a validation set. Received: validation_fraction=0. Pass "
            "--validation_fraction=0.2."
        )
    check_process(base)


def check_process(base: PretrainConfig) -> None:
    """Raises `UserError` unless a trial trains in one process."""
    if base.strategy == "multi_worker" or (base.strategy == "auto" and os.environ.get("TF_CONFIG")):
        raise UserError(
            "each trial trains in one process. Received: strategy='multi_worker', or TF_CONFIG. "
            f"Several machines run several trials: set {', '.join(ENVIRONMENT)}."
        )


def check_size(config: TuneConfig, space: SearchSpace, oracle) -> None:
    """Raises `UserError` unless hyperband finds as many different settings as it begins with."""
    if config.algorithm != "hyperband":
        return
    needed, count = oracle.planned()["settings"], space.count()
    if count < needed:
        raise UserError(
            f"hyperband begins with {needed} different settings; the space has {count}. Received: "
            f"epochs={oracle.max_epochs}, hyperband_factor={oracle.factor}. Use "
            "--algorithm=grid, add values, or raise --grace_epochs."
        )


def check_first(base: PretrainConfig, space: SearchSpace) -> ImageDataset:
    """Opens the data; `UserError` unless the space's first settings can be trained with on it."""
    first = configured(base, space.first())
    try:
        for check in settings_checks(first):
            check()
    except UserError as error:
        shown = ", ".join(f"{name}={value}" for name, value in space.first().items())
        raise UserError(
            f"the space's first values cannot be trained with ({shown}): {error} Add a condition "
            "(when), or begin with another value."
        ) from error
    strategy = make_strategy(first.strategy)
    dataset = from_config(first)
    for check in data_checks(first, dataset, strategy.num_replicas_in_sync):
        check()
    return dataset
