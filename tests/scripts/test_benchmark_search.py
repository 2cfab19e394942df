"""The comparison of search algorithms: its budget, its use of reports, its resumption."""

import io
import json
from pathlib import Path

import pytest

from supcon_tf import PretrainConfig, UserError

BASE = PretrainConfig(validation_fraction=0.2, epochs=9)
SPACE = {"learning_rate": {"range": [0.01, 1.0], "scale": "log"}}


@pytest.fixture(scope="module")
def benchmark(import_script):
    """The script as a module."""
    return import_script("benchmarks/search")


@pytest.fixture
def config(benchmark, tmp_path):
    (tmp_path / "space.json").write_text(json.dumps(SPACE))
    return benchmark.BenchmarkConfig(
        space=str(tmp_path / "space.json"), output_dir=str(tmp_path / "out"), seeds=2
    )


def trial(number, status, score, epochs):
    return {"trial": number, "status": status, "score": score, "epochs": epochs}


def report(scores, base=0.9):
    trials = [trial(str(at), "finished", score, 9) for at, score in enumerate(scores)]
    best = min(trials, key=lambda one: one["score"])
    cost = {"trials": len(trials), "epochs": 9 * len(trials), "seconds": 5.0}
    found = {"objective": "nll", "best": {**best, "values": {}}, "base": {"score": base}}
    return {**found, "cost": cost, "trials": trials[::-1]}


def test_the_best_so_far_counts_trials_that_trained_all_epochs(benchmark):
    trials = [
        trial("10", "finished", 0.3, 6),
        trial("2", "paused", 0.1, 3),
        trial("3", "finished", 0.5, 6),
        trial("4", "failed", None, 1),
        trial("5", "finished", 0.7, 9),
    ]
    found = {"objective": "nll", "trials": trials}
    assert benchmark._best_by_epochs(found) == [(9, 0.5), (19, 0.5), (25, 0.3)]
    found = {"objective": "knn_top1", "trials": trials}
    assert benchmark._best_by_epochs(found) == [(9, 0.5), (19, 0.7), (25, 0.7)]


def test_every_algorithm_spends_what_hyperband_plans(
    benchmark, config, monkeypatch, tmp_path, capsys
):
    asked = []

    def search(config, base, algorithm, seed, epochs, running):
        asked.append((algorithm, seed, epochs))
        return report([0.9, {"random": 0.5, "bayesian": 0.4, "hyperband": 0.3}[algorithm] + seed])

    monkeypatch.setattr(benchmark, "_search", search)
    monkeypatch.setattr("supcon_tf.search.preparation.open_first", lambda base, space: None)
    benchmark.main(config, BASE)
    # Hyperband up to 9 epochs: 9 x 1 + 3 x 2 + 1 x 6, 5 x 3 + 2 x 6, and 3 x 9.
    assert {epochs for _, _, epochs in asked} == {75}
    assert len(asked) == 6
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert [row["scores"] for row in results["algorithms"]] == [[0.5, 0.9], [0.4, 0.9], [0.3, 0.9]]
    rows = [
        [cell.strip() for cell in row.split("|")] for row in capsys.readouterr().out.split("\n")
    ]
    assert rows[2][1:5] == ["random", "0.7000 (0.5000 to 0.9000)", "2 / 2", "18 / 18"]
    assert rows[5][1:3] == ["base recipe", "0.9000 (0.9000 to 0.9000)"]
    assert (tmp_path / "out/best_by_epochs.png").stat().st_size > 5000


class Search:
    """Stands for a process of tune.py that has ended."""

    def __init__(self, stderr, returncode):
        self.stderr, self.returncode = io.StringIO(stderr), returncode

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.mark.parametrize("said", ["", "trial 1 finished\ntrial 2 finished: nll 0.1\n"])
def test_a_search_that_has_ended_is_read_again(said, benchmark, config, monkeypatch, tmp_path):
    started = []

    def start(command, **pipes):
        started.append(command)
        return Search(said, 0)

    monkeypatch.setattr(benchmark.subprocess, "Popen", start)
    folder = tmp_path / "out/random_1"
    folder.mkdir(parents=True)
    (folder / "trials.json").write_text("[1]")
    assert benchmark._search(config, BASE, "random", 1, 50, []) == [1]
    assert Path(started[0][1]).is_file()
    assert {"--seed=1", "--epochs=9", "--max_total_epochs=50", "--resume"} <= set(started[0])


def test_a_search_that_fails_is_named_with_its_reason(benchmark, config, monkeypatch):
    process = Search("one\ntune.py: no disk\n", 2)
    monkeypatch.setattr(benchmark.subprocess, "Popen", lambda *given, **pipes: process)
    with pytest.raises(UserError, match="^the random search of seed 1: tune.py: no disk$"):
        benchmark._search(config, BASE, "random", 1, 50, [])
