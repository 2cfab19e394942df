"""The search: what is proposed, kept, resumed and reported. Most trials here are not trained."""

import dataclasses
import errno
import json
import math
import os
import shlex
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from sklearn.exceptions import ConvergenceWarning

from supcon_tf import PretrainConfig, TuneConfig, UserError, tune
from supcon_tf.errors import StorageError
from supcon_tf.runs import RunDirectory
from supcon_tf.search import pictures, running, tuning
from supcon_tf.search.directory import SearchDirectory
from supcon_tf.search.report import base_line, flags_of, next_commands
from supcon_tf.search.results import Result, best_result, is_hopeless

# Keras Tuner 1.4.8 asks for the thread's name like that, at each call of an oracle.
pytestmark = pytest.mark.filterwarnings(
    "ignore:currentThread\\(\\) is deprecated:DeprecationWarning",
    "ignore:getName\\(\\) is deprecated:DeprecationWarning",
)

BASE = PretrainConfig(validation_fraction=0.2, epochs=9)
SPACE = {
    "learning_rate": {"range": [0.01, 1.0], "scale": "log"},
    "optimizer": {"choices": ["sgd", "adamw"]},
    "nesterov": {"choices": [False, True], "when": {"optimizer": ["sgd"]}},
}
GRID = {**SPACE, "learning_rate": {"choices": [0.01, 0.1, 1.0]}}
ALGORITHMS = ("random", "bayesian", "hyperband", "grid")


class Data:
    """Stands for the data set."""

    def describe(self):
        return {"name": "digits"}


class Training:
    """Stands for `pretrain`: an epoch is a line of a file; a rate near 0.1 is best.

    Attributes:
        began: run directories in the order of the calls.
        failing: from a configuration to an error that its training raises, or None.
    """

    def __init__(self):
        self.began = []
        self.failing = lambda config: None

    def pretrain(self, config, *, stop_when=None, maps=True):
        assert config.resume
        assert not maps
        self.began.append(config.run_dir)
        error = self.failing(config)
        if error is not None:
            raise error
        history = self.history(RunDirectory(config.run_dir))
        history = history or {"loss": [], "knn_top1": [], "seconds": []}
        best = 1 - abs(math.log10(config.learning_rate) + 1) / 4 - 0.05 * config.nesterov
        while len(history["loss"]) < config.epochs:
            if history["loss"] and stop_when and stop_when(history):
                break
            history["knn_top1"].append(best * (1 - 0.5 ** (1 + len(history["loss"]))))
            history["loss"].append(1.0)
            history["seconds"].append(2.0)
            self.file(config.run_dir).parent.mkdir(parents=True, exist_ok=True)
            self.file(config.run_dir).write_text(json.dumps(history))
        return {}

    def file(self, run_dir):
        return RunDirectory(run_dir).path / "history.json"

    def history(self, run):
        file = self.file(str(run.path))
        return json.loads(file.read_text()) if file.exists() else {}

    def score(self, run, objective):
        score = self.history(run)["knn_top1"][-1]
        return -math.log(score) if objective == "nll" else score


@pytest.fixture
def training(monkeypatch):
    stand_in = Training()
    monkeypatch.setattr(running, "pretrain", stand_in.pretrain)
    monkeypatch.setattr(running, "_history", stand_in.history)
    monkeypatch.setattr(running, "validation_score", stand_in.score)
    monkeypatch.setattr(tuning, "check_first", lambda base, space: Data())
    monkeypatch.setattr(running, "_free_memory", lambda: None)
    stand_in.draw = pictures.draw
    monkeypatch.setattr(pictures, "draw", lambda *arguments: None)
    return stand_in


def search_config(folder, algorithm="random", space=None, **changes):
    space = space or (GRID if algorithm == "grid" else SPACE)
    file = folder.parent / f"{folder.name}.json"
    file.write_text(json.dumps(space))
    if algorithm in ("random", "bayesian"):
        # Each proposal of the Gaussian process takes seconds; the first three are random.
        changes = {"max_trials": 5 if algorithm == "bayesian" else 7, **changes}
    if algorithm == "hyperband":
        changes = {"grace_epochs": 3, **changes}
    return TuneConfig(
        space=str(file), search_dir=str(folder), algorithm=algorithm, resume=True, **changes
    )


def outcome(folder):
    return [
        (result.trial, result.status, result.values, result.score, result.epochs, result.run)
        for result in SearchDirectory(str(folder)).results()
    ]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_finds_the_better_settings(algorithm, training, tmp_path):
    folder = tmp_path / "search"
    report = tune(search_config(folder, algorithm), BASE)
    finished = [trial for trial in report["trials"] if trial["status"] == "finished"]
    assert report["best"] == max(finished, key=lambda trial: trial["score"])
    assert report["best"]["all_epochs"] == 9
    assert abs(math.log10(report["best"]["values"]["learning_rate"]) + 1) < 0.6
    settings = [json.dumps(trial["values"]) for trial in report["trials"] if not trial["continues"]]
    assert len(settings) == len(set(settings))
    for trial in report["trials"]:
        assert ("nesterov" in trial["values"]) == (trial["values"]["optimizer"] == "sgd")
        assert 0.01 <= trial["values"]["learning_rate"] <= 1
    assert report["cost"]["epochs"] == sum(trial["epochs"] for trial in report["trials"])
    assert (
        report["cost"]["trials"]
        == {"grid": 9, "hyperband": 10, "random": 7, "bayesian": 5}[algorithm]
    )


def test_a_search_ends_with_recipe_tables_and_pictures(training, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pictures, "draw", training.draw)
    folder = tmp_path / "search"
    report = tune(search_config(folder, "grid", prune=False), BASE.replace(momentum=0.8))
    recipe = (folder / "best.flags").read_text()
    assert "Trial 0003 of a grid search: knn_top1 " in recipe
    flags = [line for line in recipe.splitlines() if not line.startswith("#")]
    assert sorted(flags) == [
        "--epochs=9",
        "--learning_rate=0.1",
        "--momentum=0.8",
        "--validation_fraction=0.2",
    ]
    rows = (folder / "trials.csv").read_text().splitlines()
    assert rows[0].startswith("trial,status,score,epochs")
    assert rows[0].endswith("continues,run,worker,learning_rate,optimizer,nesterov,reason")
    assert len(rows) == 10
    assert json.loads((folder / "trials.json").read_text()) == json.loads(json.dumps(report))
    for name in ("parallel_coordinates", "importance"):
        assert (folder / f"pictures/{name}.png").stat().st_size > 5000
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 9
    assert lines[0].startswith("trial 0000 finished: knn_top1 ")
    assert "(best " in lines[0]
    assert "9 epochs in 18 s; 1 of 9 trials, about 2 min left" in lines[0]
    assert lines[-1].endswith("; 9 of 9 trials")


def test_importance_is_not_drawn_of_few_trials(training, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "draw", training.draw)
    tune(search_config(tmp_path / "search", max_trials=7), BASE)
    names = {path.name for path in (tmp_path / "search/pictures").iterdir()}
    assert names == {"parallel_coordinates.png"}


def test_a_lower_loss_wins(training, tmp_path):
    report = tune(search_config(tmp_path / "search", "grid", objective="nll"), BASE)
    finished = [trial for trial in report["trials"] if trial["status"] == "finished"]
    assert report["best"]["score"] == min(trial["score"] for trial in finished)
    assert report["best"]["values"]["learning_rate"] == 0.1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_base_recipe_is_compared_where_it_lies_in_the_space(algorithm, training, tmp_path):
    base = BASE.replace(learning_rate=0.01, nesterov=True)
    report = tune(search_config(tmp_path / "search", algorithm), base)
    own = {"learning_rate": 0.01, "optimizer": "sgd", "nesterov": True}
    assert report["base"]["values"] == own
    if algorithm != "grid":
        assert int(report["base"]["trial"]) == 0
    assert report["best"]["score"] > report["base"]["score"]
    assert base_line(report).startswith(f"base recipe: trial {report['base']['trial']}, validation")
    assert sum(trial["values"] == own for trial in report["trials"]) == 1


@pytest.mark.parametrize("outside", [{"learning_rate": 3.0}, {"optimizer": "lars"}])
def test_a_base_recipe_outside_the_space_is_no_trial(outside, training, tmp_path):
    report = tune(search_config(tmp_path / "search"), BASE.replace(**outside))
    assert report["base"] is None
    assert base_line(report).startswith("base recipe: not among the trials; it lies outside")


def test_another_seed_proposes_other_settings_and_the_same_one_the_same(training, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        tune(search_config(tmp_path / name), BASE.replace(seed=seed))
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b") != outcome(tmp_path / "c")


class Killed(BaseException):
    """What no handler catches."""


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_search_killed_at_any_write_and_resumed_ends_like_one_that_never_was(
    algorithm, training, tmp_path, monkeypatch
):
    """Kills before or after each file gets its name: nothing is lost, repeated, or different."""
    tune(search_config(tmp_path / "whole", algorithm), BASE)
    expected, replace = outcome(tmp_path / "whole"), os.replace
    for place in range(1, 60, 3 if algorithm != "bayesian" else 8):
        writes = iter(range(10**6))

        def deadly(source, target, writes=writes, place=place):
            at = next(writes)
            if at == place and at % 2:
                raise Killed
            replace(source, target)
            if at == place:
                raise Killed

        folder = tmp_path / str(place)
        with monkeypatch.context() as patch:
            patch.setattr("supcon_tf.files.os.replace", deadly)
            try:
                tune(search_config(folder, algorithm), BASE)
                break
            except Killed:
                before = SearchDirectory(str(folder)).results()
        training.began.clear()
        tune(search_config(folder, algorithm), BASE)
        assert outcome(folder) == expected
        ended = {result.run for result in before if result.status == "finished"}
        assert not ended & {Path(run_dir).name for run_dir in training.began}
    assert place > 10


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_failing_trial_is_recorded_and_the_search_goes_on(algorithm, training, tmp_path, capsys):
    """Also more of them in a row than Keras Tuner would stand."""
    training.failing = lambda config: (
        RuntimeError("no\n  memory") if config.optimizer == "adamw" else None
    )
    report = tune(search_config(tmp_path / "search", algorithm), BASE)
    failed = [trial for trial in report["trials"] if trial["status"] == "failed"]
    assert len(failed) == report["cost"]["failed"] > 0
    assert {trial["reason"] for trial in failed} == {"no memory"}
    assert {trial["score"] for trial in failed} == {None}
    assert all(trial["values"]["optimizer"] == "adamw" for trial in failed)
    assert report["best"]["status"] == "finished"
    printed = capsys.readouterr()
    assert "failed: no memory; 0 epochs" in printed.err
    assert "Traceback" not in printed.err + printed.out
    assert "Traceback" in (tmp_path / f"search/results/{failed[0]['trial']}.log").read_text()


def test_a_search_of_failures_says_so(training, tmp_path):
    training.failing = lambda config: UserError("the loss is nan.")
    with pytest.raises(UserError, match="all 4 trials failed. The first: the loss is nan."):
        tune(search_config(tmp_path / "search", max_trials=4), BASE)
    assert len((tmp_path / "search/trials.csv").read_text().splitlines()) == 5


def test_a_trial_that_its_process_does_not_survive_fails(training, tmp_path):
    """As where the system kills what takes too much memory; nobody is left to record it."""
    config = search_config(tmp_path / "search", max_trials=2)
    training.failing = lambda settings: KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        tune(config, BASE)
    place, counted = SearchDirectory(config.search_dir), tmp_path / "search/results/0.begun"
    assert not counted.exists()
    for kills in range(3):
        with place.counting_kills("0", 0) as before:
            assert before == kills
            text = counted.read_text()
        counted.write_text(text)  # A killed process does not come to removing it.
    training.failing = lambda settings: None
    trials = {trial["trial"]: trial for trial in tune(config, BASE)["trials"]}
    assert trials["0"]["status"] == "failed"
    assert trials["0"]["reason"].startswith("its process was killed 3 times without another epoch")
    assert trials["1"]["status"] == "finished"


def test_what_a_failed_trial_trained_is_counted_once(training, tmp_path):
    """Hyperband may choose a failed trial to go on, where all others failed too."""

    def failing(config):
        error = RuntimeError("lost")
        history = {name: [0.5] * 3 for name in ("loss", "knn_top1", "seconds")}
        training.file(config.run_dir).parent.mkdir(parents=True, exist_ok=True)
        training.file(config.run_dir).write_text(json.dumps(history))
        return error if config.optimizer == "adamw" else None

    training.failing = failing
    report = tune(search_config(tmp_path / "search", "hyperband"), BASE)
    for run in {trial["run"] for trial in report["trials"] if trial["status"] == "failed"}:
        own = [trial for trial in report["trials"] if trial["run"] == run]
        assert sum(trial["epochs"] for trial in own) == 3
        assert {trial["all_epochs"] for trial in own} == {3}


def _damage(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("oracle/oracle.json", {"trials": None}),
        ("oracle/oracle.json", {"trials": {}}),
        ("results/1.json", {"score": "abc"}),
        ("results/1.json", {"score": None}),
        ("results/1.json", {"score": math.inf}),
        ("results/1.json", {"status": "lost"}),
        ("results/1.json", {"trial": "99"}),
        ("results/1.json", {"values": None}),
        ("results/1.json", {"epochs": "3"}),
        ("results/1.json", {"more": 1}),
        ("search.json", {"settings": 3}),
    ],
)
def test_damage_is_named(name, changes, training, tmp_path):
    config = search_config(tmp_path / "search", max_trials=2)
    tune(config, BASE)
    report = (tmp_path / "search/trials.json").read_bytes()
    _damage(tmp_path / "search" / name, **changes)
    with pytest.raises(UserError, match=f"{name} is damaged. Give another --search_dir"):
        tune(config.replace(max_trials=3), BASE)
    assert (tmp_path / "search/trials.json").read_bytes() == report


def test_a_result_that_was_removed_is_missed(training, tmp_path):
    config = search_config(tmp_path / "search", max_trials=2)
    tune(config, BASE)
    (tmp_path / "search/results/1 copy.json").write_text("{}")
    assert tune(config, BASE)["cost"]["trials"] == 2
    (tmp_path / "search/results/1.json").unlink()
    with pytest.raises(UserError, match="results/1.json is not there"):
        tune(config, BASE)


def test_damaged_checkpoints_begin_the_trial_anew(training, tmp_path):
    config = search_config(tmp_path / "search", max_trials=1)
    broken = tmp_path / "search/trials/0/checkpoints/pretrain/000000004"

    def failing(settings):
        if not broken.exists():
            broken.mkdir(parents=True)
            (broken / "state.json").write_text("{")
            return KeyboardInterrupt()
        return None

    training.failing = failing
    with pytest.raises(KeyboardInterrupt):
        tune(config, BASE)
    training.failing = lambda settings: None
    assert tune(config, BASE)["cost"]["finished"] == 1
    assert not broken.exists()
    assert "The trial begins anew" in (tmp_path / "search/results/0.log").read_text()


def test_the_next_commands_can_be_pasted(training, tmp_path):
    config = search_config(tmp_path / "my search", max_trials=1)
    report = tune(config, BASE)
    first = next_commands(report, config, BASE)[0]
    assert f"--flagfile={tmp_path / 'my search/best.flags'}" in shlex.split(first)


def test_grace_above_the_epochs_is_refused(training, tmp_path):
    with pytest.raises(UserError, match="at most the 9 epochs of the recipe. Received: 10"):
        tune(search_config(tmp_path / "search", grace_epochs=10), BASE)


def test_a_worker_does_not_wait_where_no_search_can_be(training, tmp_path, monkeypatch):
    _environment(monkeypatch, "worker", 1)
    (tmp_path / "search").write_text("a file")
    with pytest.raises(UserError, match="search_dir is a file"):
        tune(search_config(tmp_path / "search"), BASE)


def test_a_chief_that_cannot_listen_writes_nothing(training, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        _environment(monkeypatch, "chief", taken.getsockname()[1])
        with pytest.raises(UserError, match="cannot listen on 127.0.0.1:.* in use"):
            tune(search_config(tmp_path / "search"), BASE)
    assert not (tmp_path / "search").exists()


def _environment(monkeypatch, name, port):
    monkeypatch.setenv("KERASTUNER_TUNER_ID", name)
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", str(port))


def test_other_data_is_refused_on_resume(training, tmp_path, monkeypatch):
    config = search_config(tmp_path / "search", max_trials=1)
    tune(config, BASE)
    monkeypatch.setattr(Data, "describe", lambda self: {"name": "digits", "train": 1})
    with pytest.raises(UserError, match="holds another search: train was None. Received: 1"):
        tune(config.replace(max_trials=2), BASE)


@pytest.mark.parametrize("error", [OSError(errno.EROFS, "Read-only"), StorageError("disk full.")])
def test_a_disk_is_no_fault_of_a_trial(error, training, tmp_path):
    config = search_config(tmp_path / "search", max_trials=2)
    training.failing = lambda settings: error
    with pytest.raises(UserError, match="Read-only|disk full"):
        tune(config, BASE)
    assert SearchDirectory(config.search_dir).results() == []
    training.failing = lambda settings: None
    assert tune(config, BASE)["cost"]["finished"] == 2


def test_too_little_memory_is(training, tmp_path):
    training.failing = lambda config: (
        OSError(errno.ENOMEM, "Cannot allocate memory") if config.optimizer == "adamw" else None
    )
    assert tune(search_config(tmp_path / "search"), BASE)["cost"]["failed"] > 0


def test_a_full_disk_ends_the_search_with_one_line(training, tmp_path, monkeypatch):
    def full(place, result):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    config = search_config(tmp_path / "search", max_trials=3)
    with monkeypatch.context() as patch:
        patch.setattr(SearchDirectory, "write", full)
        with pytest.raises(UserError, match="cannot write to search_dir .*: No space left"):
            tune(config, BASE)
    assert tune(config, BASE)["cost"]["finished"] == 3


def test_hopeless_trials_are_stopped_and_marked(training, tmp_path):
    space = {"learning_rate": {"choices": [0.1, 0.09, 0.11, 0.12, 0.01, 0.08]}}
    config = search_config(tmp_path / "search", "grid", space, grace_epochs=3)
    report = tune(config, BASE)
    ended = {trial["values"]["learning_rate"]: trial for trial in report["trials"]}
    assert [rate for rate, trial in ended.items() if trial["status"] == "pruned"] == [0.01]
    pruned = ended[0.01]
    assert 3 <= pruned["epochs"] < 9
    assert pruned["score"] == pruned["curve"][-1]
    assert len(pruned["curve"]) == pruned["epochs"]
    assert report["cost"] == {
        "seconds": pytest.approx(2.0 * (45 + pruned["epochs"]), abs=5),
        "epochs": 45 + pruned["epochs"],
        "trials": 6,
        "finished": 5,
        "paused": 0,
        "pruned": 1,
        "failed": 0,
    }


def test_without_pruning_every_trial_ends(training, tmp_path):
    space = {"learning_rate": {"choices": [0.1, 0.09, 0.11, 0.12, 0.01, 0.08]}}
    report = tune(search_config(tmp_path / "search", "grid", space, prune=False), BASE)
    assert report["cost"]["finished"] == 6


@pytest.mark.parametrize(
    ("curve", "others", "grace", "hopeless"),
    [
        ([0.1, 0.4], [[0.4, 0.6]] * 4, 2, True),  # 0.4 < (0.4 + 0.6) / 2
        ([0.1, 0.5], [[0.4, 0.6]] * 4, 2, False),
        ([0.45, 0.3], [[0.4, 0.6]] * 4, 2, True),
        ([0.55, 0.3], [[0.4, 0.6]] * 4, 2, False),  # The best so far counts.
        ([0.1, 0.4], [[0.4, 0.6]] * 4, 3, False),
        ([0.1, 0.4], [[0.4, 0.6]] * 3 + [[0.9]], 2, False),  # One did not come as far.
        ([0.1, 0.4], [[0.4, 0.6, 0.0]] * 4, 2, True),  # Later epochs do not count.
        ([0.1, 0.4], [[0.3, 0.3], [0.2, 0.2], [0.9, 0.9], [0.9, 0.9]], 2, True),  # Below 0.6
        ([0.1, None], [[None, 0.6]] * 4, 2, False),
        ([None, 0.4], [[None, 0.6]] * 4, 2, True),
        ([0.4], [[None]] * 4, 1, False),
    ],
)
def test_the_median_rule_by_hand(curve, others, grace, hopeless):
    assert is_hopeless(curve, others, grace) == hopeless


def test_the_winner_is_among_those_that_trained_longest():
    def result(trial, status, score, epochs):
        return Result(trial, status, {}, trial, score=score, all_epochs=epochs)

    paused = [result("0", "paused", 0.9, 3), result("1", "paused", 0.8, 1)]
    failed = [result("2", "failed", None, 0)]
    finished = [result("4", "finished", 0.7, 9), result("3", "finished", 0.7, 9)]
    assert best_result(paused + failed + finished, "max").trial == "3"
    assert best_result(paused + failed, "max").trial == "0"
    assert best_result(paused[::-1], "min").trial == "0"
    assert best_result(failed, "max") is None


def test_no_trial_begins_once_the_epochs_are_spent(training, tmp_path):
    config = search_config(tmp_path / "search", max_total_epochs=20, max_trials=50, prune=False)
    assert tune(config, BASE)["cost"]["trials"] == 3
    more = config.replace(max_total_epochs=None, max_trials=5)
    assert tune(more, BASE)["cost"]["trials"] == 5


def test_hyperband_trains_what_it_planned(training, tmp_path, capsys):
    config = search_config(tmp_path / "search", "hyperband")
    report = tune(config, BASE)
    # Brackets of rungs 3, 9 and 9: five trials, of which two go on, and three.
    assert [trial["all_epochs"] for trial in report["trials"]].count(9) == 5
    assert {trial["all_epochs"] for trial in report["trials"]} == {3, 9}
    continued = [trial for trial in report["trials"] if trial["continues"]]
    assert [trial["epochs"] for trial in continued] == [6, 6]
    assert "1 of 10 trials" in capsys.readouterr().err
    for trial in continued:
        first = next(one for one in report["trials"] if one["trial"] == trial["continues"])
        assert trial["run"] == first["run"]
        assert trial["values"] == first["values"]


def test_hyperband_needs_a_space_that_is_large_enough(training, tmp_path):
    config = search_config(tmp_path / "search", "hyperband", GRID)
    with pytest.raises(UserError, match="begins with 17 different settings; the space has 9"):
        tune(config.replace(grace_epochs=1), BASE)


def test_other_settings_are_refused_on_resume(training, tmp_path):
    config = search_config(tmp_path / "search", max_trials=2)
    tune(config, BASE)
    with pytest.raises(UserError, match="already holds a search. Pass --resume"):
        tune(config.replace(resume=False), BASE)
    with pytest.raises(UserError, match="epochs was 9. Received: 10"):
        tune(config, BASE.replace(epochs=10))
    with pytest.raises(UserError, match="objective was 'knn_top1'. Received: 'nll'"):
        tune(config.replace(objective="nll"), BASE)
    other = {**SPACE, "learning_rate": {"range": [0.01, 2.0], "scale": "log"}}
    with pytest.raises(UserError, match="learning_rate was .*'high': 1.0.*Received: .*2.0"):
        tune(search_config(tmp_path / "search", space=other, max_trials=2), BASE)


def test_a_search_stays_out_of_what_is_not_its_own(training, tmp_path):
    (tmp_path / "search").mkdir()
    (tmp_path / "search/letter.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files but no search"):
        tune(search_config(tmp_path / "search"), BASE)
    assert [path.name for path in (tmp_path / "search").iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"KERASTUNER_TUNER_ID": "chief"}, "need KERASTUNER_ORACLE_IP too"),
        (
            {
                "KERASTUNER_TUNER_ID": "chief",
                "KERASTUNER_ORACLE_IP": "127.0.0.1",
                "KERASTUNER_ORACLE_PORT": "http",
            },
            "KERASTUNER_ORACLE_PORT must be a port. Received: 'http'",
        ),
        ({"TF_CONFIG": "{}"}, "each trial trains in one process"),
    ],
)
def test_a_broken_environment_is_named(environment, message, training, tmp_path, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        tune(search_config(tmp_path / "search"), BASE)
    assert not (tmp_path / "search").exists()


def test_a_trial_that_another_worker_runs_is_waited_for(training, tmp_path):
    """As after a restart of the chief, which gives what was running to whoever asks first."""
    whole = search_config(tmp_path / "whole", max_trials=1)
    tune(whole, BASE)
    (result,) = SearchDirectory(whole.search_dir).results()
    config = search_config(tmp_path / "search", max_trials=1)
    run = tmp_path / "search/trials/0"
    code = (
        "import fcntl, os, pathlib, sys, time\n"
        "file = os.open(sys.argv[1] + '/.lock', os.O_CREAT | os.O_WRONLY)\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('locked', flush=True)\n"
        "time.sleep(1.5)\n"
        "results = pathlib.Path(sys.argv[1]).parents[1] / 'results'\n"
        "results.mkdir(exist_ok=True)\n"
        "(results / '0.json').write_text(sys.argv[2])\n"
    )
    run.mkdir(parents=True)
    (tmp_path / "search/search.json").write_bytes((tmp_path / "whole/search.json").read_bytes())
    theirs = json.dumps({**dataclasses.asdict(result), "worker": "other"})
    command = [sys.executable, "-c", code, str(run), theirs]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        training.began.clear()
        report = tune(config, BASE)
    assert training.began == []
    assert report["best"]["worker"] == "other"


def test_a_recipe_is_what_differs_from_the_defaults():
    config = PretrainConfig(
        nesterov=True, learning_rate=0.123457, method_args={"a": 0.5, "b": True}, run_dir="x"
    )
    assert flags_of(config) == [
        "--method_args=a=0.5,b=True",
        "--learning_rate=0.123457",
        "--nesterov=True",
    ]


def test_first_settings_that_cannot_be_trained_are_refused(tmp_path):
    space = {"optimizer": {"choices": ["adamw", "sgd"]}, "nesterov": {"choices": [True, False]}}
    with pytest.raises(UserError, match="first values cannot be trained with .*Add a condition"):
        tune(search_config(tmp_path / "search", space=space), BASE)
    assert not (tmp_path / "search").exists()


def test_warnings_of_the_gaussian_process_stay_inside(training, tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tune(search_config(tmp_path / "search", "bayesian", max_trials=6), BASE)
    assert not [one for one in caught if issubclass(one.category, ConvergenceWarning)]
