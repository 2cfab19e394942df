"""Chief and workers: their environment, and what one does where another fails."""

import dataclasses
import errno
import json
import os
import socket
import subprocess
import sys
import threading
import types

import pytest
from search.fakes import BASE, search_config

from supcon_tf import UserError, tune
from supcon_tf.search import oracles, tuning
from supcon_tf.search.algorithms import make_oracle
from supcon_tf.search.search_directory import SearchDirectory
from supcon_tf.search.space_file import read_space

# Keras Tuner 1.4.8 asks for the thread's name like that, at each call of an oracle.
pytestmark = pytest.mark.filterwarnings(
    "ignore:currentThread\\(\\) is deprecated:DeprecationWarning",
    "ignore:getName\\(\\) is deprecated:DeprecationWarning",
)


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


@pytest.mark.parametrize("place", ["is_spent", "save", "trial_ended"])
def test_the_chief_ends_with_what_it_ran_into_for_a_worker(place, tmp_path, monkeypatch):
    """In a thread of its server, where nobody hears of it; the workers are told to stop."""
    config = search_config(tmp_path / "search")
    oracle = make_oracle(config, BASE, read_space(config.space, config.algorithm))

    def full(*given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    oracle.budget = types.SimpleNamespace(
        is_spent=full if place == "is_spent" else lambda: False,
        trial_ended=full if place == "trial_ended" else lambda trial: None,
    )
    if place == "save":
        monkeypatch.setattr(oracles, "write_json", full)
    asked = []

    def work():
        while not asked or asked[-1].status == "RUNNING":
            asked.append(oracle.create_trial("worker1"))
            if asked[-1].status == "RUNNING":
                oracle.update_trial(asked[-1].trial_id, {config.objective: 0.5})
                asked[-1].status = "COMPLETED"
                oracle.end_trial(asked[-1])
                asked[-1].status = "RUNNING"

    worker = threading.Thread(target=work)
    worker.start()
    worker.join(timeout=30)
    assert len(asked) == (1 if place == "is_spent" else 2)
    assert not oracle.tuner_ids
    assert not oracle.ongoing_trials

    assert oracle.failure.errno == errno.ENOSPC


def test_a_chief_that_failed_for_a_worker_says_why(training, tmp_path, monkeypatch):
    def failing(tuner, role):
        tuner.oracle.failure = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tuning, "run_tuner", failing)
    with pytest.raises(
        UserError, match="the chief stopped: .*No space left.* then continue with --resume"
    ):
        tune(search_config(tmp_path / "search"), BASE)
    assert not (tmp_path / "search/trials.json").exists()


def test_one_process_hears_at_once_of_what_is_raised(training, tmp_path, monkeypatch):
    def full(*given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(oracles, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        tune(search_config(tmp_path / "search"), BASE)
    assert training.began == []
