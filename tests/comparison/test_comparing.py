"""The comparison itself, with cells that are not trained: choices, resuming, the report."""

import json

import pytest
from conftest import write_several
from search.fakes import Training

from supcon_tf import CompareConfig, PretrainConfig, UserError
from supcon_tf.comparison import comparing, figures
from supcon_tf.search import trials

BASE = PretrainConfig(validation_fraction=0.2, epochs=3, learning_rate=0.1)
RATES = (0.05, 0.1, 0.2)
# By arm and learning rate, the validation score.
SCORES = {
    "cross_entropy": (0.8, 0.9, 0.7),
    "supcon_out": (0.5, 0.6, 0.95),
    "simclr": (0.7, 0.7, 0.7),
}


class Cells(Training):
    """Stands for the training and scoring of every cell.

    Attributes:
        final: configurations of the final cells, in the order of their calls.
        ends_at: number of the final cell in which the process is interrupted.
    """

    def __init__(self):
        super().__init__()
        self.trained, self.final, self.ends_at = [], [], None

    def score(self, run, objective):
        assert objective == "linear_top1"
        config = run_config(run)
        return SCORES[config["method"]][RATES.index(round(config["learning_rate"], 6))]

    def pretrain(self, config, **how):
        super().pretrain(config, **how)
        self.trained.append(config)
        file = self.file(config.run_dir).with_name("fake.json")
        file.write_text(json.dumps(config.to_dict()))

    def finish(self, config, evaluation):
        if len(self.final) == self.ends_at:
            raise KeyboardInterrupt
        self.final.append(config)
        top1 = {"cross_entropy": 0.8, "supcon_out": 0.85, "simclr": 0.7}[config.method]
        top1 += 0.01 * config.seed * (1 + (config.method == "simclr"))
        scores = {"top1": top1, "knn_top1": top1 - 0.1, "ece": 0.05, "confusion_matrix": [[1]]}
        return {
            "scores": scores,
            "seconds": 9.0,
            "classifier_seconds": 1.0,
            "commit": "a",
            "history": {},
        }


def run_config(run):
    return json.loads((run.path / "fake.json").read_text())


@pytest.fixture
def cells(monkeypatch, data_dir):
    stand_in = Cells()
    monkeypatch.setattr(trials, "pretrain", stand_in.pretrain)
    monkeypatch.setattr(trials, "_history", stand_in.history)
    monkeypatch.setattr(trials, "validation_score", stand_in.score)
    monkeypatch.setattr(comparing, "finish_cell", stand_in.finish)
    stand_in.draw = figures.draw
    monkeypatch.setattr(figures, "draw", lambda *arguments: None)
    monkeypatch.setattr(comparing, "check_data", lambda config, dataset: None)
    return stand_in


@pytest.fixture
def run(tmp_path, data_dir, cells):
    def compare(base=BASE, **settings):
        how = {"arms": "cross_entropy,supcon,simclr", "seeds": 2, "rate_factors": "0.5,1,2"}
        config = CompareConfig(comparison_dir=str(tmp_path / "comparison"), **{**how, **settings})
        return comparing.compare(config, base.replace(data_dir=data_dir))

    return compare


def rates(report):
    return {name: arm["selection"]["rate"] for name, arm in report["arms"].items()}


def test_every_arm_gets_the_rate_that_is_best_on_validation_images(run, cells):
    report = run()
    assert rates(report) == {"cross_entropy": 0.1, "supcon": 0.2, "simclr": 0.05}  # A tie: lowest.
    edges = {name: arm["selection"]["at_edge"] for name, arm in report["arms"].items()}
    assert edges == {"cross_entropy": False, "supcon": True, "simclr": True}
    tried = report["arms"]["supcon"]["selection"]["scores"]
    assert tried == {"0.05": [0.5], "0.1": [0.6], "0.2": [0.95]}
    assert len(cells.began) == 9
    assert [(one.method, one.seed, one.learning_rate) for one in cells.final] == [
        ("cross_entropy", 0, 0.1),
        ("supcon_out", 0, 0.2),
        ("simclr", 0, 0.05),
        ("cross_entropy", 1, 0.1),
        ("supcon_out", 1, 0.2),
        ("simclr", 1, 0.05),
    ]
    assert {one.validation_fraction for one in cells.final} == {0.0}
    assert {one.validation_epochs for one in cells.trained if one not in cells.final} == {3}
    assert {one.epochs for one in cells.final} == {3}


def test_the_report_has_means_and_paired_differences(run, cells, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "draw", cells.draw)
    report = run()
    arms = report["arms"]
    assert arms["supcon"]["summary"]["top1"]["mean"] == pytest.approx(0.855)
    found = arms["supcon"]["differences"]["top1"]
    assert found == pytest.approx({"mean": 0.05, "low": 0.05, "high": 0.05})
    found = arms["simclr"]["differences"]["top1"]  # -0.10 and -0.09.
    assert found["mean"] == pytest.approx(-0.095)
    assert found["high"] - found["mean"] == pytest.approx(12.7062 * 0.005, rel=1e-4)
    assert "differences" not in arms["cross_entropy"]
    assert "confusion_matrix" not in arms["supcon"]["runs"][0]["scores"]
    folder = tmp_path / "comparison"
    assert json.loads((folder / "report.json").read_text()) == report
    text = (folder / "report.md").read_text()
    assert "Equal number of images seen: 3 epochs of 1,347 images x 2 views, 7,680 in all." in text
    assert "1,347 training and 450 held-out images of 8 pixels" in text
    rows = [" ".join(line.split()) for line in text.splitlines()]  # Columns are padded.
    assert "| cross entropy | 80.5 ± 6.4 | 70.5 ± 6.4 | 5.0 ± 0.0 | 0.1 | 9 s |" in rows
    assert "| SimCLR | -9.5 ± 6.4 | -9.5 ± 6.4 | +0.0 ± 0.0 |" in rows
    assert "| SupCon (L_out) | 85.5 ± 6.4 | 75.5 ± 6.4 | 5.0 ± 0.0 | 0.2* | 9 s |" in rows
    for name in ("scores", "rates"):
        assert (folder / "pictures" / f"{name}.png").stat().st_size > 5000


def test_the_picture_of_the_rates_names_those_that_were_tried(run, cells, monkeypatch):
    drawn = {}
    monkeypatch.setattr(figures, "draw", cells.draw)
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.update({path.stem: figure}))
    run()
    (axis,) = drawn["rates"].axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0.05", "0.1", "0.2"]
    assert not axis.get_xticks(minor=True).size


def test_a_rate_that_fails_is_not_chosen(run, cells):
    def failing(config):
        wrong = config.method == "supcon_out" and config.learning_rate > 0.15
        return UserError("the loss is nan.") if wrong else None

    cells.failing = failing
    report = run()
    assert rates(report)["supcon"] == 0.1
    assert report["arms"]["supcon"]["selection"]["scores"]["0.2"] == [None]


def test_an_arm_that_always_fails_ends_the_comparison(run, cells):
    cells.failing = lambda config: (
        UserError("the loss is nan.") if config.method == "simclr" else None
    )
    with pytest.raises(UserError, match="arm simclr cannot be trained .* the loss is nan."):
        run()
    assert cells.final == []


def test_a_final_cell_that_fails_is_named(run, cells, monkeypatch):
    def finish(config, evaluation):
        raise UserError("the loss is nan.")

    monkeypatch.setattr(comparing, "finish_cell", finish)
    with pytest.raises(UserError, match="^arm cross_entropy, seed 0: the loss is nan.$"):
        run()


def test_a_stopped_comparison_continues_and_may_be_extended(run, cells, capsys):
    cells.ends_at = 4
    with pytest.raises(KeyboardInterrupt):
        run()
    cells.ends_at = None
    began = len(cells.began)
    report = run()
    assert len(cells.began) == began  # No rate is tried again.
    capsys.readouterr()
    more = run(seeds=3, arms="cross_entropy,supcon")
    assert len(cells.began) == began
    assert [one["seed"] for one in more["arms"]["supcon"]["runs"]] == [0, 1, 2]
    assert more["arms"]["supcon"]["runs"][:2] == report["arms"]["supcon"]["runs"]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("cell 1 of 12, tuning cross_entropy at rate 0.05: validation top-1")
    assert lines[-1].startswith("cell 12 of 12, supcon seed 2: 9 s of training")


def test_more_factors_train_what_they_change(run, cells):
    run(rate_factors="0.5,1")
    cells.final.clear()
    report = run(rate_factors="0.5,1,2")
    assert len(cells.began) == 9
    assert rates(report) == {"cross_entropy": 0.1, "supcon": 0.2, "simclr": 0.05}
    folders = {"/".join(one.run_dir.split("/")[-3:]) for one in cells.final if one.seed == 0}
    # A cell that is there is not trained again; supcon's with its former rate stays beside it.
    assert folders == {"runs/cross_entropy-1/0", "runs/supcon-2/0", "runs/simclr-0.5/0"}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"seconds": 5.0}, "seconds"),
        ({"base": BASE.replace(epochs=4)}, "epochs"),
        ({"base": BASE.replace(train_images=500)}, "train_images"),
    ],
)
def test_other_settings_are_refused_in_one_line(run, cells, change, name):
    run()
    done = len(cells.final)
    with pytest.raises(UserError, match=f"holds a different comparison: {name} was") as raised:
        run(**change)
    assert "\n" not in str(raised.value)
    assert "or another --comparison_dir" in str(raised.value)
    assert len(cells.final) == done


def test_one_factor_tries_nothing(run, cells):
    report = run(base=BASE.replace(validation_fraction=0.0), rate_factors="2")
    assert cells.began == []
    assert rates(report) == dict.fromkeys(("cross_entropy", "supcon", "simclr"), 0.2)
    assert report["arms"]["supcon"]["selection"]["scores"] == {}


def test_trying_rates_needs_validation_images(run, tmp_path):
    with pytest.raises(UserError, match="Pass --validation_fraction=0.2"):
        run(base=BASE.replace(validation_fraction=0.0))
    assert not (tmp_path / "comparison").exists()


def test_equal_wall_clock_gives_every_arm_its_epochs(run, cells, monkeypatch):
    speeds = {"cross_entropy": 1.0, "supcon_out": 2.5, "simclr": 30.0}
    timed = []

    def seconds_per_epoch(config, dataset):
        timed.append(config.method)
        return speeds[config.method]

    monkeypatch.setattr("supcon_tf.comparison.budget.seconds_per_epoch", seconds_per_epoch)
    report = run(seconds=20.0)
    assert [one.epochs for one in cells.final[:3]] == [20, 8, 1]
    assert report["budget"].startswith("equal wall-clock: as many whole epochs of training as fit")
    assert report["arms"]["supcon"]["settings"]["epochs"] == 8
    speeds["supcon_out"] = 1.0  # A later process may be faster: the epochs stay.
    run(seconds=20.0)
    assert timed == ["cross_entropy", "supcon_out", "simclr"]
    assert cells.final[-2].epochs == 8


def test_images_of_several_classes_are_refused(tmp_path):
    base = BASE.replace(dataset=write_several(tmp_path / "photos"), batch_size=16)
    config = CompareConfig(comparison_dir=str(tmp_path / "comparison"), arms="supcon,cross_entropy")
    with pytest.raises(UserError, match="compare needs images of one class each. Received: "):
        comparing.compare(config, base)
    assert not (tmp_path / "comparison").exists()
