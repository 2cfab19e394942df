"""Searches after kills, failures, damage or changed settings. The trials here are not trained."""

import errno
import json
import math
import os
from pathlib import Path

import pytest
from search.fakes import ALGORITHMS, BASE, SPACE, Data, outcome, search_config

from supcon_tf import UserError, tune
from supcon_tf.core.errors import StorageError
from supcon_tf.search.search_directory import SearchDirectory

# Keras Tuner 1.4.8 asks for the thread's name like that, at each call of an oracle.
pytestmark = pytest.mark.filterwarnings(
    "ignore:currentThread\\(\\) is deprecated:DeprecationWarning",
    "ignore:getName\\(\\) is deprecated:DeprecationWarning",
)


class Killed(BaseException):
    """An exception that no handler catches."""


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_search_killed_at_any_write_and_resumed_ends_like_an_uninterrupted_one(
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
            patch.setattr("supcon_tf.core.files.os.replace", deadly)
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
def test_a_failing_trial_is_recorded_and_the_search_continues(
    algorithm, training, tmp_path, capsys
):
    """Also after more failures in a row than Keras Tuner itself would tolerate."""
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
    """As when the system kills a process that takes too much memory."""
    config = search_config(tmp_path / "search", max_trials=2)
    training.failing = lambda settings: KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        tune(config, BASE)
    place, counted = SearchDirectory(config.search_dir), tmp_path / "search/results/0.begun"
    assert not counted.exists()
    for kills in range(3):
        with place.earlier_deaths("0", 0) as before:
            assert before == kills
            text = counted.read_text()
        counted.write_text(text)  # A killed process never gets to remove it.
    training.failing = lambda settings: None
    trials = {trial["trial"]: trial for trial in tune(config, BASE)["trials"]}
    assert trials["0"]["status"] == "failed"
    assert trials["0"]["reason"].startswith(
        "its process was killed 3 times without completing another epoch"
    )
    assert trials["1"]["status"] == "finished"


def test_what_a_failed_trial_trained_is_counted_once(training, tmp_path):
    """Hyperband may choose a failed trial to continue, if all others failed too."""

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
        ("oracle/oracle.json", {"trials": None, "sha256": None}),  # As of an earlier version.
        ("oracle/oracle.json", {"seed": 5}),
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


def test_damage_deep_in_the_state_of_hyperband_is_named(training, tmp_path):
    config = search_config(tmp_path / "search", "hyperband")
    tune(config, BASE)
    _damage(tmp_path / "search/oracle/oracle.json", brackets=["x"])
    with pytest.raises(UserError, match=r"oracle\.json is damaged"):
        tune(config, BASE)


def test_a_search_of_an_earlier_version_is_refused(training, tmp_path):
    config = search_config(tmp_path / "search", max_trials=2)
    tune(config, BASE)
    file = tmp_path / "search/search.json"
    content = json.loads(file.read_text())
    content["space"] = content.pop("entries")
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="search.json was not written by this version .*Finish the"):
        tune(config, BASE)


def test_a_removed_result_is_reported(training, tmp_path):
    config = search_config(tmp_path / "search", max_trials=2)
    tune(config, BASE)
    (tmp_path / "search/results/1 copy.json").write_text("{}")
    assert tune(config, BASE)["cost"]["trials"] == 2
    (tmp_path / "search/results/1.json").unlink()
    with pytest.raises(UserError, match="results/1.json is missing"):
        tune(config, BASE)


def test_a_trial_with_damaged_checkpoints_starts_again(training, tmp_path):
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
    assert "The trial starts again" in (tmp_path / "search/results/0.log").read_text()


def test_other_data_is_refused_on_resume(training, tmp_path, monkeypatch):
    config = search_config(tmp_path / "search", max_trials=1)
    tune(config, BASE)
    monkeypatch.setattr(Data, "describe", lambda self: {"name": "digits", "train": 1})
    with pytest.raises(UserError, match="holds a different search: train was None. Received: 1"):
        tune(config.replace(max_trials=2), BASE)


@pytest.mark.parametrize("error", [OSError(errno.EROFS, "Read-only"), StorageError("disk full.")])
def test_disk_errors_are_not_counted_against_a_trial(error, training, tmp_path):
    config = search_config(tmp_path / "search", max_trials=2)
    training.failing = lambda settings: error
    with pytest.raises(UserError, match="Read-only|disk full"):
        tune(config, BASE)
    assert SearchDirectory(config.search_dir).results() == []
    training.failing = lambda settings: None
    assert tune(config, BASE)["cost"]["finished"] == 2


def test_too_little_memory_is_counted_against_a_trial(training, tmp_path):
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
    with pytest.raises(UserError, match=r"learning_rate was .*, 1.0\].*Received: .*, 2.0\]"):
        tune(search_config(tmp_path / "search", space=other, max_trials=2), BASE)


def test_a_search_stays_out_of_what_is_not_its_own(training, tmp_path):
    (tmp_path / "search").mkdir()
    (tmp_path / "search/letter.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files but no search"):
        tune(search_config(tmp_path / "search"), BASE)
    assert [path.name for path in (tmp_path / "search").iterdir()] == ["letter.txt"]
