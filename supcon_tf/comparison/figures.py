"""Pictures of a comparison: the scores, the learning rates that were tried, the robustness."""

import statistics
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from supcon_tf.stages.pictures import save


def draw(report: Mapping, scores: Mapping[str, tuple], folder: Path) -> None:
    """Draws scores.png; rates.png if rates were tried; robustness.png if there are corruptions.

    Args:
        report: as from `write_report`.
        scores: by key, the title, and the factor to show the score with.
        folder: where the pictures go.
    """
    _draw_scores(report, scores, folder / "scores.png")
    if any(arm["selection"]["scores"] for arm in report["arms"].values()):
        _draw_rates(report["arms"], folder / "rates.png")
    if "mean_error" in scores:
        _draw_robustness(report["arms"], folder / "robustness.png")


def _draw_scores(report, scores, path):
    """For each score a dot per seed, the mean and its interval."""
    arms = list(report["arms"].values())
    size = (2 + 3.2 * len(scores), 1.2 + 0.4 * len(arms))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    figure.suptitle(report["budget"], fontsize=9)
    for axis, (score, (title, factor, *_)) in zip(axes, scores.items(), strict=True):
        for place, arm in enumerate(arms):
            values = [factor * value for value in arm["values"][score]]
            _draw_row(axis, place, values, arm["summary"][score], factor)
        axis.set_xlabel(title)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(arms)), [arm["title"] for arm in arms])
    axes[0].invert_yaxis()
    save(figure, path)


def _draw_row(axis, place, values, found, factor):
    (dots,) = axis.plot(values, [place] * len(values), "o", alpha=0.4, markersize=4)
    mean = factor * found["mean"]
    half = 0 if found["high"] is None else factor * found["high"] - mean
    axis.errorbar(mean, place, xerr=half, fmt="|", capsize=4, color=dots.get_color())


def _draw_rates(arms, path):
    """The mean validation score by learning rate; the one that was chosen is ringed."""
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axis = figure.subplots()
    for arm in arms.values():
        tried = arm["selection"]["scores"].items()
        points = {
            float(rate): 100 * statistics.fmean(own) for rate, own in tried if None not in own
        }
        (line,) = axis.plot(list(points), list(points.values()), ".-", label=arm["title"])
        best = next(rate for rate in points if f"{rate:g}" == f"{arm['selection']['rate']:g}")
        axis.plot(best, points[best], "o", fillstyle="none", ms=9, color=line.get_color())
    axis.set(xscale="log", xlabel="learning rate", ylabel="validation top-1, %")
    rates = sorted({float(rate) for arm in arms.values() for rate in arm["selection"]["scores"]})
    axis.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axis.set_xticks([], minor=True)
    axis.legend(fontsize=7)
    save(figure, path)


def _draw_robustness(arms, path):
    """Accuracy and calibration by severity, the mean over all corruptions and seeds."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    for arm in arms.values():
        runs = [run["scores"]["corruptions"] for run in arm["runs"]]
        for axis, kind in zip(axes, ("error", "ece"), strict=True):
            clean = [run["clean"][kind] for run in runs]
            cells = [list(one[kind]) for run in runs for one in run["by_corruption"].values()]
            means = [statistics.fmean(level) for level in (clean, *zip(*cells, strict=True))]
            shares = [100 * (1 - mean if kind == "error" else mean) for mean in means]
            axis.plot(shares, ".-", label=arm["title"])
    for axis, label in zip(axes, ("images right, %", "calibration error, %"), strict=True):
        axis.set(xlabel="severity (0: clean images)", ylabel=label)
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=7)
    save(figure, path)
