"""The results of a comparison: report.json, report.md and pictures/."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from supcon_tf.comparison import figures
from supcon_tf.comparison.summary import mean_interval, paired_difference
from supcon_tf.core.files import write_json, writing
from supcon_tf.stages.robustness import relative_scores
from supcon_tf.stages.tables import format_table

# Scores by their key: the title, the factor to show them with, and the decimals.
SCORES = {
    "top1": ("top-1, %", 100, 1),
    "knn_top1": ("k-NN, %", 100, 1),
    "ece": ("calibration error, %", 100, 1),
}
ROBUSTNESS = {
    "mean_error": ("corruption error, %", 100, 1),
    "mean_ece": ("calibration error when corrupted, %", 100, 1),
    "mce": ("mCE", 1, 3),
    "relative_mce": ("relative mCE", 1, 3),
}


def write_report(report: dict, folder: Path) -> dict:
    """Adds the means, intervals and differences to a report, and writes it.

    Args:
        report: with `reference`, and the `runs` of every arm.
        folder: where report.json, report.md and pictures/ go.

    Returns:
        The report: every arm also has `values`, one per seed for each score, and `summary`, their
        `mean_interval`; every arm but the reference has `differences` from it, as from
        `paired_difference`. A score that is undefined for a seed is left out.
    """
    reference = report["arms"][report["reference"]]
    for arm in report["arms"].values():
        arm["values"] = _values(arm["runs"], reference["runs"])
        arm["summary"] = {name: mean_interval(values) for name, values in arm["values"].items()}
    for name, arm in report["arms"].items():
        if name != report["reference"]:
            arm["differences"] = {
                score: paired_difference(values, reference["values"][score])
                for score, values in arm["values"].items()
                if score in reference["values"]
            }
    write_json(folder / "report.json", report)
    with writing(folder / "report.md") as temporary:
        temporary.write_text(report_text(report))
    figures.draw(report, columns(report), folder / "pictures")
    return report


def _values(runs: Sequence[Mapping], references: Sequence[Mapping]) -> dict[str, list[float]]:
    """The values of every seed, by score; mCE relative to the reference's run of the same seed."""
    found = {score: [run["scores"][score] for run in runs] for score in SCORES}
    if "corruptions" not in runs[0]["scores"]:
        return found
    corrupted = [run["scores"]["corruptions"] for run in runs]
    pairs = zip(corrupted, references, strict=True)
    relative = [relative_scores(own, other["scores"]["corruptions"]) for own, other in pairs]
    for score in ROBUSTNESS:
        own = [{**one, **other}[score] for one, other in zip(corrupted, relative, strict=True)]
        if None not in own:
            found[score] = own
    return found


def columns(report: Mapping) -> dict[str, tuple[str, int, int]]:
    """The scores that every arm has."""
    arms = report["arms"].values()
    known = {**SCORES, **ROBUSTNESS}
    return {name: how for name, how in known.items() if all(name in arm["values"] for arm in arms)}


def shown(found: Mapping, factor: float, decimals: int, sign: str = "") -> str:
    """A mean and half of its interval."""
    mean = f"{factor * found['mean']:{sign}.{decimals}f}"
    if found["high"] is None:
        return mean
    return f"{mean} ± {factor * (found['high'] - found['mean']):.{decimals}f}"


def scores_table(report: Mapping) -> str:
    """The scores of every arm, and the time of its training."""
    scores = columns(report)
    rows = [
        [
            arm["title"],
            *(shown(arm["summary"][score], *how) for score, (_, *how) in scores.items()),
            f"{arm['selection']['rate']:g}{'*' * arm['selection']['at_edge']}",
            f"{statistics.fmean(run['seconds'] for run in arm['runs']):.0f} s",
        ]
        for arm in report["arms"].values()
    ]
    titles = [title for title, *_ in scores.values()]
    return format_table(["held-out split", *titles, "learning rate", "training"], rows)


def differences_table(report: Mapping) -> str:
    """Every arm minus the reference, seed by seed."""
    scores = columns(report)
    rows = [
        [
            arm["title"],
            *(shown(arm["differences"][score], *how, "+") for score, (_, *how) in scores.items()),
        ]
        for name, arm in report["arms"].items()
        if name != report["reference"]
    ]
    title = report["arms"][report["reference"]]["title"]
    return format_table([f"minus {title}", *(title for title, *_ in scores.values())], rows)


def report_text(report: Mapping) -> str:
    """The report in Markdown."""
    seeds, data = report["settings"]["seeds"], report["data"]
    spread = "mean ± half of the 95 % interval (Student's t)" if seeds > 1 else "no interval"
    lines = [
        f"# Comparison on {data['name']}",
        "",
        f"{data['train_images']:,} training and {data['test_images']:,} held-out images of "
        f"{data['image_size_px']} pixels. {_sentence(report['budget'])} "
        f"{seeds} {'seeds' if seeds > 1 else 'seed'}, {spread}.",
        "",
        scores_table(report),
        "",
        *_remarks(report["arms"].values()),
        differences_table(report),
        "",
        "![scores](pictures/scores.png)",
        "",
    ]
    return "\n".join(lines)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _remarks(arms: Sequence[Mapping]) -> list[str]:
    tuned = any(arm["selection"]["scores"] for arm in arms)
    edge = any(arm["selection"]["at_edge"] for arm in arms)
    lines = ["Each learning rate is the one that scored best on validation images."] * tuned
    lines += [r"\* The lowest or highest rate tried; one beyond it might be better."] * edge
    return [*lines, ""] if lines else []
