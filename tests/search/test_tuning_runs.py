"""Searches whose trials are trained: what a trial is, what a kill leaves, several processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from conftest import ROOT
from run_contents import curves, weights

import supcon_tf
from supcon_tf import PretrainConfig, TuneConfig, evaluate, pretrain, train_classifier, tune
from supcon_tf.cli.flags import read_recipe
from supcon_tf.data.datasets import Split
from supcon_tf.search.objective import keeps_classifier
from supcon_tf.search.search_directory import SearchDirectory
from supcon_tf.stages.run_directory import RunDirectory

pytestmark = pytest.mark.filterwarnings(
    "ignore:currentThread\\(\\) is deprecated:DeprecationWarning",
    "ignore:getName\\(\\) is deprecated:DeprecationWarning",
)

SPACE = {
    "learning_rate": {"range": [0.05, 0.5], "scale": "log"},
    "nesterov": {"choices": [False, True]},
    "momentum": {"choices": [0.8, 0.9], "when": {"nesterov": [True]}},
}


@pytest.fixture(scope="module")
def base(small_config):
    small = {"train_images": 512, "epochs": 2, "warmup_epochs": None}
    return {**small_config, **small, "validation_fraction": 0.2}


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    file = tmp_path_factory.mktemp("space") / "space.json"
    file.write_text(json.dumps(SPACE))
    return str(file)


def search(space, folder, **changes):
    config = {"space": space, "search_dir": str(folder), "algorithm": "random", "max_trials": 3}
    return TuneConfig(**{**config, "resume": True, **changes})


@pytest.fixture(scope="module")
def searched(space, base, tmp_path_factory):
    """A search of three trials that was never interrupted, and its report."""
    folder = tmp_path_factory.mktemp("searched") / "search"
    return folder, tune(search(space, folder), PretrainConfig(**base))


def recipe(folder):
    """The configuration of best.flags."""
    best = read_recipe(folder / "best.flags")
    return best.replace(run_dir=str(folder.parent / "again"))


@pytest.mark.slow
def test_a_trial_is_an_ordinary_run_and_the_recipe_reproduces_its_score(searched):
    folder, report = searched
    best = report["best"]
    again = recipe(folder)
    pretrain(again, maps=False)
    metrics = evaluate(supcon_tf.EvaluateConfig(run_dir=again.run_dir, split="validation"))
    assert metrics["knn_top1"] == best["score"] > 0.3
    trial = folder / "trials" / best["run"]
    for left, right in zip(weights(again.run_dir), weights(trial), strict=True):
        np.testing.assert_array_equal(left, right)
    assert (trial / "pictures/learning_curves.png").exists()
    assert (
        RunDirectory(str(trial)).pretrain_config().learning_rate == best["values"]["learning_rate"]
    )


@pytest.mark.slow
def test_the_loss_of_a_linear_classifier_reproduces_and_the_test_split_is_not_read(
    space, base, tmp_path, monkeypatch
):
    test_images = supcon_tf.open_dataset("digits", base["data_dir"]).test.fingerprint
    images = Split.images

    def guarded(self, *arguments, **settings):
        assert self.fingerprint != test_images
        return images(self, *arguments, **settings)

    folder = tmp_path / "search"
    with monkeypatch.context() as patch:
        patch.setattr(Split, "images", guarded)
        report = tune(search(space, folder, objective="nll", max_trials=1), PretrainConfig(**base))
    again = recipe(folder)
    pretrain(again, maps=False)
    train_classifier(supcon_tf.ClassifierConfig(run_dir=again.run_dir))
    metrics = evaluate(supcon_tf.EvaluateConfig(run_dir=again.run_dir, split="validation"))
    assert metrics["images"] == 102
    assert metrics["nll"] == report["best"]["score"]
    # A classifier of that stage is not one that the pretraining kept by itself.
    assert not keeps_classifier(RunDirectory(again.run_dir))
    assert (tmp_path / "again/pictures/confusion_matrix_validation.png").exists()


def test_a_run_without_validation_images_is_not_scored_on_them(finished_run):
    config = supcon_tf.EvaluateConfig(run_dir=str(finished_run), split="validation")
    with pytest.raises(supcon_tf.UserError, match="has no validation set: .*fraction=0"):
        evaluate(config)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_hyperband_continues_bit_for_bit(space, base, tmp_path):
    """Two trials of one epoch, the better of which continues to two on the same schedule."""
    folder, whole = tmp_path / "search", PretrainConfig(**base)
    config = search(space, folder, algorithm="hyperband", hyperband_factor=2, max_trials=3)
    tune(config, whole)
    results = SearchDirectory(str(folder)).results()
    assert [(result.status, result.epochs) for result in results] == [
        *[("paused", 1)] * 2,
        ("finished", 1),
    ]
    last = results[-1]
    first = next(result for result in results if result.trial == last.continues)
    assert first.score == max(result.score for result in results[:2])
    uninterrupted = whole.replace(run_dir=str(tmp_path / "whole"), **last.values)
    pretrain(uninterrupted, maps=False)
    trial = folder / "trials" / first.run
    for left, right in zip(weights(uninterrupted.run_dir), weights(trial), strict=True):
        np.testing.assert_array_equal(left, right)
    assert curves(uninterrupted.run_dir) == curves(trial)
    # The score at a rung is that of the encoder at that epoch.
    assert [first.score, last.score] == last.curve
    assert first.curve == last.curve[:1]


# Searches as the script does, but kills itself at a step of all trainings (0: never).
_WORKER = textwrap.dedent(
    """
    import json, os, signal, sys
    from supcon_tf import PretrainConfig, TuneConfig, tune
    from supcon_tf.engine.progress import Progress

    config, base, kill_at = json.loads(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
    after_step, steps = Progress.after_step, []

    def killing(self, values):
        after_step(self, values)
        steps.append(self.title)
        if len(steps) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    Progress.after_step = killing
    tune(TuneConfig(**config), PretrainConfig(**base))
    """
)


@pytest.mark.slow
def test_a_search_killed_in_a_trial_loses_no_trial_and_repeats_none(
    searched, space, base, tmp_path
):
    folder = tmp_path / "search"
    config = {"space": space, "search_dir": str(folder), "algorithm": "random", "max_trials": 3}

    def run(kill_at):
        arguments = [json.dumps({**config, "resume": True}), json.dumps(base), str(kill_at)]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-W", "ignore", "-c", _WORKER, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    # 6 steps a trial: this is the second one's fifth, in its second epoch.
    killed = run(11)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kept = (folder / "results/0.json").read_bytes()
    assert not (folder / "results/1.json").exists()
    resumed = run(0)
    assert resumed.returncode == 0, resumed.stderr
    lines = [line for line in resumed.stderr.splitlines() if line.startswith("trial")]
    assert [line.split(":")[0] for line in lines] == ["trial 1 finished", "trial 2 finished"]
    assert (folder / "results/0.json").read_bytes() == kept
    manifest = json.loads((folder / "trials/1/manifest.json").read_text())
    assert len(manifest["pretrain"]["resumed"]) == 1
    ours, whole = (SearchDirectory(str(path)).results() for path in (folder, searched[0]))
    for one, other in zip(ours, whole, strict=True):
        assert (one.values, one.score, one.curve) == (other.values, other.score, other.curve)
    for trial in "012":
        one, other = (weights(path / "trials" / trial) for path in (folder, searched[0]))
        for left, right in zip(one, other, strict=True):
            np.testing.assert_array_equal(left, right)


@pytest.mark.slow
def test_a_chief_and_two_workers_search_together(space, base, tmp_path):
    """Hyperband, so that one worker may continue what the other one began."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {**base, "space": space, "algorithm": "hyperband", "hyperband_factor": 2}
    flags = [f"--{name}={value}" for name, value in given.items() if value is not None]

    def start(name):
        environment = {**os.environ, "KERASTUNER_TUNER_ID": name}
        environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # As a user runs it.
        environment |= {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": str(port)}
        command = [sys.executable, "scripts/tune.py", *flags, f"--search_dir={tmp_path / 'search'}"]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True
        )

    processes = {name: start(name) for name in ("worker1", "worker2", "chief")}
    outputs = {name: process.communicate(timeout=280) for name, process in processes.items()}
    for name, process in processes.items():
        assert process.returncode == 0, (name, outputs[name])
    results = SearchDirectory(str(tmp_path / "search")).results()
    assert [result.status for result in results].count("finished") == 3
    assert [result.status for result in results].count("paused") == 2
    assert {result.worker for result in results} == {"worker1", "worker2"}
    said, lines = outputs["chief"]
    assert said.startswith("| trial ")
    assert "best: trial" in said
    assert "5 trials (3 finished, 2 paused)" in said
    assert len(lines.splitlines()) == 5
    assert all(line.startswith("trial ") for line in lines.splitlines())
    assert "Traceback" not in str(outputs)
    for name in ("worker1", "worker2"):
        assert outputs[name][0].startswith("the search is over")
