"""How far probabilities can be believed, and the temperature that makes them more believable."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from supcon_tf.stages.scores import negative_log_likelihood

_BINS = 15
_LOG_TEMPERATURE = (np.log(0.05), np.log(20.0))


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean gap between confidence and accuracy over 15 bins of equal width, weighted by their size.

    Args:
        probabilities: float [N, C].
        labels: int [N].

    Returns:
        A share in [0, 1].

    Reference:
        Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 3.
    """
    confidence = probabilities.max(axis=1)
    gap = (probabilities.argmax(axis=1) == labels) - confidence
    bins = np.minimum(np.ceil(confidence * _BINS).astype(int) - 1, _BINS - 1)
    return float(np.abs(np.bincount(bins, gap, _BINS)).sum() / len(labels))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature between 0.05 and 20 that minimizes the negative log likelihood.

    Args:
        logits: float [N, C] of images that were not trained on.
        labels: int [N].

    Reference:
        Guo et al. 2017, section 4.2.
    """

    def loss(log_temperature):
        return negative_log_likelihood(logits / np.exp(log_temperature), labels)

    found = minimize_scalar(loss, bounds=_LOG_TEMPERATURE, method="bounded")
    return float(np.exp(found.x))


def calibration_scores(logits: np.ndarray, labels: np.ndarray, temperature: float) -> dict:
    """Calibration before and after dividing the logits by a temperature.

    Args:
        logits: float [N, C].
        labels: int [N].
        temperature: above 0.

    Returns:
        `temperature`, and `nll` (nats) and `ece` with it and, as `nll_uncalibrated` and
        `ece_uncalibrated`, without it.
    """
    calibrated = logits / temperature
    return {
        "temperature": temperature,
        "nll": negative_log_likelihood(calibrated, labels),
        "ece": expected_calibration_error(softmax(calibrated, axis=1), labels),
        "nll_uncalibrated": negative_log_likelihood(logits, labels),
        "ece_uncalibrated": expected_calibration_error(softmax(logits, axis=1), labels),
    }
