"""Trials of a stability study, with their results in its directory; several processes may share it.

The question is that of Khosla et al. 2020, who find SupCon more stable to optimizers and
augmentations than cross entropy (abstract). Here: one change at a time around each recipe, several
seeds, validation images.
"""

import math
import sys
import time

from _stability_file import read_study
from _stability_report import draw, summarize

from supcon_tf.core.errors import UserError
from supcon_tf.core.files import read_json, write_json
from supcon_tf.data.datasets import from_config
from supcon_tf.search.preparation import check_data
from supcon_tf.search.search_directory import SearchDirectory
from supcon_tf.search.trials import Trial, run_trial
from supcon_tf.search.workers import IDLE_SECONDS

# From study.json: how a study was begun.
_ORIGIN = ("started", "git_commit", "versions", "hardware")


def run_study(config):
    """Runs what is left of a study, then compares its recipes.

    Everything is checked before anything is written. A trial runs as in a search: after a kill,
    the next process continues it.

    Args:
        config: a `StabilityConfig`.

    Returns:
        The content of stability.json: `summarize`'s, with `objective`, `seeds`, and when, with
        which code and on which hardware the study was begun.

    Raises:
        UserError: if a setting, the study, the data or the directory cannot be used, or every
            trial of a recipe failed.
    """
    variations = read_study(config.study)
    datasets = _open_data(variations)
    place = SearchDirectory(config.study_dir, "study")
    place.check(config.resume)
    settings = {f"{one.recipe}, {one.label}": one.config.to_dict() for one in variations}
    data = {title: dataset.describe() for title, dataset in datasets.items()}
    content = {"settings": config.to_dict(), "variations": settings, "data": data}
    place.begin(content, config.resume, alone=False)
    trials = _trials(config, variations)
    _run(trials, place)
    found = [(one, trial.base.seed, place.result(name)) for name, (trial, one) in trials.items()]
    report = {
        "objective": config.objective,
        "seeds": config.seeds,
        **summarize(found, config.objective),
        **{name: read_json(place.file).get(name) for name in _ORIGIN},
    }
    write_json(place.path / "stability.json", report)
    draw(report, place.path / "stability.png")
    return report


def _open_data(variations):
    """The data of each recipe, by title; `UserError` unless every variation can train on it."""
    datasets = {}
    for variation in variations:
        if variation.recipe not in datasets:
            datasets[variation.recipe] = from_config(variation.config)
        try:
            check_data(variation.config, datasets[variation.recipe])
        except UserError as error:
            raise UserError(f"{variation.recipe} with {variation.label}: {error}") from error
    return datasets


def _trials(config, variations):
    """Trials and variations by number; seed by seed, so that half a study covers all variations."""
    pairs = [(seed, variation) for seed in range(config.seeds) for variation in variations]
    width, trials = len(str(len(pairs) - 1)), {}
    for number, (seed, variation) in enumerate(pairs):
        name, base = f"{number:0{width}d}", variation.base.replace(seed=seed)
        trials[name] = Trial(name, base, variation.values, config.objective), variation
    return trials


def _run(trials, place):
    """Runs what no other process has run or is running, with a line for each trial."""
    started = time.monotonic()
    for ran, name in enumerate(_left(list(trials), place), 1):
        trial, variation = trials[name]
        result = run_trial(trial, place)
        left = len(trials) - len(place.results())
        score = f"{trial.objective} {result.score:.4f}" if result.score is not None else ""
        # Less if other processes share the work: how many there are is not known.
        minutes = math.ceil(left * (time.monotonic() - started) / ran / 60)
        print(
            f"trial {name} {variation.recipe}, {variation.label}, seed {trial.base.seed}: "
            f"{score or f'failed: {result.reason}'}; {left} of {len(trials)} left, about "
            f"{minutes} min",
            file=sys.stderr,
            flush=True,
        )


def _left(names, place):
    """Yields trials without a result, those that another process runs last, until all have one."""
    while names:
        for name in names:
            if place.result(name) is None and place.enter(name):
                yield name
        names = [name for name in names if place.result(name) is None]
        if names:
            time.sleep(IDLE_SECONDS)
