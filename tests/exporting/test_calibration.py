import numpy as np
import pytest
from scipy.special import softmax

from supcon_tf.exporting.calibration import calibration_scores, fit_temperature
from supcon_tf.stages.scores import expected_calibration_error, negative_log_likelihood


def drawn(temperature, count=20_000, classes=4, seed=0):
    """Logits, and labels that follow softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(count, classes))
    shares = softmax(logits / temperature, axis=1)
    labels = (shares.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
    return logits, labels


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(temperature):
    found = fit_temperature(*drawn(temperature))
    assert found == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize(("count", "classes"), [(23, 4), (2, 2), (400, 10)])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_few_images_that_are_all_right_do_not_make_certain(count, classes, scale):
    labels = np.arange(count) % classes
    logits = scale * (np.eye(classes)[labels] + 0.1)
    shares = softmax(logits / fit_temperature(logits, labels), axis=1)
    # One image more, of all classes alike.
    expected = (1 + 1 / count / classes) / (1 + 1 / count)
    np.testing.assert_allclose(shares[np.arange(count), labels], expected, rtol=1e-3)


def test_likelihood_by_hand():
    logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])
    expected = -(np.log(0.25) + np.log(0.8)) / 2
    assert negative_log_likelihood(logits, np.array([1, 1])) == pytest.approx(expected)


def test_calibration_error_by_hand():
    # Two bins: three at 0.9 of which one is right, one at 0.6 that is right.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.4, 0.6]])
    labels = np.array([0, 1, 0, 1])
    expected = (3 * abs(1 / 3 - 0.9) + 1 * abs(1 - 0.6)) / 4
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected)


def test_certain_and_right_is_calibrated():
    assert expected_calibration_error(np.eye(3), np.arange(3)) == 0
    assert expected_calibration_error(np.eye(3), np.array([1, 2, 0])) == 1


def test_a_fitted_temperature_improves_both_scores():
    logits, labels = drawn(3.0)
    scores = calibration_scores(*drawn(3.0, seed=1), fit_temperature(logits, labels))
    assert scores["nll"] < scores["nll_uncalibrated"]
    assert scores["ece"] < 0.02 < 0.1 < scores["ece_uncalibrated"]
