"""Comparisons that are trained: labels of the test split choose nothing, a kill loses nothing."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, write_images

from supcon_tf import CompareConfig, PretrainConfig, compare
from supcon_tf.comparison.arms import final_config, shared_recipe
from supcon_tf.comparison.budget import seconds_per_epoch
from supcon_tf.data.datasets import from_config

TINY = {"width_multiplier": 0.25, "batch_size": 16, "epochs": 2, "warmup_epochs": 0.0}
HOW = {"arms": "cross_entropy,supcon", "seeds": 1, "rate_factors": "0.01,1"}


def photos(folder, test_classes):
    """Dark and light images, train/ and test/; of the test split the classes may be exchanged."""
    write_images(folder / "train", ["dark", "light"], 30, seed=1)
    write_images(folder / "test", test_classes, 10, seed=2)
    return PretrainConfig(
        dataset=f"folder:{folder}", image_size_px=12, validation_fraction=0.2, **TINY
    )


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The settings of a comparison, and its report."""
    folder = tmp_path_factory.mktemp("compared")
    base = photos(folder / "photos", ["dark", "light"])
    return base, compare(CompareConfig(comparison_dir=str(folder / "comparison"), **HOW), base)


@pytest.mark.slow
def test_wrong_labels_in_the_test_split_change_no_selection(compared, tmp_path):
    base = photos(tmp_path / "photos", ["light", "dark"])
    config = CompareConfig(comparison_dir=str(tmp_path / "comparison"), **HOW)
    reports = [compared[1], compare(config, base)]
    for arm in ("cross_entropy", "supcon"):
        right, wrong = (report["arms"][arm] for report in reports)
        assert right["selection"] == wrong["selection"]
        scores = [one["runs"][0]["scores"]["top1"] for one in (right, wrong)]
        # The very same predictions, judged by the other labels.
        assert sum(scores) == pytest.approx(1.0)
    tried = reports[0]["arms"]["cross_entropy"]["selection"]["scores"]
    assert len({tuple(scores) for scores in tried.values()}) == 2  # There was a choice.


@pytest.mark.slow
def test_a_kill_at_any_time_changes_nothing(compared, tmp_path):
    base, first = compared
    killed = tmp_path / "killed"
    settings = {**HOW, **TINY, "dataset": base.dataset, "image_size_px": 12}
    flags = [f"--{name}={value}" for name, value in settings.items()]

    def start():
        command = [sys.executable, str(ROOT / "scripts/compare.py"), *flags]
        return subprocess.Popen(
            [*command, "--validation_fraction=0.2", f"--comparison_dir={killed}"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    for wanted in ("results/cross_entropy-1-0.json", "runs/supcon-*/0/config.json"):
        process = start()
        while process.poll() is None and not list(killed.glob(wanted)):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (killed / "report.json").exists()
    kept = (killed / "results/cross_entropy-1-0.json").stat().st_mtime_ns
    _, error = (process := start()).communicate()
    assert process.returncode == 0, error
    assert (killed / "results/cross_entropy-1-0.json").stat().st_mtime_ns == kept
    second = json.loads((killed / "report.json").read_text())
    for arm in first["arms"]:
        one, other = first["arms"][arm], second["arms"][arm]
        assert one["selection"] == other["selection"]
        assert one["values"] == other["values"]


def test_timing_writes_nothing(tmp_path, data_dir):
    base = PretrainConfig(
        data_dir=data_dir, run_dir=str(tmp_path / "run"), train_images=100, **TINY
    )
    config = final_config(shared_recipe(base, ("supcon",)), "supcon")
    assert 0 < seconds_per_epoch(config, from_config(config)) < 60
    assert list(tmp_path.iterdir()) == []


@pytest.mark.exhaustive
@pytest.mark.slow
def test_scores_on_corrupted_images_can_be_added_later(tmp_path, data_dir):
    base = PretrainConfig(data_dir=data_dir, train_images=100, **TINY)
    how = {**HOW, "rate_factors": "1", "comparison_dir": str(tmp_path / "comparison")}
    plain = compare(CompareConfig(**how), base)
    assert set(plain["arms"]["supcon"]["values"]) == {"top1", "knn_top1", "ece"}
    encoders = sorted((tmp_path / "comparison").rglob("encoder.keras"))
    stamps = [file.stat().st_mtime_ns for file in encoders]
    for images in (10, 20):
        report = compare(CompareConfig(corruptions=True, corruption_images=images, **how), base)
        arms = report["arms"]
        assert arms["supcon"]["runs"][0]["scores"]["corruptions"]["images"] == images
        assert arms["cross_entropy"]["values"]["mce"] == [1.0]
        assert arms["supcon"]["values"]["mce"][0] > 0
        assert arms["supcon"]["values"]["top1"] == plain["arms"]["supcon"]["values"]["top1"]
    assert stamps == [file.stat().st_mtime_ns for file in encoders]
    assert (tmp_path / "comparison/pictures/robustness.png").stat().st_size > 5000
