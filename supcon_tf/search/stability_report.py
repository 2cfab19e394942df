"""What a stability study ends with: the spread of each recipe's scores, a table, a figure."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from supcon_tf.config.search import OBJECTIVES
from supcon_tf.core.errors import UserError
from supcon_tf.search.results import Result
from supcon_tf.search.study import ALL, UNCHANGED, Variation
from supcon_tf.stages.pictures import save
from supcon_tf.stages.tables import format_table, percent

_COLUMNS = 3


def summarized(found: Sequence[tuple[Variation, int, Result]], objective: str) -> dict[str, Any]:
    """Means of variations over the seeds, and the spread of those means.

    Args:
        found: of every trial, its variation, its seed, and what came of it.
        objective: name of the score.

    Returns:
        `recipes`: title to settings. `trials`: one for each. `variations`: `mean`, `least` and
        `most` over the seeds that did not fail (None where all did). `spread`: for each recipe and
        factor, and for all variations together, `best`, `median`, `worst` and `deviation`
        (standard deviation, None of fewer than two) of the means, with the recipe as it is among
        them; `failed` trials.

    Raises:
        UserError: if every trial of a recipe failed.
    """
    trials = [_trial(variation, seed, result) for variation, seed, result in found]
    variations = [_over_seeds(variation, trials) for variation in _distinct(found)]
    recipes = {variation.recipe: variation.base.to_dict() for variation, _, _ in found}
    for title in recipes:
        own = [trial for trial in trials if trial["recipe"] == title]
        if all(trial["score"] is None for trial in own):
            raise UserError(f"all trials of {title} failed. The first: {own[0]['reason']}")
    factors = dict.fromkeys(name for variation in variations for name in variation["factors"])
    spread = [
        _spread(title, factor, variations, objective)
        for factor in [*factors, ALL]
        for title in recipes
        if factor == ALL or any(_is_of(one, title, factor) for one in variations)
    ]
    return {"recipes": recipes, "spread": spread, "variations": variations, "trials": trials}


def _trial(variation, seed, result) -> dict[str, Any]:
    return {
        "recipe": variation.recipe,
        "label": variation.label,
        "values": dict(variation.values),
        "seed": seed,
        "status": result.status,
        "score": result.score,
        "epochs": result.epochs,
        "seconds": result.seconds,
        "reason": result.reason,
    }


def _distinct(found):
    return list({(one.recipe, one.label): one for one, _, _ in found}.values())


def _over_seeds(variation, trials) -> dict[str, Any]:
    own = [
        trial
        for trial in trials
        if (trial["recipe"], trial["label"]) == (variation.recipe, variation.label)
    ]
    scores = [trial["score"] for trial in own if trial["score"] is not None]
    return {
        "recipe": variation.recipe,
        "label": variation.label,
        "factors": list(variation.factors),
        "mean": statistics.fmean(scores) if scores else None,
        "least": min(scores, default=None),
        "most": max(scores, default=None),
        "failed": len(own) - len(scores),
    }


def _is_of(variation, title, factor) -> bool:
    return variation["recipe"] == title and (factor == ALL or factor in variation["factors"])


def _spread(title, factor, variations, objective) -> dict[str, Any]:
    own = [one for one in variations if _is_of(one, title, factor)]
    means = [one["mean"] for one in own if one["mean"] is not None]
    best, worst = (max, min) if OBJECTIVES[objective] == "max" else (min, max)
    return {
        "factor": factor,
        "recipe": title,
        "variations": len(own),
        "best": best(means, default=None),
        "median": statistics.median(means) if means else None,
        "worst": worst(means, default=None),
        "deviation": statistics.stdev(means) if len(means) > 1 else None,
        "failed": sum(one["failed"] for one in own),
    }


def spread_table(report: Mapping[str, Any]) -> str:
    """The spread of each recipe over each factor, one a row.

    Args:
        report: of `stability`.
    """
    rows = []
    for row in report["spread"]:
        scores = [_shown(row[name], report) for name in ("best", "median", "worst")]
        scores += [_number(row["deviation"], report), str(row["failed"] or "")]
        rows.append([row["factor"], row["recipe"], str(row["variations"]), *scores])
    header = ["changed", "recipe", "variations", "best", "median", "worst", "deviation", "failed"]
    return format_table(header, rows)


def variation_table(report: Mapping[str, Any]) -> str:
    """The mean score of each variation over the seeds and its range, one a row.

    Args:
        report: of `stability`.
    """
    titles = list(report["recipes"])
    known = {(one["label"], one["recipe"]): one for one in report["variations"]}
    labels = dict.fromkeys(one["label"] for one in report["variations"])
    rows = [
        [label, *(_mean_and_range(known.get((label, title)), report) for title in titles)]
        for label in labels
    ]
    return format_table(["change", *titles], rows)


def _mean_and_range(one, report) -> str:
    if one is None:
        return ""
    if one["mean"] is None:
        return "failed"
    least, most = (_number(one[name], report) for name in ("least", "most"))
    failed = f", {one['failed']} failed" if one["failed"] else ""
    return f"{_shown(one['mean'], report)} ({least} to {most}{failed})"


def _shown(value, report) -> str:
    """A score with its unit."""
    return _number(value, report) if report["objective"] == "nll" else percent(value)


def _number(value, report) -> str:
    """A score or a difference of scores, in nats or in points of a percentage."""
    if value is None:
        return ""
    return f"{value:.3f}" if report["objective"] == "nll" else f"{100 * value:.1f}"


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Draws the mean of each variation with its range over the seeds, and the spread of the means.

    Args:
        report: of `stability`.
        path: PNG file.
    """
    factors = list(dict.fromkeys(row["factor"] for row in report["spread"]))
    rows = -(-len(factors) // _COLUMNS)
    figure = Figure(figsize=(5 * _COLUMNS, 4.2 * rows), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS, squeeze=False, sharey=True).flat
    for panel, factor in zip(panels, factors, strict=False):
        if factor == ALL:
            _draw_boxes(panel, report)
        else:
            _draw_factor(panel, report, factor)
    for panel in list(panels)[len(factors) :]:
        panel.set_visible(False)
    figure.suptitle(f"validation {report['objective']}; {report['seeds']} seeds, mean and range")
    save(figure, path)


def _draw_factor(panel, report, factor) -> None:
    labels = _labels(report, factor)
    for at, title in enumerate(report["recipes"]):
        own = {one["label"]: one for one in report["variations"] if _is_of(one, title, factor)}
        drawn = [label for label in labels if label in own and own[label]["mean"] is not None]
        if not drawn:
            continue
        means = [own[label]["mean"] for label in drawn]
        # The mean of equal scores may differ from them in the last digit.
        below = [max(0.0, own[label]["mean"] - own[label]["least"]) for label in drawn]
        above = [max(0.0, own[label]["most"] - own[label]["mean"]) for label in drawn]
        places = [labels.index(label) + 0.12 * at for label in drawn]
        color = f"C{at}"
        panel.errorbar(places, means, (below, above), fmt="o", capsize=3, color=color, label=title)
    panel.set_xticks(range(len(labels)), labels, rotation=30, ha="right", fontsize=8)
    panel.set_title(factor)
    panel.tick_params(labelleft=True)
    if panel.containers:
        panel.legend()


def _labels(report, factor) -> list[str]:
    """The changes of a factor in the study's order, the recipe as it is first."""
    labels = [one["label"] for one in report["variations"] if factor in one["factors"]]
    return list(dict.fromkeys([UNCHANGED, *labels]))


def _draw_boxes(panel, report) -> None:
    means = [
        [one["mean"] for one in report["variations"] if _is_of(one, title, ALL)]
        for title in report["recipes"]
    ]
    kept = [[mean for mean in own if mean is not None] for own in means]
    panel.boxplot(kept, whis=(0, 100), tick_labels=list(report["recipes"]))
    for at, own in enumerate(kept, 1):
        panel.plot([at] * len(own), own, "o", color=f"C{at - 1}", alpha=0.5)
    panel.set_title("all variations: quartiles, ends and every mean")
    panel.tick_params(labelleft=True)
