"""Training and measures of one arm with one seed."""

import numpy as np
from _decoupling_model import (
    ARMS,
    activate,
    draw_latents,
    draw_noise,
    orthonormal_columns,
    threshold_ratio,
    weight_gradient,
)
from threadpoolctl import threadpool_limits

# Steps between two points of a curve.
INTERVAL = 50
_SAMPLES, _LABELLED, _TESTED = 4000, 2000, 10000
# Of the probe: relative to the mean square of the features.
_RIDGE = 1e-3


def train(setting, arm, seed, interval=INTERVAL):
    """Trains one network, and measures it during training and at the end.

    In every arm the seed gives the same inputs, first weights and measures; only the masks differ.

    Args:
        setting: the `Setting`.
        arm: one of `ARMS`.
        seed: an int.
        interval: steps between two points of the curves.

    Returns:
        `steps` and `curves` (the measures of the weights, one value for each of `steps`), and
        `final`: all measures at the end, and the signal fraction after stage 1. Ready for JSON.
    """
    of_model, of_data, of_masks, of_measures = map(np.random.default_rng, _seeds(seed))
    columns = orthonormal_columns(setting, of_model)
    shape = setting.neurons, setting.input_dim
    weights = setting.initial_scale * of_model.standard_normal(shape)
    steps, curves = [], []
    # On matrices of this size a second thread takes longer than it saves.
    with threadpool_limits(1):
        for step in range(setting.steps):
            if step % interval == 0 or step == setting.warmup_steps:
                steps.append(step)
                curves.append(measure_weights(weights, columns))
            views = ARMS[arm](draw_inputs(setting, columns, of_data), of_masks)
            thresholds = thresholds_at(setting, weights, step)
            gradient = weight_gradient(setting, weights, thresholds, views)
            weights = weights - setting.learning_rate * gradient
        steps.append(setting.steps)
        curves.append(measure_weights(weights, columns))
        outputs = measure_outputs(setting, weights, columns, of_measures)
    warm = curves[steps.index(min(setting.warmup_steps, setting.steps))]["signal_fraction"]
    return {
        "steps": steps,
        "curves": {name: [point[name] for point in curves] for name in curves[0]},
        "final": {"signal_fraction_after_stage_1": warm, **curves[-1], **outputs},
    }


def _seeds(seed):
    return np.random.SeedSequence(seed).spawn(4)


def draw_inputs(setting, columns, rng):
    """A batch x [B, D]."""
    latents = draw_latents(setting, setting.batch_size, rng)
    return latents @ columns.T + draw_noise(setting, setting.batch_size, rng)


def thresholds_at(setting, weights, step):
    """The thresholds b [m] at a step."""
    return threshold_ratio(setting, step) * np.linalg.norm(weights, axis=1)


def measure_weights(weights, columns):
    """Measures of how far each neuron's weights lie along the sparse features.

    Args:
        weights: float [m, D], no row 0.
        columns: M, float [D, d], orthonormal.

    Returns:
        `signal_fraction`, the mean of |M^T w|^2 / |w|^2; `purity`, the mean over neurons of the
        largest |cos(w, M_j)|; `coverage_min` and `coverage_median` over the features of the largest
        |cos(w, M_j)| of any neuron.
    """
    cosines = np.abs(weights @ columns) / np.linalg.norm(weights, axis=1, keepdims=True)  # [m, d]
    coverage = cosines.max(axis=0)
    return {
        "signal_fraction": float(np.square(cosines).sum(axis=1).mean()),
        "purity": float(cosines.max(axis=1).mean()),
        "coverage_min": float(coverage.min()),
        "coverage_median": float(np.median(coverage)),
    }


def measure_outputs(setting, weights, columns, rng):
    """Measures of the network's outputs at the end of training.

    Returns:
        `activity`, the share of outputs that are not 0; `output_snr`, E|f(M z)|^2 over z != 0, over
        E|f(xi)|^2; `probe_accuracy` of a linear classifier of sign(w* . z) with 2,000 labels.
    """
    thresholds = thresholds_at(setting, weights, setting.steps)

    def outputs(inputs):
        return activate(inputs @ weights.T, thresholds, setting.smoothing)[0]

    latents = draw_latents(setting, _SAMPLES, rng)
    signal, noise = latents @ columns.T, draw_noise(setting, _SAMPLES, rng)
    of_signal = np.square(outputs(signal[latents.any(axis=1)])).sum(axis=1).mean()
    of_noise = np.square(outputs(noise)).sum(axis=1).mean()
    return {
        "activity": float(np.mean(outputs(signal + noise) != 0)),
        "output_snr": float(of_signal / of_noise) if of_noise else None,
        "probe_accuracy": _probe_accuracy(setting, outputs, columns, rng),
    }


def _probe_accuracy(setting, outputs, columns, rng):
    """Accuracy on new inputs, z != 0, of a ridge regression of sign(w* . z)."""
    direction = rng.standard_normal(setting.latent_dim)
    latents = draw_latents(setting, 4 * (_LABELLED + _TESTED), rng)
    latents = latents[latents.any(axis=1)][: _LABELLED + _TESTED]
    noise = draw_noise(setting, len(latents), rng)
    features, labels = outputs(latents @ columns.T + noise), np.sign(latents @ direction)
    known, answers = features[:_LABELLED], labels[:_LABELLED]
    gram = known.T @ known
    ridge = _RIDGE * max(np.trace(gram) / len(gram), np.finfo(float).tiny)
    head = np.linalg.solve(gram + ridge * np.eye(len(gram)), known.T @ answers)
    return float(np.mean(np.sign(features[_LABELLED:] @ head) == labels[_LABELLED:]))
