"""The oracle of each algorithm, from the settings of a search."""

from pathlib import Path

from keras_tuner import Objective

from supcon_tf.config import PretrainConfig
from supcon_tf.config.search import OBJECTIVES, TuneConfig
from supcon_tf.search.oracles import Bayesian, Grid, Hyperband, Random
from supcon_tf.search.space import SearchSpace

_MAX_TRIALS, _FACTOR, _ITERATIONS = 20, 3, 1


def grace_epochs(config: TuneConfig, epochs: int) -> int:
    """The epochs before a trial may be stopped: as given, or a tenth of its epochs, at least 1."""
    return config.grace_epochs or max(1, epochs // 10)


def make_oracle(config: TuneConfig, base: PretrainConfig, space: SearchSpace):
    """The oracle of a search; set its `budget` before the search.

    Args:
        config: the search's settings.
        base: the base recipe, the first trial if it lies in the space; its seed draws the
            proposals, and its epochs are hyperband's longest.
        space: what is searched.
    """
    known = space.values_of(base)
    settings = {
        "objective": Objective(config.objective, OBJECTIVES[config.objective]),
        "hyperparameters": space.hyperparameters,
        "seed": base.seed + 1,  # Keras Tuner takes 0 for no seed.
        "file": Path(config.search_dir) / "oracle" / "oracle.json",
        "first_values": known and space.encoded(known),
        "max_trials": config.max_trials,
    }
    if config.algorithm == "grid":
        return Grid(**settings)
    if config.algorithm == "hyperband":
        return Hyperband(
            shortest=min(base.epochs, grace_epochs(config, base.epochs)),
            max_epochs=base.epochs,
            factor=config.hyperband_factor or _FACTOR,
            hyperband_iterations=config.hyperband_iterations or _ITERATIONS,
            **settings,
        )
    settings["max_trials"] = trials = config.max_trials or _MAX_TRIALS
    if config.algorithm == "random":
        return Random(**settings)
    # Keras Tuner's own number of random trials, but a third of all at most: otherwise, of 20 trials
    # with six parameters, only two would use what was learned.
    if config.max_total_epochs is not None:
        trials = min(trials, config.max_total_epochs // base.epochs)
    first = min(3 * len(space.names), trials // 3)
    return Bayesian(num_initial_points=max(3, first), **settings)
