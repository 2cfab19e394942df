"""A stability study whose trials are trained, by two processes."""

import json
import subprocess
import sys
import time

import pytest
from conftest import ROOT

import supcon_tf
from supcon_tf import evaluate, train_classifier
from supcon_tf.search.search_directory import SearchDirectory


@pytest.mark.exhaustive
@pytest.mark.slow
def test_two_processes_share_a_study(small_config, tmp_path):
    """A cheap pair of recipes; the scores are those that evaluate.py gives for the trials."""
    (tmp_path / "supcon.flags").write_text("--learning_rate=0.2\n")
    (tmp_path / "ce.flags").write_text("--method=cross_entropy\n--learning_rate=0.2\n")
    settings = {**small_config, "width_multiplier": 0.25, "validation_fraction": 0.2}
    study = {
        "recipes": {"SupCon": "supcon.flags", "cross entropy": "ce.flags"},
        "settings": {**settings, "epochs": 1, "warmup_epochs": 0.0},
        "factors": {"rate": {"changes": [{"learning_rate": {"times": 0.5}}]}},
    }
    (tmp_path / "study.json").write_text(json.dumps(study))
    out = tmp_path / "out"
    command = [sys.executable, "scripts/studies/stability.py", f"--study={tmp_path / 'study.json'}"]
    command += [f"--study_dir={out}", "--seeds=1", "--objective=nll"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as first:
        while not (out / "study.json").exists():
            assert first.poll() is None, first.communicate()
            time.sleep(0.1)
        second = subprocess.run([*command, "--resume"], cwd=ROOT, **pipes)
        said, lines = first.communicate()
    assert (first.returncode, second.returncode) == (0, 0), (lines, second.stderr)
    assert said == second.stdout
    assert "| learning_rate x 0.5 |" in said
    assert f"figure: {out}/stability.png" in said
    ran = [line.split(":")[0] for line in (lines + second.stderr).splitlines()]
    assert len(ran) == len(set(ran)) == 4
    report = json.loads((out / "stability.json").read_text())
    assert report["hardware"]["cpus"] >= 1
    place = SearchDirectory(str(out), "study")
    scores = {trial["label"]: trial["score"] for trial in report["trials"][::2]}
    assert scores["as it is"] == place.result("0").score
    run_dir = place.run_dir("0")
    train_classifier(supcon_tf.ClassifierConfig(run_dir=run_dir))
    metrics = evaluate(supcon_tf.EvaluateConfig(run_dir=run_dir, split="validation"))
    assert metrics["nll"] == scores["as it is"]
