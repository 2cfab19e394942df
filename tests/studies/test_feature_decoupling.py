"""The feature decoupling study: identities by enumeration, vectors, resumption."""

import dataclasses
import itertools
import json
import sys

import numpy as np
import pytest
from conftest import ROOT

from supcon_tf import UserError

STUDIES = ROOT / "scripts/studies"
sys.path.insert(0, str(STUDIES))  # As for a script that is run there.
import _decoupling_study as study  # noqa: E402
from _decoupling_model import (  # noqa: E402
    ARMS,
    SETTINGS,
    Setting,
    activate,
    contrastive_loss,
    draw_latents,
    draw_noise,
    orthonormal_columns,
    second_moment,
    threshold_ratio,
    weight_gradient,
)
from _decoupling_run import measure_outputs, measure_weights, train  # noqa: E402
from feature_decoupling import DecouplingConfig  # noqa: E402

sys.path.remove(str(STUDIES))

W = np.array([0.5, -1.0, 0.3, 0.8])
X = np.array([1.0, 0.4, -0.6, 0.2])
TINY = Setting(latent_dim=3, input_dim=12, neurons=5, batch_size=8, steps=6, warmup_steps=3)


class Coins:
    """Stands for a generator: masks that were chosen, one of them per call."""

    def __init__(self, *masks):
        self.masks = np.array(masks)

    def integers(self, low, high, shape):
        return self.masks.reshape(shape)


def all_views(arm, inputs):
    """x+ and x++ of every equally likely mask, or pair of masks, of one input [D]."""
    masks = list(itertools.product([0, 1], repeat=len(inputs)))
    if arm == "independent masks":
        drawn = [Coins(first, second) for first in masks for second in masks]
    else:
        drawn = [Coins(mask) for mask in masks]
    return [[view[0] for view in ARMS[arm](inputs[None], coins)] for coins in drawn]


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        ("complementary masks", -0.461600),
        ("independent masks", 0.006400),
        ("no augmentation", 0.006400),
    ],
)
def test_products_of_the_views_by_enumerating_masks(arm, expected):
    views = all_views(arm, X)
    product = np.mean([(W @ first) * (W @ second) for first, second in views])
    overlap = np.sum(W**2 * X**2) if arm == "complementary masks" else 0.0
    assert product == pytest.approx((W @ X) ** 2 - overlap, abs=1e-12)
    assert product == pytest.approx(expected, abs=1e-6)


def test_moments_of_one_view_by_enumerating_masks():
    for arm in ("complementary masks", "independent masks"):
        for side in (0, 1):
            along = [W @ views[side] for views in all_views(arm, X)]
            assert np.mean(along) == pytest.approx(W @ X, abs=1e-12)
            expected = (W @ X) ** 2 + np.sum(W**2 * X**2)
            assert np.mean(np.square(along)) == pytest.approx(expected, abs=1e-12)
            assert np.mean(np.square(along)) == pytest.approx(0.474400, abs=1e-6)


# Four equally likely inputs: their mean is 0, their coordinates are correlated.
INPUTS = np.array([[1.0, 2.0], [-1.0, -2.0], [3.0, -1.0], [-3.0, 1.0]])


@pytest.mark.parametrize("arm", ARMS)
def test_the_second_moment_of_the_views(arm):
    products = [np.outer(*views) for one in INPUTS for views in all_views(arm, one)]
    covariance = np.mean([np.outer(one, one) for one in INPUTS], axis=0)
    if arm == "complementary masks":
        covariance = np.array([[0.0, covariance[0, 1]], [covariance[1, 0], 0.0]])
    np.testing.assert_allclose(np.mean(products, axis=0), covariance, atol=1e-12)


@pytest.mark.parametrize("arm", ARMS)
def test_the_population_matrix_is_the_mean_over_many_inputs(arm):
    """And isotropic noise adds nothing to it under complementary masks."""
    rng = np.random.default_rng(0)
    setting = dataclasses.replace(TINY, input_dim=4, feature_probability=0.3, noise_variance=0.5)
    columns = orthonormal_columns(setting, rng)
    expected = second_moment(setting, columns, arm)
    inputs = draw_latents(setting, 400_000, rng) @ columns.T + draw_noise(setting, 400_000, rng)
    first, second = ARMS[arm](inputs, rng)
    np.testing.assert_allclose(first.T @ second / len(inputs), expected, atol=0.01)
    noisier = dataclasses.replace(setting, noise_variance=5.0)
    same = np.allclose(second_moment(noisier, columns, arm), expected)
    assert same == (arm == "complementary masks")


@pytest.mark.parametrize("arm", ARMS)
def test_the_first_step_by_enumerating_batches(arm):
    """A mean step is (1 - 1 / B) W E[x+ x++^T]^T - lambda W while the softmax is uniform."""
    setting = dataclasses.replace(TINY, weight_decay=0.03)
    weights = 1e-5 * np.array([[0.3, -0.7], [0.9, 0.4], [-0.2, 0.5]])
    views = [pair for one in INPUTS for pair in all_views(arm, one)]
    batches = itertools.product(views, repeat=2)
    steps = [
        -weight_gradient(setting, weights, np.zeros(3), np.array(batch).transpose(1, 0, 2))
        for batch in batches
    ]
    moment = np.mean([np.outer(*pair) for pair in views], axis=0)
    expected = (1 - 1 / 2) * weights @ moment.T - 0.03 * weights
    np.testing.assert_allclose(np.mean(steps, axis=0), expected, rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize(
    ("inputs", "threshold", "smoothing", "expected"),
    [
        (0.7, 0.2, 0.0, 0.5),
        (-0.7, 0.2, 0.0, -0.5),
        (0.1, 0.2, 0.0, 0.0),
        (0.37, 0.0, 0.0, 0.37),
        (0.1, 0.2, 0.1, 0.008293),
        (-0.7, 0.2, 0.5, -0.534520),
        (0.7, 0.2, 0.1, 0.500000),
        (0.7, 0.0, 0.5, 0.700000),
    ],
)
def test_activation(inputs, threshold, smoothing, expected):
    value, slope = activate(np.array(inputs), threshold, smoothing)
    assert value == pytest.approx(expected, abs=1e-6)
    ahead, behind = (activate(np.array(inputs + d), threshold, smoothing)[0] for d in (1e-6, -1e-6))
    assert slope == pytest.approx((ahead - behind) / 2e-6, abs=1e-6)


def test_the_smoothed_activation_is_the_mean_over_noise():
    noise = np.random.default_rng(0).normal(0, 0.5, 10**6)
    mean = np.mean(np.maximum(0.9 - 0.2 + noise, 0) - np.maximum(-0.9 - 0.2 + noise, 0))
    assert activate(np.array(0.9), 0.2, 0.5)[0] == pytest.approx(mean, abs=2e-3)


def test_loss_vector_and_gradient():
    anchors = np.array([[1, 0.2], [0.1, -0.5], [-0.7, 0.3]])
    targets = np.array([[0.8, 0.1], [0.3, -0.6], [-0.5, 0.9]])
    losses, gradient = contrastive_loss(anchors, targets, 2.0)
    np.testing.assert_allclose(losses, [1.658566, 1.849350, 1.545959], atol=1e-6)
    assert losses.mean() == pytest.approx(1.684625, abs=1e-6)
    expected = [[-0.159746, -0.008129], [-0.012947, 0.210627], [0.186858, -0.208570]]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    losses, gradient = contrastive_loss(1e3 * anchors, targets, 1e-3)
    assert np.isfinite(losses).all()
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_gradient_by_the_weights_equals_differences(smoothing):
    rng = np.random.default_rng(0)
    setting = dataclasses.replace(TINY, smoothing=smoothing, temperature=0.7, weight_decay=0.2)
    weights, thresholds = rng.normal(size=(2, 3)), np.array([0.2, 0.4])
    views = rng.normal(size=(2, 4, 3))
    targets = activate(views[1] @ weights.T, thresholds, smoothing)[0]

    def loss(changed):
        anchors = activate(views[0] @ changed.T, thresholds, smoothing)[0]
        return contrastive_loss(anchors, targets, 0.7)[0].mean() + 0.1 * np.sum(changed**2)

    found = weight_gradient(setting, weights, thresholds, views)
    for at in np.ndindex(*weights.shape):
        change = np.zeros_like(weights)
        change[at] = 1e-6
        expected = (loss(weights + change) - loss(weights - change)) / 2e-6
        assert found[at] == pytest.approx(expected, abs=1e-7)


def test_data_and_first_weights():
    rng, setting = np.random.default_rng(0), Setting()
    columns = orthonormal_columns(setting, rng)
    np.testing.assert_allclose(columns.T @ columns, np.eye(10), atol=1e-12)
    latents = draw_latents(setting, 20_000, rng)
    assert set(np.unique(latents)) == {-1, 0, 1}
    assert np.mean(latents != 0) == pytest.approx(0.1, abs=0.005)
    assert np.mean(latents) == pytest.approx(0, abs=0.005)
    assert np.var(draw_noise(setting, 5000, rng)) == pytest.approx(0.25, abs=0.005)
    weights = rng.normal(size=(3000, 100))
    assert measure_weights(weights, columns)["signal_fraction"] == pytest.approx(0.1, abs=0.01)


def test_thresholds_rise_after_the_first_stage_and_are_held():
    found = [threshold_ratio(Setting(), step) for step in (0, 799, 800, 1100, 1400, 2000)]
    np.testing.assert_allclose(found, [0, 0, 0.2, 0.55, 0.9, 0.9])


def test_measures_by_hand():
    columns = np.eye(4)[:, :3]
    weights = np.array([[3.0, 0, 0, 4.0], [0, -2.0, 0, 0], [0, 0.6, 0.8, 0]])
    found = measure_weights(weights, columns)
    assert found["signal_fraction"] == pytest.approx((0.36 + 1 + 1) / 3)
    assert found["purity"] == pytest.approx((0.6 + 1 + 0.8) / 3)
    assert found["coverage_min"] == pytest.approx(0.6)
    assert found["coverage_median"] == pytest.approx(0.8)


def test_a_network_that_sees_the_features_alone_passes_no_noise_on():
    setting = dataclasses.replace(
        TINY, noise_variance=1e-6, ramp_steps=1, last_threshold=0.5, feature_probability=0.2
    )
    columns = orthonormal_columns(setting, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    found = measure_outputs(setting, 2.0 * columns.T, columns, rng)
    assert found["output_snr"] is None  # No output of noise alone passes the thresholds.
    assert found["activity"] == pytest.approx(0.2, abs=0.01)
    assert found["probe_accuracy"] > 0.9
    silent = dataclasses.replace(setting, last_threshold=10.0)
    found = measure_outputs(silent, 2.0 * columns.T, columns, rng)
    assert found["activity"] == 0.0
    assert found["output_snr"] is None


def test_training_is_deterministic_and_the_masks_matter():
    first, again = (train(TINY, "complementary masks", 1, interval=2) for _ in range(2))
    assert first == again
    assert first["steps"] == [0, 2, 3, 4, 6]
    others = [train(TINY, arm, 1) for arm in ("no augmentation", "independent masks")]
    starts = [one["curves"]["purity"][0] for one in (first, *others)]
    assert starts[0] == starts[1] == starts[2]
    ends = {one["final"]["purity"] for one in (first, *others)}
    assert len(ends) == 3
    assert train(TINY, "no augmentation", 2)["final"] != others[0]["final"]


def test_masks_favour_the_features_after_a_few_steps():
    setting = dataclasses.replace(Setting(), steps=250, warmup_steps=250, batch_size=256)
    found = [train(setting, arm, 0)["final"]["signal_fraction"] for arm in list(ARMS)[:2]]
    assert found[0] > found[1] + 0.1


def test_a_study_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    trained = []
    monkeypatch.setattr(
        study, "train", lambda *given: trained.append(given[1:]) or train(*given, interval=2)
    )
    study.run_study("tiny", TINY, 1, tmp_path)
    assert trained == [(arm, 0) for arm in ARMS]
    report = study.run_study("tiny", TINY, 2, tmp_path)
    assert trained[3:] == [(arm, 1) for arm in ARMS]
    assert "no augmentation, seed 1: signal fraction" in capsys.readouterr().err
    assert json.loads((tmp_path / "tiny.json").read_text()) == report
    assert len(report["runs"]) == 6
    purity = [run["purity"] for run in report["runs"] if run["arm"] == "no augmentation"]
    spread = report["summary"]["no augmentation"]["purity"]
    assert spread["mean"] == pytest.approx(np.mean(purity))
    assert (spread["least"], spread["most"]) == (min(purity), max(purity))
    lines = (tmp_path / "tiny.md").read_text().splitlines()
    assert [line.split(" |")[0].strip("| ") for line in lines[2:]] == list(ARMS)
    assert (tmp_path / "tiny.png").stat().st_size > 5000
    with pytest.raises(UserError, match="holds results of a different setting tiny. Pass another"):
        study.run_study("tiny", dataclasses.replace(TINY, steps=5), 2, tmp_path)


def test_claims_look_at_the_worst_seed():
    high, low = (dict.fromkeys(study.MEASURES, value) for value in (0.95, 0.1))
    arms = list(ARMS)
    finals = [{"arm": arms[0], **high}, {"arm": arms[0], **high}, {"arm": arms[1], **low}]
    assert all(one["held"] for one in study.check_claims(finals))
    finals[1]["coverage_median"] = 0.5
    failed = [one for one in study.check_claims(finals) if not one["held"]]
    assert [one["nearest"] for one in failed] == [0.5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"setting": "none"}, "setting must be one of demonstration, .*Received: 'none'"),
        ({"seeds": 0}, "seeds must be at least 1 .*Received: 0"),
        ({"study_dir": ""}, "study_dir must name a directory. Received: ''"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        DecouplingConfig(**settings)


def test_every_setting_has_stages_within_its_steps():
    for setting in SETTINGS.values():
        assert setting.warmup_steps + setting.ramp_steps <= setting.steps
