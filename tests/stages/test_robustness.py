"""Scores on corrupted images: counted by hand, relative to a baseline, recorded with a run."""

import csv
import json
import shutil

import numpy as np
import pytest
from scipy.special import softmax

import supcon_tf
from supcon_tf import UserError
from supcon_tf.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from supcon_tf.stages import robustness
from supcon_tf.stages.robustness import corruption_scores, relative_scores
from supcon_tf.stages.scores import calibration_error, expected_calibration_error


def classify(images):
    """Logits of ten classes from the mean brightness: 0 is dark, 9 is light."""
    level = np.asarray(images).mean(axis=(1, 2, 3))
    return -((level[:, None] * 25 - np.arange(10)) ** 2)


def test_errors_and_calibration_are_those_of_the_corrupted_images(digits):
    found = corruption_scores(digits.test, classify, 8, limit=40, seed=5)
    part = digits.test.spread(40)
    images, labels = next(iter(part.images(8, 40)))
    pixels, labels = np.rint(images.numpy() * 255).astype(np.uint8), labels.numpy()
    for name, level in (("brightness", 4), ("snow", 2), ("gaussian_noise", 1)):
        logits = classify(corrupt(pixels, name, level, seed=5) / 255)
        expected = np.mean(logits.argmax(axis=1) != labels)
        scores = found["by_corruption"][name]
        assert scores["error"][level - 1] == pytest.approx(expected)
        ece = expected_calibration_error(softmax(logits, axis=1), labels)
        assert scores["ece"][level - 1] == pytest.approx(ece, abs=1e-6)
    assert found["clean"]["error"] == pytest.approx(
        np.mean(classify(images).argmax(axis=1) != labels)
    )
    assert list(found["by_corruption"]) == list(CORRUPTIONS)
    errors = [scores["error"] for scores in found["by_corruption"].values()]
    assert np.shape(errors) == (15, 5)
    assert found["mean_error"] == pytest.approx(np.mean(errors))
    assert (found["images"], found["side_px"], found["seed"]) == (40, 8, 5)


def test_the_scores_depend_on_the_seed_alone(digits, monkeypatch):
    monkeypatch.setattr(robustness, "CORRUPTIONS", ("shot_noise", "snow"))
    first, same, other = (
        corruption_scores(digits.test, classify, 8, limit=40, seed=seed) for seed in (5, 5, 6)
    )
    assert first == same
    assert first["clean"] == other["clean"]
    assert first["by_corruption"] != other["by_corruption"]


def scores_of(rng, clean):
    errors = {name: (clean + rng.random(5) / 2).tolist() for name in CORRUPTIONS}
    return {
        "clean": {"error": clean},
        "by_corruption": {name: {"error": error} for name, error in errors.items()},
    }


def test_relative_scores_equal_the_definition():
    rng = np.random.default_rng(0)
    model, baseline = scores_of(rng, 0.1), scores_of(rng, 0.3)
    found = relative_scores(model, baseline)
    plain, relative = [], []
    for name in CORRUPTIONS:
        sums = np.zeros((2, 2))  # Of the model and the baseline: errors, and what is above clean.
        for row, scores in enumerate((model, baseline)):
            for level in range(5):
                error = scores["by_corruption"][name]["error"][level]
                sums[row] += error, error - scores["clean"]["error"]
        plain.append(sums[0, 0] / sums[1, 0])
        relative.append(sums[0, 1] / sums[1, 1])
    assert found["mce"] == pytest.approx(np.mean(plain))
    assert found["relative_mce"] == pytest.approx(np.mean(relative))
    assert list(found["ce"].values()) == pytest.approx(plain)
    assert list(found["relative_ce"].values()) == pytest.approx(relative)
    same = relative_scores(baseline, baseline)
    assert (same["mce"], same["relative_mce"]) == (1.0, 1.0)


def test_a_baseline_that_loses_nothing_leaves_the_relative_score_undefined():
    rng = np.random.default_rng(0)
    model, baseline = scores_of(rng, 0.1), scores_of(rng, 0.3)
    baseline["by_corruption"]["fog"]["error"] = [0.3] * 5
    found = relative_scores(model, baseline)
    assert found["relative_mce"] is None
    assert found["relative_ce"]["fog"] is None
    assert found["relative_ce"]["snow"] > 0
    assert found["mce"] > 0


def test_the_calibration_error_of_predictions_by_hand():
    confidence, hits = np.array([0.95, 0.95, 0.35]), np.array([1, 0, 1])
    # Two in one bin: |0.5 - 0.95|, weighed 2/3; one alone: 1 - 0.35, weighed 1/3.
    expected = 0.45 * 2 / 3 + 0.65 / 3
    assert calibration_error(confidence, hits) == pytest.approx(expected)


@pytest.fixture
def run_dir(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.mark.slow
def test_a_run_is_scored_on_corrupted_images(run_dir, monkeypatch):
    monkeypatch.setattr(robustness, "CORRUPTIONS", ("contrast", "jpeg_compression"))

    def scored(**how):
        config = supcon_tf.EvaluateConfig(
            run_dir=str(run_dir), corruptions=True, corruption_images=24, **how
        )
        return supcon_tf.evaluate(config)

    with pytest.raises(UserError, match="baseline has no scores on corrupted images of test"):
        scored(baseline=str(run_dir))
    first = scored()
    assert json.loads((run_dir / "metrics.json").read_text())["test"] == first
    found = first["corruptions"]
    assert found["images"] == 24
    assert 0 <= found["clean"]["error"] < 0.4
    assert found["mean_error"] > found["clean"]["error"]
    table = (run_dir / "evaluation/test/corruptions.csv").read_text()
    rows = list(csv.DictReader(table.splitlines()))
    assert len(rows) == 1 + 2 * len(SEVERITIES)
    assert float(rows[-1]["error"]) == found["by_corruption"]["jpeg_compression"]["error"][-1]
    assert (run_dir / "pictures/corruptions.png").stat().st_size > 5000
    again = scored(baseline=str(run_dir))["corruptions"]
    assert again["mce"] == 1.0
    assert again["by_corruption"] == found["by_corruption"]
    with pytest.raises(UserError, match="different corrupted images: seed was 0, is 1 now"):
        scored(baseline=str(run_dir), seed=1)


def test_corruptions_need_a_classifier(run_dir):
    (run_dir / "classifier.keras").unlink()
    config = supcon_tf.EvaluateConfig(run_dir=str(run_dir), corruptions=True)
    with pytest.raises(UserError, match="has none. Run supcon-tf classify first"):
        supcon_tf.evaluate(config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"corruption_images": 5}, "corruption_images has no effect without corruptions"),
        ({"baseline": "runs/a"}, "baseline has no effect without corruptions"),
        (
            {"model": "m", "dataset": "folder:x", "corruptions": True},
            "corruptions has no effect with model",
        ),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        supcon_tf.EvaluateConfig(**settings)
