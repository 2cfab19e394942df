"""The stability study: what each change to a recipe does to its score, over several seeds."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from supcon_tf.config import PretrainConfig
from supcon_tf.config.search import StabilityConfig
from supcon_tf.core.errors import UserError
from supcon_tf.core.files import read_json, write_json
from supcon_tf.data.datasets import from_config
from supcon_tf.data.splits import ImageDataset
from supcon_tf.engine.devices import make_strategy
from supcon_tf.search.directory import SearchDirectory
from supcon_tf.search.running import IDLE_SECONDS, Trial, run_trial
from supcon_tf.search.space import configured
from supcon_tf.search.stability_report import draw, summarized
from supcon_tf.search.study import Variation, read_study
from supcon_tf.stages.checks import data_checks

# What its file says of how a study was begun.
_ORIGIN = ("started", "git_commit", "versions", "hardware")


def stability(config: StabilityConfig, read_recipe: Callable[[Path], PretrainConfig]) -> dict:
    """Trains every variation of a study with every seed, and compares the recipes' spreads.

    The study, its recipes and the data are checked before anything is written. A trial is one of a
    search: an ordinary pretraining, scored on its validation set, which a killed process's
    successor continues. Several processes may share the work, on one machine or several.

    Args:
        config: the study's settings.
        read_recipe: from a recipe's file to its settings.

    Returns:
        What it writes to `study_dir`/stability.json: as `summarized` gives it, with `objective`,
        `seeds`, and when, with which code and on which hardware it was begun. stability.png is
        the figure.

    Raises:
        UserError: if a setting, the study, the data or the directory cannot be used, or every
            trial of a recipe failed.

    Reference:
        Khosla et al. 2020, who find SupCon more stable to optimizers and augmentations than cross
        entropy (abstract). Here: one change at a time around each recipe, several seeds,
        validation images.
    """
    variations = read_study(config.study, read_recipe)
    datasets = _open_data(variations)
    place = SearchDirectory(config.study_dir, "study")
    place.check(config.resume)
    trials = _trials(config, variations)
    place.begin(_described(config, variations, datasets), config.resume, alone=False)
    _run(trials, place)
    found = [
        (variation, trial.base.seed, place.result(name))
        for name, (trial, variation) in trials.items()
    ]
    report = {
        "objective": config.objective,
        "seeds": config.seeds,
        **summarized(found, config.objective),
        **{name: read_json(place.file).get(name) for name in _ORIGIN},
    }
    write_json(place.path / "stability.json", report)
    draw(report, place.path / "stability.png")
    return report


def _open_data(variations: Sequence[Variation]) -> dict[str, ImageDataset]:
    """The data of each recipe; `UserError` unless every variation can be trained on it."""
    datasets: dict[str, ImageDataset] = {}
    for variation in variations:
        config = configured(variation.base, variation.values)
        if variation.recipe not in datasets:
            datasets[variation.recipe] = from_config(config)
        strategy = make_strategy(config.strategy)
        for check in data_checks(config, datasets[variation.recipe], strategy.num_replicas_in_sync):
            try:
                check()
            except UserError as error:
                raise UserError(f"{variation.recipe} with {variation.label}: {error}") from error
    return datasets


def _trials(config, variations) -> dict[str, tuple[Trial, Variation]]:
    """All trials by number; seed by seed, so that an interrupted study says something of all."""
    pairs = [(seed, variation) for seed in range(config.seeds) for variation in variations]
    width = len(str(len(pairs) - 1))
    trials = {}
    for number, (seed, variation) in enumerate(pairs):
        name, base = f"{number:0{width}d}", variation.base.replace(seed=seed)
        trials[name] = Trial(name, base, variation.values, config.objective, worker=""), variation
    return trials


def _described(config, variations, datasets) -> dict[str, dict]:
    """What makes a study the same study, as JSON gives it back."""
    named = {}
    for variation in variations:
        settings = configured(variation.base, variation.values).to_dict()
        named[f"{variation.recipe}, {variation.label}"] = settings
    data = {title: dataset.describe() for title, dataset in datasets.items()}
    content = {"settings": config.to_dict(), "variations": named, "data": data}
    return json.loads(json.dumps(content))


def _run(trials: Mapping[str, tuple[Trial, Variation]], place: SearchDirectory) -> None:
    """Runs what no other process has run or is running, with a line for each trial."""
    started = time.monotonic()
    for ran, number in enumerate(_left(list(trials), place), 1):
        trial, variation = trials[number]
        result = run_trial(trial, place)
        left = len(trials) - len(place.results())
        name = trial.objective
        said = f"failed: {result.reason}" if result.score is None else f"{name} {result.score:.4f}"
        # Less where other processes share the work: how many there are is not known.
        minutes = math.ceil(left * (time.monotonic() - started) / ran / 60)
        print(
            f"trial {number} {variation.recipe}, {variation.label}, seed {trial.base.seed}: "
            f"{said}; {left} of {len(trials)} left, about {minutes} min",
            file=sys.stderr,
            flush=True,
        )


def _left(names: Sequence[str], place: SearchDirectory) -> Iterator[str]:
    """Trials without a result, those that another process is in last; until all have one."""
    while names:
        for name in names:
            if place.result(name) is None and place.enter(name):
                yield name
        names = [name for name in names if place.result(name) is None]
        if names:
            time.sleep(IDLE_SECONDS)
