"""Reports a stability study: the spread of each recipe's scores as tables and a figure."""

import statistics

from _stability_file import ALL, UNCHANGED
from matplotlib.figure import Figure

from supcon_tf.config.search import OBJECTIVES
from supcon_tf.core.errors import UserError
from supcon_tf.stages.pictures import save
from supcon_tf.stages.tables import format_table, percent

_COLUMNS = 3


def summarize(found, objective):
    """Means of variations over the seeds, and the spread of those means.

    Args:
        found: for every trial, its `Variation`, its seed, and its `Result`.
        objective: name of the score.

    Returns:
        `recipes`: title to settings. `trials`: one for each. `variations`: `mean`, `least` and
        `most` over the seeds that did not fail (None if all did). `spread`: for each recipe and
        factor, and for all variations together, `best`, `median`, `worst` and `deviation`
        (standard deviation, None for fewer than two) of the means, the unchanged recipe's included;
        and `failed` trials.

    Raises:
        UserError: if every trial of a recipe failed.
    """
    trials = [
        {
            **{name: getattr(one, name) for name in ("recipe", "label", "values")},
            "seed": seed,
            **{name: getattr(result, name) for name in ("status", "score", "epochs", "seconds")},
            "reason": result.reason,
        }
        for one, seed, result in found
    ]
    recipes = {one.recipe: one.base.to_dict() for one, _, _ in found}
    for title in recipes:
        own = [trial for trial in trials if trial["recipe"] == title]
        if all(trial["score"] is None for trial in own):
            raise UserError(f"all trials of {title} failed. The first: {own[0]['reason']}")
    distinct = {(one.recipe, one.label): one for one, _, _ in found}.values()
    variations = [_over_seeds(one, trials) for one in distinct]
    factors = dict.fromkeys(name for one in variations for name in one["factors"])
    spread = [
        _spread(title, factor, own, objective)
        for factor in [*factors, ALL]
        for title in recipes
        if (own := _of(variations, title, factor))
    ]
    return {"recipes": recipes, "spread": spread, "variations": variations, "trials": trials}


def _over_seeds(variation, trials):
    names = variation.recipe, variation.label
    own = [trial["score"] for trial in trials if (trial["recipe"], trial["label"]) == names]
    scores = [score for score in own if score is not None]
    return {
        "recipe": variation.recipe,
        "label": variation.label,
        "factors": list(variation.factors),
        "mean": statistics.fmean(scores) if scores else None,
        "least": min(scores, default=None),
        "most": max(scores, default=None),
        "failed": len(own) - len(scores),
    }


def _of(variations, title, factor):
    return [
        one
        for one in variations
        if one["recipe"] == title and (factor == ALL or factor in one["factors"])
    ]


def _means(variations):
    return [one["mean"] for one in variations if one["mean"] is not None]


def _spread(title, factor, own, objective):
    means = _means(own)
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


def spread_table(report):
    """The spread of each recipe over each factor, one per row."""
    rows = []
    for row in report["spread"]:
        scores = [_score(row[name], report) for name in ("best", "median", "worst")]
        scores += [_number(row["deviation"], report), str(row["failed"] or "")]
        rows.append([row["factor"], row["recipe"], str(row["variations"]), *scores])
    header = ["changed", "recipe", "variations", "best", "median", "worst", "deviation", "failed"]
    return format_table(header, rows)


def variation_table(report):
    """The mean score of each variation over the seeds and its range, one per row."""
    titles = list(report["recipes"])
    known = {(one["label"], one["recipe"]): one for one in report["variations"]}
    rows = [
        [label, *(_mean_and_range(known.get((label, title)), report) for title in titles)]
        for label in dict.fromkeys(one["label"] for one in report["variations"])
    ]
    return format_table(["change", *titles], rows)


def _mean_and_range(one, report):
    if one is None or one["mean"] is None:
        return "" if one is None else "failed"
    least, most = (_number(one[name], report) for name in ("least", "most"))
    failed = f", {one['failed']} failed" if one["failed"] else ""
    return f"{_score(one['mean'], report)} ({least} to {most}{failed})"


def _score(value, report):
    return _number(value, report) if report["objective"] == "nll" else percent(value)


def _number(value, report):
    """A score or a difference of scores, in nats or in percentage points."""
    if value is None:
        return ""
    return f"{value:.3f}" if report["objective"] == "nll" else f"{100 * value:.1f}"


def draw(report, path):
    """Draws the mean of each variation with its range over the seeds, and the spread of the means.

    Args:
        report: as from `run_study`.
        path: PNG file.
    """
    factors = list(dict.fromkeys(row["factor"] for row in report["spread"]))
    rows = -(-len(factors) // _COLUMNS)
    figure = Figure(figsize=(5 * _COLUMNS, 4.2 * rows), layout="constrained")
    panels = list(figure.subplots(rows, _COLUMNS, squeeze=False, sharey=True).flat)
    for panel, factor in zip(panels, factors, strict=False):
        (_draw_boxes if factor == ALL else _draw_factor)(panel, report, factor)
        panel.tick_params(labelleft=True)
    for panel in panels[len(factors) :]:
        panel.set_visible(False)
    figure.suptitle(f"validation {report['objective']}; {report['seeds']} seeds, mean and range")
    save(figure, path)


def _draw_factor(panel, report, factor):
    labels = [one["label"] for one in report["variations"] if factor in one["factors"]]
    labels = list(dict.fromkeys([UNCHANGED, *labels]))
    for at, title in enumerate(report["recipes"]):
        own = [one for one in _of(report["variations"], title, factor) if one["mean"] is not None]
        if not own:
            continue
        places = [labels.index(one["label"]) + 0.12 * at for one in own]
        # The mean of equal scores may differ from them in the last digit.
        below = [max(0.0, one["mean"] - one["least"]) for one in own]
        above = [max(0.0, one["most"] - one["mean"]) for one in own]
        panel.errorbar(
            places, _means(own), (below, above), fmt="o", capsize=3, color=f"C{at}", label=title
        )
    panel.set_xticks(range(len(labels)), labels, rotation=30, ha="right", fontsize=8)
    panel.set_title(factor)
    if panel.containers:
        panel.legend()


def _draw_boxes(panel, report, factor):
    means = [_means(_of(report["variations"], title, factor)) for title in report["recipes"]]
    panel.boxplot(means, whis=(0, 100), tick_labels=list(report["recipes"]))
    for at, own in enumerate(means, 1):
        panel.plot([at] * len(own), own, "o", color=f"C{at - 1}", alpha=0.5)
    panel.set_title("all variations: quartiles, ends and every mean")
