"""The table and the figure of a comparison."""

import statistics

from matplotlib.figure import Figure

from supcon_tf.stages.pictures import save
from supcon_tf.stages.tables import format_table


def spread(values, decimals=1):
    """Mean, minimum and maximum of shares, as percentages."""
    values = statistics.fmean(values), min(values), max(values)
    mean, least, most = (f"{100 * value:.{decimals}f}" for value in values)
    return f"{mean} ({least} to {most})"


def table(study, report):
    """Mean, minimum and maximum of each score over the seeds, in percent."""
    header, rows = ["held-out split", *study.scores, "training"], []
    for title, arm in report["arms"].items():
        scores = [spread([run["scores"][name] for run in arm["runs"]]) for name in study.scores]
        seconds = statistics.fmean(run["seconds"] for run in arm["runs"])
        rows.append([title, *scores, f"{seconds:.0f} s"])
    if study.reached:
        curves = [mean_curve(arm["runs"], study.reached) for arm in report["arms"].values()]
        first = next(iter(report["arms"]))
        header.append(f"{study.reached} as {first} at the end")
        for row, curve in zip(rows, curves, strict=True):
            epoch = next((n for n, one in enumerate(curve, 1) if one >= curves[0][-1]), None)
            row.append(f"epoch {epoch}" if epoch else "never")
    if study.gain:
        header.append(" - ".join(study.gain))
        for row, arm in zip(rows, report["arms"].values(), strict=True):
            row.append(spread([_gain(run["history"], study.gain) for run in arm["runs"]], 2))
    return format_table(header, rows)


def _gain(history, curves):
    first, second = (history[name] for name in curves)
    return statistics.fmean(one - other for one, other in zip(first, second, strict=True))


def mean_curve(runs, name):
    """The mean over the seeds in each epoch; [] if there is no such curve."""
    curves = [run["history"][name] for run in runs if name in run["history"]]
    return [statistics.fmean(epoch) for epoch in zip(*curves, strict=True)]


def draw(study, report, path):
    """Scores of every seed by arm, and the curves over the epochs.

    Args:
        study: a `Study`.
        report: as from `run_study`.
        path: the PNG file.
    """
    figure = Figure(figsize=(7 + 5 * len(study.curves), 4), layout="constrained")
    axes = figure.subplots(1, 1 + len(study.curves), squeeze=False)[0]
    figure.suptitle(report["title"])
    for place, arm in enumerate(report["arms"].values()):
        values = [100 * run["scores"][study.scores[0]] for run in arm["runs"]]
        (line,) = axes[0].plot(values, [place] * len(values), "o", alpha=0.6)
        axes[0].plot([statistics.fmean(values)], [place], "|", ms=18, color=line.get_color())
        for number, name in enumerate(study.curves, start=1):
            means = mean_curve(arm["runs"], name)
            axes[number].plot(range(1, len(means) + 1), means, color=line.get_color())
    axes[0].set_yticks(range(len(report["arms"])), list(report["arms"]))
    axes[0].invert_yaxis()
    axes[0].set_xlabel(f"{study.scores[0]} of each seed, held-out split, %")
    for axis, name in zip(axes[1:], study.curves, strict=True):
        axis.set(xlabel="epoch", ylabel=f"{name}, mean of the seeds")
        axis.grid(alpha=0.3)
    save(figure, path)
