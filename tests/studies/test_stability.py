"""The stability study: its file, its trials, its report on their scores."""

import dataclasses
import json
import subprocess
import sys

import pytest
from conftest import ROOT

from supcon_tf import PretrainConfig, UserError
from supcon_tf.search.results import Result
from supcon_tf.search.search_directory import SearchDirectory

STUDIES = ROOT / "scripts/studies"
sys.path.insert(0, str(STUDIES))  # As for a script that is run there.
from _stability_file import UNCHANGED, Variation, read_study  # noqa: E402
from _stability_report import draw, spread_table, summarize, variation_table  # noqa: E402
from _stability_run import run_study  # noqa: E402
from stability import StabilityConfig  # noqa: E402

sys.path.remove(str(STUDIES))

RECIPES = {
    "ours.flags": "--learning_rate=0.5\n--batch_size=64\n--temperature=0.1\n",
    "theirs.flags": "--method=cross_entropy\n--learning_rate=0.04\n--batch_size=64\n",
}
STUDY = {
    "recipes": {"ours": "ours.flags", "theirs": "theirs.flags"},
    "settings": {"validation_fraction": 0.2, "epochs": 4},
    "factors": {
        "rate": {"changes": [{"learning_rate": {"times": 0.1}}, {"learning_rate": {"times": 10}}]},
        "optimizer": {"changes": [{"optimizer": "sgd"}, {"optimizer": "lars", "momentum": 0.8}]},
        "temperature": {"recipes": ["ours"], "changes": [{"temperature": 0.5}]},
    },
}


def written(folder, **changes):
    for name, text in RECIPES.items():
        (folder / name).write_text(text)
    file = folder / "study.json"
    file.write_text(json.dumps({**STUDY, **changes}))
    return str(file)


def test_each_change_is_made_to_each_recipe(tmp_path):
    variations = read_study(written(tmp_path))
    found = {(one.recipe, one.label): one for one in variations}
    assert len(found) == len(variations) == 9
    assert [one.label for one in variations[:2]] == [UNCHANGED, UNCHANGED]
    assert found["ours", "learning_rate x 10"].values == {"learning_rate": 5.0}
    assert found["theirs", "learning_rate x 0.1"].values == {"learning_rate": 0.004}
    lars = found["theirs", "optimizer lars, momentum 0.8"]
    assert lars.values == {"optimizer": "lars", "momentum": 0.8}
    assert lars.factors == ("optimizer",)
    assert ("theirs", "temperature 0.5") not in found
    assert all(one.base.epochs == 4 for one in variations)


def test_a_change_to_what_the_recipe_has_is_no_trial_of_its_own(tmp_path):
    variations = read_study(written(tmp_path))
    assert not [one for one in variations if one.label == "optimizer sgd"]
    first, second = variations[:2]
    assert first.factors == ("rate", "optimizer", "temperature")
    assert second.factors == ("rate", "optimizer")


def test_the_study_of_the_recipes_is_valid():
    variations = read_study(str(STUDIES / "digits.stability.json"))
    assert {one.recipe for one in variations} == {"SupCon", "cross entropy"}
    assert len(variations) == 32


def _factor(**entry):
    return {"factors": {"it": entry}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"more": 1}, "it must hold factors, recipes, and may hold settings. Received: .*more"),
        ({"recipes": {}}, "recipes must be an object with one or more, .* Received: {}"),
        ({"recipes": {"ours": 3}}, "recipe ours must be a file. Received: 3"),
        ({"recipes": {"ours": "none.flags"}}, "recipe .*none.flags: Unable to open"),
        ({"settings": {"seed": 1}}, "settings cannot hold seed"),
        ({"settings": {"epocs": 1}}, "settings cannot hold epocs"),
        ({"settings": {"epochs": 0}}, "epochs must be at least 1 and"),
        ({"settings": {}}, "recipe ours: runs are compared on a validation set.*fraction=0"),
        ({"recipes": {"a\n": "ours.flags"}}, "recipes must be .*titles of one line. Received:"),
        (
            {"factors": {" ": {"changes": [{"momentum": 0.1}]}}},
            "factors must be .*titles of one line. Received:",
        ),
        (
            _factor(changes=[{"method_args": 1}]),
            "method_args cannot be searched: search its arguments one by one",
        ),
        (_factor(changes=[{"learning_rate": {"times": 10**400}}]), 'a value or {"times": number}'),
        ({"factors": {"all": {"changes": [{"momentum": 0.1}]}}}, "'all' means all factors"),
        (_factor(recipes=3, changes=[{"momentum": 0.1}]), "must name recipes of .*Received: 3"),
        ({"factors": {"it": None}}, "it must hold changes, .*Received: null"),
        (_factor(changes=[]), r"it must have changes, objects of settings. Received: \[\]"),
        (_factor(recipes=["ours"]), "it must hold changes, and may hold recipes. Received: .*ours"),
        (_factor(changes=[{}]), r"changes, objects of settings. Received: \[{}\]"),
        (
            _factor(changes=[{"momentum": 0.1}], recipes=["mine"]),
            r'recipes of ours, theirs. Received: \["mine"\]',
        ),
        (_factor(changes=[{"learning_rat": 1.0}]), "Did you mean 'learning_rate'"),
        (_factor(changes=[{"momentum": "high"}]), "momentum must be .*Received: 'high'"),
        (_factor(changes=[{"momentum": {"plus": 1}}]), 'a value or {"times": number}'),
        (_factor(changes=[{"optimizer": {"times": 2}}]), "optimizer cannot be multiplied"),
        (
            _factor(changes=[{"batch_size": {"times": 0.3}}]),
            "batch_size x 0.3: batch_size must be of type int. Received: 19.2",
        ),
        (_factor(changes=[{"temperature": 0.5}]), "theirs with temperature 0.5: .*cross_entropy"),
        (
            _factor(changes=[{"nesterov": True, "optimizer": "adamw"}]),
            "ours with nesterov True, optimizer adamw: .*nesterov",
        ),
    ],
)
def test_a_wrong_study_is_refused_with_one_line(changes, message, tmp_path):
    config = StabilityConfig(study=written(tmp_path, **changes), study_dir=str(tmp_path / "out"))
    with pytest.raises(UserError, match=f"^study .*study.json: .*{message}") as caught:
        run_study(config)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_batch_that_the_data_cannot_fill_is_refused(small_config, tmp_path):
    settings = {**STUDY["settings"], "data_dir": small_config["data_dir"]}
    study = written(tmp_path, settings=settings, **_factor(changes=[{"batch_size": 5000}]))
    config = StabilityConfig(study=study, study_dir=str(tmp_path / "out"))
    with pytest.raises(UserError, match="ours with batch_size 5000: .* at most 107., the num"):
        run_study(config)
    assert not (tmp_path / "out").exists()


class Training:
    """Stands for the training of a trial: a score from its settings, kept as a result.

    Attributes:
        ran: what was asked for, in order.
        dies_at: how many trials end before the process does.
    """

    def __init__(self, dies_at=None):
        self.ran, self.dies_at = [], dies_at

    def run(self, trial, place):
        if self.dies_at == len(self.ran):
            raise KeyboardInterrupt
        config = trial.base.replace(**trial.values)
        self.ran.append((trial.base.method, dict(trial.values), trial.base.seed))
        failed = config.optimizer == "lars"
        found = {"status": "failed", "reason": "no luck"} if failed else {"status": "finished"}
        score = None if failed else 0.5 + 0.1 * config.learning_rate + 0.01 * config.seed
        result = Result(trial.name, values=dict(trial.values), run=trial.name, score=score, **found)
        place.write(result)
        return result


@pytest.fixture
def training(monkeypatch):
    stand_in = Training()
    monkeypatch.setattr("_stability_run.run_trial", lambda *given: stand_in.run(*given))
    monkeypatch.setattr("_stability_run._open_data", lambda variations: {})
    return stand_in


def test_a_study_trains_every_variation_with_every_seed(training, tmp_path, capsys):
    config = StabilityConfig(study=written(tmp_path), study_dir=str(tmp_path / "out"), seeds=2)
    report = run_study(config)
    assert len(training.ran) == 18
    assert [seed for _, _, seed in training.ran] == [0] * 9 + [1] * 9
    assert json.loads((tmp_path / "out/stability.json").read_text()) == report
    assert (tmp_path / "out/stability.png").stat().st_size > 5000
    (rate,) = [
        one for one in report["spread"] if one["factor"] == "rate" and one["recipe"] == "ours"
    ]
    # Means over the seeds of 0.5 + rate / 10: rates 0.5, 0.05 and 5.
    assert rate["best"] == pytest.approx(1.005)
    assert rate["median"] == pytest.approx(0.555)
    assert rate["worst"] == pytest.approx(0.51)
    assert rate["variations"] == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("trial 00 ours, as it is, seed 0: linear_top1 0.5500; 17 of 18 left")
    assert "failed: no luck" in "".join(lines)


def test_an_interrupted_study_repeats_no_trial(training, tmp_path):
    config = StabilityConfig(study=written(tmp_path), study_dir=str(tmp_path / "out"), seeds=2)
    training.dies_at = 7
    with pytest.raises(KeyboardInterrupt):
        run_study(config)
    with pytest.raises(UserError, match="already holds a study. Pass --resume"):
        run_study(config)
    training.dies_at = None
    run_study(config.replace(resume=True))
    assert len(training.ran) == 18
    assert len({json.dumps(one) for one in training.ran}) == 18
    with pytest.raises(UserError, match="holds a different study: seeds was 2. Received: 3"):
        run_study(config.replace(resume=True, seeds=3))


def test_trials_that_another_process_is_in_are_left_to_it(training, tmp_path):
    whole = StabilityConfig(study=written(tmp_path), study_dir=str(tmp_path / "whole"), seeds=1)
    run_study(whole)
    theirs = dataclasses.asdict(SearchDirectory(whole.study_dir, "study").result("3"))
    config = whole.replace(study_dir=str(tmp_path / "out"))
    run = tmp_path / "out/trials/3"
    run.mkdir(parents=True)
    (tmp_path / "out/study.json").write_bytes((tmp_path / "whole/study.json").read_bytes())
    code = (
        "import fcntl, os, pathlib, sys, time\n"
        "file = os.open(sys.argv[1] + '/.lock', os.O_CREAT | os.O_WRONLY)\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('locked', flush=True)\n"
        "results = pathlib.Path(sys.argv[1]).parents[1] / 'results'\n"
        "while not (results / '8.json').exists():\n"
        "    time.sleep(0.05)\n"
        "(results / '3.json').write_text(sys.argv[2])\n"
    )
    command = [sys.executable, "-c", code, str(run), json.dumps({**theirs, "score": 0.123})]
    training.ran.clear()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        report = run_study(config.replace(resume=True))
    assert len(training.ran) == 8
    assert 0.123 in [trial["score"] for trial in report["trials"]]


def _found(scores, title="a"):
    """Trials of changes by label: a score for each seed, None where it failed."""
    base = PretrainConfig()
    for label, own in scores.items():
        variation = Variation(title, label, base, {}, ("f",))
        for seed, score in enumerate(own):
            status = "failed" if score is None else "finished"
            reason = "lost" if score is None else None
            yield variation, seed, Result("0", status, {}, "0", score=score, reason=reason)


def test_the_spread_by_hand():
    scores = {UNCHANGED: [0.9, 0.8], "x": [0.5, None], "y": [None, None], "z": [0.6, 0.7]}
    report = summarize(list(_found(scores)), "linear_top1")
    means = {one["label"]: one["mean"] for one in report["variations"]}
    assert means == {UNCHANGED: pytest.approx(0.85), "x": 0.5, "y": None, "z": pytest.approx(0.65)}
    by_factor, over_all = report["spread"]
    assert {**by_factor, "factor": "all"} == over_all
    assert over_all == {
        "factor": "all",
        "recipe": "a",
        "variations": 4,
        "best": pytest.approx(0.85),
        "median": pytest.approx(0.65),
        "worst": 0.5,
        "deviation": pytest.approx(0.175594, abs=1e-6),
        "failed": 3,
    }
    report |= {"objective": "linear_top1", "seeds": 2}
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in variation_table(report).splitlines()
    ]
    assert cells[2:] == [
        [UNCHANGED, "85.0 % (80.0 to 90.0)"],
        ["x", "50.0 % (50.0 to 50.0, 1 failed)"],
        ["y", "failed"],
        ["z", "65.0 % (60.0 to 70.0)"],
    ]
    assert "85.0 % | 65.0 % | 50.0 %" in spread_table(report)


def test_the_least_loss_is_best():
    report = summarize(list(_found({UNCHANGED: [0.2], "x": [0.9]})), "nll")
    assert (report["spread"][0]["best"], report["spread"][0]["worst"]) == (0.2, 0.9)


def test_a_recipe_that_always_fails_is_named():
    found = [*_found({UNCHANGED: [0.9]}), *_found({UNCHANGED: [None], "x": [None]}, "b")]
    with pytest.raises(UserError, match="all trials of b failed. The first: lost"):
        summarize(found, "linear_top1")


def test_the_figure_of_failures_odd_titles_and_many_factors(tmp_path):
    base = PretrainConfig()
    found = []
    for factor in ("cost $x_$", "名", "c", "d", "e", "f", "g"):
        variation = Variation("one", factor, base, {}, (factor,))
        score = None if factor == "c" else 240 / 269  # Its mean over three is another number.
        for seed in range(3):
            found.append((variation, seed, Result("0", "finished", {}, "0", score=score)))
    assert summarize(found, "nll")["variations"][0]["mean"] != 240 / 269
    report = {**summarize(found, "nll"), "objective": "nll", "seeds": 1}
    draw(report, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000
