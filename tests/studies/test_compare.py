"""Comparisons of methods: finished runs are kept, the table and figure show every arm."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from supcon_tf import ClassifierConfig, PretrainConfig, UserError
from supcon_tf.comparison import cells
from supcon_tf.stages.checks import settings_checks
from supcon_tf.stages.run_directory import RunDirectory

STUDIES = Path(__file__).resolve().parents[2] / "scripts" / "studies"
sys.path.insert(0, str(STUDIES))  # As for a script that is run there.
import _compare_report as reporting  # noqa: E402
import _compare_run as running  # noqa: E402
import _comparisons as comparisons  # noqa: E402

sys.path.remove(str(STUDIES))


@pytest.fixture(scope="module")
def tiny(small_config):
    """Two methods of one epoch with a curve."""
    return comparisons.Study(
        title="Tiny",
        base={
            **small_config,
            "train_images": 400,
            "epochs": 1,
            "warmup_epochs": 0.0,
            "validation_fraction": 0.2,
        },
        arms={"SimCLR": {"method": "simclr"}, "cross entropy": {"method": "cross_entropy"}},
        curves=("knn_top1",),
        classifier={"epochs": 1},
        reached="knn_top1",
    )


@pytest.mark.exhaustive
@pytest.mark.slow
def test_every_arm_and_seed_is_run_once_and_shown(tiny, tmp_path):
    report = running.run_study(tiny, 2, tmp_path / "runs")
    assert [len(arm["runs"]) for arm in report["arms"].values()] == [2, 2]
    run = report["arms"]["SimCLR"]["runs"][1]
    assert run["seed"] == 1
    assert 0 < run["scores"]["top1"] <= 1
    assert len(run["history"]["knn_top1"]) == 1
    json.dumps(report)
    stamps = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").rglob("*.keras")}
    again = running.run_study(tiny, 2, tmp_path / "runs")
    assert again["arms"] == report["arms"]
    assert stamps == {f: f.stat().st_mtime_ns for f in (tmp_path / "runs").rglob("*.keras")}
    other = dataclasses.replace(tiny, base={**tiny.base, "learning_rate": 0.1})
    with pytest.raises(UserError, match="SimCLR/0 holds a run with different settings"):
        running.run_study(other, 1, tmp_path / "runs")
    table = reporting.table(tiny, report).splitlines()
    assert len(table) == 4
    assert table[2].startswith("| SimCLR")
    assert table[2].endswith(" epoch 1 |")
    reporting.draw(tiny, report, tmp_path / "tiny.png")
    assert (tmp_path / "tiny.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("files", "lacks"),
    [
        ({}, "'pretrain'"),
        ({"history": {"pretrain": {"loss": [1.0]}}}, "'test'"),
        ({"metrics": {"test": {}, "pretrain": {}}, "history": {"pretrain": {}}}, "'seconds'"),
    ],
)
def test_a_finished_run_that_lost_files_is_named(tiny, tmp_path, files, lacks):
    for name, content in {"manifest": {}, **files}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{tmp_path} is damaged: it lacks {lacks}. Remove it"):
        cells._found(RunDirectory(str(tmp_path)), tiny.curves)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_arms_that_differ_in_the_classifier_share_a_pretraining(tiny, tmp_path):
    study = dataclasses.replace(
        tiny,
        base={**tiny.base, "method": "supcon_out"},
        arms={"linear": {}, "tuned": {}},
        classifiers={"tuned": {"fine_tune": "1", "epochs": 2}},
    )
    report = running.run_study(study, 1, tmp_path / "runs")
    linear, tuned = (tmp_path / "runs" / name / "0" for name in ("linear", "tuned"))
    assert (linear / "encoder.keras").read_bytes() == (tuned / "encoder.keras").read_bytes()
    assert json.loads((tuned / "metrics.json").read_text())["classifier"]["fine_tuned"] == "1"
    assert report["arms"]["tuned"]["classifier"] == {"epochs": 2, "fine_tune": "1"}
    scores = [arm["runs"][0]["scores"] for arm in report["arms"].values()]
    assert scores[0]["knn_top1"] == scores[1]["knn_top1"]
    assert scores[0]["nll"] != scores[1]["nll"]


def test_the_studies_are_made_of_valid_settings():
    for study in comparisons.STUDIES.values():
        for arm in study.arms.values():
            for check in settings_checks(PretrainConfig(**{**study.base, **arm})):
                check()
        assert set(study.classifiers) <= set(study.arms)
        for how in study.classifiers.values():
            ClassifierConfig(**{**study.classifier, **how})


def test_a_spread_and_the_epoch_where_a_curve_is_reached(tiny):
    assert reporting.spread([0.5, 0.6, 0.7]) == "60.0 (50.0 to 70.0)"

    def arm(*curves):
        runs = [
            {"scores": {"top1": 0.5, "knn_top1": 0.5}, "seconds": 2.0, "history": {"knn_top1": one}}
            for one in curves
        ]
        return {"runs": runs}

    arms = {"first": arm([0.1, 0.5, 0.6], [0.1, 0.7, 0.8]), "other": arm([0.9, 0.2, 0.2])}
    slow = {"first": arm([0.9]), "other": arm([0.1])}
    for found, epochs in ((arms, ["3", "1"]), (slow, ["1", None])):
        lines = reporting.table(tiny, {"arms": found}).splitlines()[2:]
        for line, epoch in zip(lines, epochs, strict=True):
            assert line.endswith(f"epoch {epoch} |" if epoch else "never |")


def test_the_gain_of_one_curve_over_another(tiny):
    study = dataclasses.replace(tiny, reached="", gain=("a", "b"))
    curves = [{"a": [0.2, 0.5], "b": [0.1, 0.5]}, {"a": [0.3, 0.3], "b": [0.3, 0.2]}]
    scores = {"top1": 0.5, "knn_top1": 0.5}
    runs = [{"scores": scores, "seconds": 1.0, "history": one} for one in curves]
    table = reporting.table(study, {"arms": {"one": {"runs": runs}}})
    assert table.splitlines()[2].endswith("5.00 (5.00 to 5.00) |")
