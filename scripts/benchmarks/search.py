r"""Compares the algorithms of the search at equal cost: as many epochs as hyperband takes.

    python scripts/benchmarks/search.py --recipe=digits --epochs=20 \
        --validation_fraction=0.2 --space=digits \
        --output_dir=runs/benchmark_search

Each algorithm searches with each seed, --jobs of them at a time. Prints a table of the best
validation scores and writes results.json and best_by_epochs.png. All flags of pretrain.py are
accepted too. Started again with the same command, it continues.
"""

import concurrent.futures
import dataclasses
import json
import statistics
import subprocess
import sys
from pathlib import Path

from _contestants import hardware, open_output

from supcon_tf.cli import flags
from supcon_tf.config import PretrainConfig
from supcon_tf.config.flag_files import flags_of
from supcon_tf.config.search import OBJECTIVES, PLACEMENT, TuneConfig
from supcon_tf.config.settings import Config, setting
from supcon_tf.core.errors import UserError

_TUNE = Path(__file__).parents[1] / "tune.py"
_ALGORITHMS = ("random", "bayesian", "hyperband")
# More than the epochs allow, so that these end the search.
_MANY = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Config):
    """Settings of the comparison."""

    space: str = setting("", "JSON file: the settings to search, and their values.")
    objective: str = setting("nll", "Score on the validation set.", choices=tuple(OBJECTIVES))
    seeds: int = setting(3, "Number of seeds, counted from 0.", at_least=1, at_most=100)
    jobs: int = setting(2, "Searches at a time.", at_least=1, at_most=64)
    output_dir: str = setting("runs/benchmark_search", "Where searches and results are written.")


def _planned_epochs(config, base):
    """The epochs that hyperband trains in all; checks the space, the settings and the data."""
    from supcon_tf.search.preparation import open_first, prepare

    search = TuneConfig(space=config.space, algorithm="hyperband", objective=config.objective)
    space, oracle = prepare(search, base)
    open_first(base, space)
    return oracle.planned().epochs


def _search(config, base, algorithm, seed, epochs, running):
    """Runs one search in a process of its own, noted in `running`; returns its report."""
    folder = Path(config.output_dir) / f"{algorithm}_{seed}"
    own = {
        "space": config.space,
        "objective": config.objective,
        "algorithm": algorithm,
        "max_total_epochs": epochs,
        "max_trials": _MANY,
        "search_dir": folder,
    }
    flags = [*flags_of(base.replace(seed=seed)), *(f"--{name}={own[name]}" for name in own)]
    command = [sys.executable, str(_TUNE), *flags, "--resume"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as search:
        running.append(search)
        *_, last = ["nothing was left to do", *search.stderr]
    if search.returncode:
        raise UserError(f"the {algorithm} search of seed {seed}: {last.strip()}")
    print(f"{algorithm}, seed {seed}: {last.strip()}", file=sys.stderr, flush=True)
    return json.loads((folder / "trials.json").read_text())


def _best_by_epochs(report):
    """After each trial that trained all its epochs: epochs spent so far, best score so far."""
    better = min if OBJECTIVES[report["objective"]] == "min" else max
    spent, best, curve = 0, None, []
    for trial in sorted(report["trials"], key=lambda trial: int(trial["trial"])):
        spent += trial["epochs"]
        if trial["status"] == "finished":
            best = trial["score"] if best is None else better(best, trial["score"])
            curve.append((spent, best))
    return curve


def _summary(algorithm, reports):
    scores = [report["best"]["score"] for report in reports]
    return {
        "algorithm": algorithm,
        "scores": scores,
        "mean": statistics.fmean(scores),
        "costs": [report["cost"] for report in reports],
        "best_by_epochs": [_best_by_epochs(report) for report in reports],
        "best": [report["best"]["values"] for report in reports],
    }


def _table(results, objective):
    from supcon_tf.stages.tables import format_table

    rows = []
    for row in results["algorithms"]:
        scores, costs = row["scores"], row["costs"]
        trials, epochs, seconds = (
            " / ".join(f"{cost[name]:.0f}" for cost in costs)
            for name in ("trials", "epochs", "seconds")
        )
        shown = f"{row['mean']:.4f} ({min(scores):.4f} to {max(scores):.4f})"
        rows.append([row["algorithm"], shown, trials, epochs, seconds])
    base = [score for score in results["base"] if score is not None]
    if base:
        shown = f"{statistics.fmean(base):.4f} ({min(base):.4f} to {max(base):.4f})"
        rows.append(["base recipe", shown, "", "", ""])
    return format_table(["", f"validation {objective}", "trials", "epochs", "seconds"], rows)


def _draw(results, objective, path):
    from matplotlib.figure import Figure

    from supcon_tf.stages.pictures import save

    figure = Figure(figsize=(8, 5), layout="constrained")
    axis = figure.subplots()
    for at, row in enumerate(results["algorithms"]):
        label = {"label": row["algorithm"]}
        for curve in filter(None, row["best_by_epochs"]):
            spent, best = zip(*curve, strict=True)
            axis.step(spent, best, where="post", color=f"C{at}", alpha=0.8, **label)
            axis.plot(spent[-1], best[-1], "o", color=f"C{at}")
            label = {}
    axis.set(xlabel="epochs trained in all", ylabel=f"best validation {objective} so far")
    axis.set_title("a line for each seed")
    axis.legend()
    save(figure, path)


def main(config, base):
    """Runs what is left of the searches, then compares them."""
    from supcon_tf.core.files import write_json

    if not config.space:
        raise UserError("no search space given. Pass --space=FILE.json.")
    epochs = _planned_epochs(config, base)
    folder = open_output(config.output_dir)
    seeds, running = range(config.seeds), []
    with concurrent.futures.ThreadPoolExecutor(config.jobs) as pool:
        jobs = {
            (algorithm, seed): pool.submit(_search, config, base, algorithm, seed, epochs, running)
            for seed in seeds
            for algorithm in _ALGORITHMS
        }
        try:
            reports = {key: job.result() for key, job in jobs.items()}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for search in running:
                search.terminate()  # Each keeps what is finished.
            raise
    found = [[reports[algorithm, seed] for seed in seeds] for algorithm in _ALGORITHMS]
    results = {
        "objective": config.objective,
        "planned_epochs": epochs,
        "hardware": hardware(),
        "base": [report["base"] and report["base"]["score"] for report in found[0]],
        "algorithms": [
            _summary(algorithm, own) for algorithm, own in zip(_ALGORITHMS, found, strict=True)
        ],
    }
    write_json(folder / "results.json", results)
    _draw(results, config.objective, folder / "best_by_epochs.png")
    print(_table(results, config.objective))


if __name__ == "__main__":
    flags.run(
        main,
        BenchmarkConfig,
        __doc__,
        base=PretrainConfig,
        base_without=(*PLACEMENT, "seed"),
    )
