"""Recipes whose training runs are trials, of a search or of a comparison's learning rates."""

import os

from supcon_tf.config.training import PretrainConfig
from supcon_tf.core.errors import UserError

# Variables of processes that search together: the name of each, and where the chief listens.
ENVIRONMENT = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")


def check_trials(recipe: PretrainConfig) -> None:
    """Raises `UserError` unless trials of a recipe can be scored, each in one process."""
    check_scored(recipe.may_have_validation())
    several = recipe.strategy == "auto" and os.environ.get("TF_CONFIG")
    if recipe.strategy == "multi_worker" or several:
        raise UserError(
            "each trial trains in one process. Received: strategy='multi_worker', or TF_CONFIG. "
            f"Several machines run several trials: set {', '.join(ENVIRONMENT)}."
        )


def check_scored(has_validation: bool) -> None:
    """Raises `UserError` unless there are validation images."""
    if not has_validation:
        raise UserError(
            "runs are compared on a validation set. Received: validation_fraction=0. Pass "
            "--validation_fraction=0.2."
        )
