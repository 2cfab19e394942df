"""Results of a search: the best recipe, tables, pictures and the cost."""

import csv
import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supcon_tf.config import PretrainConfig
from supcon_tf.config.flag_files import write_flag_file
from supcon_tf.config.search import OBJECTIVES, TuneConfig
from supcon_tf.core.errors import UserError
from supcon_tf.core.files import write_json, writing
from supcon_tf.search import figures
from supcon_tf.search.objective import keeps_classifier
from supcon_tf.search.results import STATUSES, Result, best_result, rank
from supcon_tf.search.search_directory import SearchDirectory
from supcon_tf.search.space import SearchSpace, configured
from supcon_tf.stages.run_directory import RunDirectory
from supcon_tf.stages.tables import format_table

# Trials in the printed table.
_SHOWN = 10


def write_report(
    place: SearchDirectory, config: TuneConfig, base: PretrainConfig, space: SearchSpace
) -> dict:
    """Writes best.flags, trials.csv, trials.json and the pictures of a search.

    Args:
        place: the search's directory.
        config: the search's settings.
        base: the recipe whose settings were searched.
        space: what was searched.

    Returns:
        `best` (a `Result` as a dict), `base` (the same for the base recipe, or None if it was not
        a trial), `recipe` (path of best.flags), `searched` (names of settings), `trials` (all of
        them), and `cost`, as `cost_of` gives it. trials.json holds the same.

    Raises:
        UserError: if every trial failed.
    """
    results, direction = place.results(), OBJECTIVES[config.objective]
    ranked = sorted(results, key=lambda result: rank(result, direction))
    _write_table(place.path / "trials.csv", ranked, space)
    best = best_result(results, direction)
    report: dict[str, Any] = {
        "objective": config.objective,
        "searched": space.names,
        "cost": cost_of(results),
        "best": best and dataclasses.asdict(best),
        "base": _base_trial(results, space.values_of(base)),
        "recipe": str(place.path / "best.flags"),
        "trials": [dataclasses.asdict(result) for result in ranked],
    }
    write_json(place.path / "trials.json", report)
    if best is None:
        first = results[0].reason if results else "there was none"
        raise UserError(
            f"all {len(results)} trials failed. The first: {first} The others are in {place.path}"
            "/trials.csv; narrow the space, or change the base recipe."
        )
    recipe = configured(base, best.values)
    _write_recipe(place.path / "best.flags", recipe, best, config)
    figures.draw(place.path / "pictures", results, space, config.objective)
    return report


def _base_trial(results, settings):
    """The trial of the base recipe that trained longest, or None."""
    found = [result for result in results if result.values == settings]
    longest = max(found, key=lambda result: result.all_epochs, default=None)
    return longest and dataclasses.asdict(longest)


def cost_of(results) -> dict[str, float]:
    """The cost of trials: `seconds` and `epochs` in all, and how many ended in each way."""
    return {
        "seconds": sum(result.seconds for result in results),
        "epochs": sum(result.epochs for result in results),
        "trials": len(results),
        **{kind: sum(result.status == kind for result in results) for kind in STATUSES},
    }


def _write_table(path: Path, results, space: SearchSpace) -> None:
    names = space.names
    columns = ["trial", "status", "score", "epochs", "all_epochs", "seconds"]
    columns += ["continues", "run", "worker"]
    with writing(path) as temporary, open(temporary, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow([*columns, *names, "reason"])
        for result in results:
            values = [result.values.get(name) for name in names]
            row = [getattr(result, column) for column in columns]
            table.writerow([*row, *values, result.reason])


def _write_recipe(path, recipe: PretrainConfig, best: Result, config: TuneConfig) -> None:
    score = f"{best.score:.6g} after {best.all_epochs} of {recipe.epochs} epochs"
    comments = [
        f"Trial {best.trial} of a {config.algorithm} search: {config.objective} {score}, on the",
        f"validation set ({recipe.validation_fraction:g} of the training images, set aside).",
        f"  supcon-tf pretrain --flagfile={shlex.quote(str(path))} --run_dir=runs/best",
    ]
    write_flag_file(path, recipe, comments)


def search_table(report: Mapping) -> str:
    """The best trials of a search, one per row.

    Args:
        report: `write_report`'s result.
    """
    searched = report["searched"]
    rows = [
        [
            trial["trial"],
            trial["status"],
            "" if trial["score"] is None else f"{trial['score']:.4f}",
            str(trial["all_epochs"]),
            *(_shown(trial["values"].get(name)) for name in searched),
        ]
        for trial in report["trials"][:_SHOWN]
    ]
    return format_table(["trial", "status", report["objective"], "epochs", *searched], rows)


def _shown(value) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def base_line(report: Mapping) -> str:
    """The base recipe's score, in one line."""
    base = report["base"]
    if base is None:
        return "base recipe: not among the trials; it lies outside the space, or was not reached"
    if base["score"] is None:
        return f"base recipe: trial {base['trial']}, failed: {base['reason']}"
    short = "" if base["status"] == "finished" else f" after {base['all_epochs']} epochs"
    score = f"validation {report['objective']} {base['score']:.4f}{short}"
    return f"base recipe: trial {base['trial']}, {score}"


def cost_line(cost: Mapping) -> str:
    """The cost of a search, in one line."""
    kinds = ", ".join(f"{cost[kind]} {kind}" for kind in STATUSES if cost[kind])
    seconds = f"{cost['seconds']:.0f} s of training and scoring"
    return f"cost: {seconds}, {cost['epochs']} epochs, {cost['trials']} trials ({kinds})"


def next_commands(report: Mapping, config: TuneConfig, recipe: PretrainConfig) -> list[str]:
    """The commands that train the best recipe on all training images, then test it once.

    Args:
        report: `write_report`'s result.
        config: the search's settings.
        recipe: the best recipe.
    """
    run = shlex.quote(f"{config.search_dir}/best_run")
    # A recipe that chooses its best epoch by validation images keeps them.
    keeps = recipe.best_metric == "knn_top1"
    whole = "" if keeps else " --validation_fraction=0"
    whole += " --validation_epochs=1" if whole and recipe.validation_epochs > 1 else ""
    recipe_file = shlex.quote(report["recipe"])
    first = f"supcon-tf pretrain --flagfile={recipe_file}{whole} --run_dir={run}"
    last = f"supcon-tf evaluate --run_dir={run}"
    best = SearchDirectory(config.search_dir).run_dir(report["best"]["run"])
    if keeps_classifier(RunDirectory(best)):
        return [first, last]
    return [first, f"supcon-tf classify --run_dir={run}", last]
