"""All arms and seeds of a feature decoupling study: results, table and figure in its directory."""

import dataclasses
import math
import statistics
import sys
import time
from pathlib import Path

from _decoupling_model import ARMS, DEMONSTRATION
from _decoupling_run import train
from matplotlib.figure import Figure

from supcon_tf.core.errors import UserError
from supcon_tf.core.files import read_json, write_json, writing
from supcon_tf.core.provenance import hardware, resumption
from supcon_tf.stages.pictures import save
from supcon_tf.stages.tables import format_table

MEASURES = {
    "signal_fraction_after_stage_1": "signal fraction after stage 1",
    "signal_fraction": "signal fraction",
    "purity": "purity",
    "coverage_min": "coverage, least",
    "coverage_median": "coverage, median",
    "activity": "activity",
    "output_snr": "output SNR",
    "probe_accuracy": "probe accuracy",
}
# Of the demonstration, for every seed: arm, measure, the side of the bound, the bound.
CLAIMS = (
    ("complementary masks", "signal_fraction_after_stage_1", "above", 0.85),
    ("no augmentation", "signal_fraction_after_stage_1", "below", 0.4),
    ("complementary masks", "signal_fraction", "above", 0.9),
    ("no augmentation", "signal_fraction", "below", 0.65),
    ("complementary masks", "coverage_median", "above", 0.85),
    ("no augmentation", "coverage_median", "below", 0.65),
)


def run_study(name, setting, seeds, study_dir):
    """Trains every arm with every seed that has no result yet, and reports on all of them.

    Args:
        name: of the setting, which the results are kept under.
        setting: the `Setting`.
        seeds: how many, from 0 on.
        study_dir: writes `<name>.json`, `<name>.md` and `<name>.png` there, and a file for each arm
            and seed in `results/<name>/`.

    Returns:
        The content of the JSON file: the setting, every seed's measures, `summary` (mean, least and
        most of each arm), `claims` of the demonstration, and when, with which code and on which
        hardware this call began.

    Raises:
        UserError: if the directory holds results of a different setting of the same name.
    """
    place, origin = Path(study_dir), {**resumption(), "hardware": hardware()}
    runs = _runs(name, setting, seeds, place / "results" / name)
    finals = [{**{key: run[key] for key in ("arm", "seed")}, **run["final"]} for run in runs]
    report = {
        "name": name,
        "setting": dataclasses.asdict(setting),
        "runs": finals,
        "summary": summarize(finals),
        "claims": check_claims(finals) if name == DEMONSTRATION else [],
        **origin,
    }
    write_json(place / f"{name}.json", report)
    with writing(place / f"{name}.md") as temporary:
        temporary.write_text(table(report["summary"]) + "\n")
    draw(runs, setting, place / f"{name}.png")
    return report


def _runs(name, setting, seeds, place):
    """The results of all arms and seeds, seed by seed; those that are there are read."""
    files = {
        (arm, seed): place / f"{arm}, seed {seed}.json" for seed in range(seeds) for arm in ARMS
    }
    left = [key for key, file in files.items() if not _is_finished(file, name, setting)]
    started = time.monotonic()
    for done, (arm, seed) in enumerate(left, 1):
        content = {"setting": dataclasses.asdict(setting), "arm": arm, "seed": seed}
        content |= train(setting, arm, seed)
        write_json(files[arm, seed], content)
        fraction = content["final"]["signal_fraction"]
        seconds = math.ceil((len(left) - done) * (time.monotonic() - started) / done)
        print(
            f"{arm}, seed {seed}: signal fraction {fraction:.3f}; {len(left) - done} of "
            f"{len(files)} left, about {seconds} s",
            file=sys.stderr,
            flush=True,
        )
    return [read_json(file) for file in files.values()]


def _is_finished(file, name, setting):
    if not file.exists():
        return False
    content = read_json(file)
    if not isinstance(content, dict) or not {"setting", "final", "steps", "curves"} <= {*content}:
        raise UserError(f"{file} is damaged. Remove it to train it again.")
    if content["setting"] != dataclasses.asdict(setting):
        raise UserError(
            f"{file.parent} holds results of a different setting {name}. Pass another --study_dir."
        )
    return True


def summarize(finals):
    """By arm and measure, `mean`, `least` and `most` of the seeds; None if one has no value."""
    found = {}
    for arm in dict.fromkeys(one["arm"] for one in finals):
        own = [one for one in finals if one["arm"] == arm]
        found[arm] = {measure: _spread([one[measure] for one in own]) for measure in MEASURES}
    return found


def _spread(values):
    if None in values:
        return None
    return {"mean": statistics.fmean(values), "least": min(values), "most": max(values)}


def check_claims(finals):
    """Whether each of `CLAIMS` held for every seed, with the value nearest to its bound."""
    checked = []
    for arm, measure, side, bound in CLAIMS:
        values = [one[measure] for one in finals if one["arm"] == arm]
        nearest = min(values) if side == "above" else max(values)
        held = nearest > bound if side == "above" else nearest < bound
        words = f"{MEASURES[measure]} of {arm} {side} {bound}"
        checked.append({"claim": words, "nearest": nearest, "held": held})
    return checked


def table(summary):
    """The measures of each arm, one per row: mean over the seeds and range."""
    rows = [[arm, *map(_cell, measures.values())] for arm, measures in summary.items()]
    return format_table(["", *MEASURES.values()], rows)


def _cell(spread):
    if spread is None:
        return "undefined"
    if spread["least"] == spread["most"]:
        return f"{spread['mean']:.3f}"
    return f"{spread['mean']:.3f} ({spread['least']:.3f} to {spread['most']:.3f})"


def draw(runs, setting, path):
    """Draws the measures of the weights over the steps, mean and range over the seeds.

    Args:
        runs: results with `arm`, `steps` and `curves`.
        setting: the `Setting`, whose stages are marked.
        path: PNG file.
    """
    panels = ("signal_fraction", "purity", "coverage_median")
    figure = Figure(figsize=(14, 4), layout="constrained")
    for axis, measure in zip(figure.subplots(1, 3, sharey=True), panels, strict=True):
        for at, arm in enumerate(dict.fromkeys(run["arm"] for run in runs)):
            own = [run for run in runs if run["arm"] == arm]
            values = list(zip(*(run["curves"][measure] for run in own), strict=True))
            steps = own[0]["steps"]
            axis.plot(steps, [statistics.fmean(one) for one in values], color=f"C{at}", label=arm)
            low, high = ([end(one) for one in values] for end in (min, max))
            axis.fill_between(steps, low, high, color=f"C{at}", alpha=0.25, linewidth=0)
        for step in (setting.warmup_steps, setting.warmup_steps + setting.ramp_steps):
            axis.axvline(step, color="gray", linestyle=":")
        axis.set(title=MEASURES[measure], xlabel="step", ylim=(0, 1))
    axis.legend(loc="lower right")
    seeds = len({run["seed"] for run in runs})
    figure.suptitle(f"{seeds} seeds, mean and range; thresholds rise between the dotted lines")
    save(figure, path)
