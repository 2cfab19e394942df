"""Proposals, stopping and reports of a search. The trials here are not trained."""

import json
import math
import shlex
import types
import warnings

import pytest
from conftest import write_several
from search.fakes import ALGORITHMS, BASE, GRID, outcome, search_config
from sklearn.exceptions import ConvergenceWarning

from supcon_tf import UserError, tune
from supcon_tf.search import figures
from supcon_tf.search.preparation import open_first
from supcon_tf.search.report import base_line, next_commands
from supcon_tf.search.results import Result, best_result, is_hopeless

# Keras Tuner 1.4.8 asks for the thread's name like that, at each call of an oracle.
pytestmark = pytest.mark.filterwarnings(
    "ignore:currentThread\\(\\) is deprecated:DeprecationWarning",
    "ignore:getName\\(\\) is deprecated:DeprecationWarning",
)


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
    monkeypatch.setattr(figures, "draw", training.draw)
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
    monkeypatch.setattr(figures, "draw", training.draw)
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
    # Brackets of rungs 3, 9 and 9: five trials, two of which continue, and three.
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


def test_the_next_commands_can_be_pasted(training, tmp_path):
    config = search_config(tmp_path / "my search", max_trials=1)
    report = tune(config, BASE)
    first = next_commands(report, config, BASE)[0]
    assert f"--flagfile={tmp_path / 'my search/best.flags'}" in shlex.split(first)


def test_grace_above_the_epochs_is_refused(training, tmp_path):
    with pytest.raises(UserError, match="at most the 9 epochs of the recipe. Received: 10"):
        tune(search_config(tmp_path / "search", grace_epochs=10), BASE)


@pytest.mark.parametrize(
    "space",
    [
        {"optimizer": {"choices": ["adamw", "sgd"]}, "nesterov": {"choices": [True, False]}},
        {"warmup_epochs": {"choices": [30.0, 1.0]}},
    ],
)
def test_first_settings_that_cannot_be_trained_are_refused(space, tmp_path):
    with pytest.raises(UserError, match="first values is not possible .*: .*Add a condition"):
        tune(search_config(tmp_path / "search", space=space), BASE)
    assert not (tmp_path / "search").exists()


def test_warnings_of_the_gaussian_process_stay_inside(training, tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tune(search_config(tmp_path / "search", "bayesian", max_trials=6), BASE)
    assert not [one for one in caught if issubclass(one.category, ConvergenceWarning)]


def test_images_of_several_classes_are_refused(tmp_path):
    config = BASE.replace(dataset=write_several(tmp_path / "images"), batch_size=16)
    space = types.SimpleNamespace(first=dict)
    with pytest.raises(UserError, match="a search needs images of one class each"):
        open_first(config, space)
