"""Sparse coding data, random masks and a one-layer contrastive network with their gradients.

Wen and Li 2021, "Toward Understanding the Feature Learning Process of Self-supervised Contrastive
Learning". Inputs are x = M z + xi: M [D, d] has orthonormal columns, the sparse features; z is
sparse and symmetric; xi is Gaussian noise, the dense features. All arrays are float64.
"""

import dataclasses

import numpy as np
from scipy.special import ndtr


@dataclasses.dataclass(frozen=True)
class Setting:
    """The sizes of the model and how it is trained.

    Attributes:
        latent_dim: d, the sparse features.
        input_dim: D, called d1 in the paper.
        feature_probability: p, the probability that an entry of z is not 0.
        noise_variance: sigma^2 of each direction.
        neurons: m.
        batch_size: fresh inputs per step; the denominator runs over their second views.
        learning_rate: of plain gradient descent.
        temperature: tau.
        weight_decay: lambda.
        initial_scale: standard deviation of the first weights.
        steps: T.
        warmup_steps: steps of stage 1, whose thresholds are 0.
        ramp_steps: steps of stage 2 over which the thresholds rise; then they are held.
        first_threshold: threshold over the weight's norm at the start of stage 2.
        last_threshold: the same at the end of the rise.
        smoothing: s, standard deviation of the noise that smooths the activation; 0 for none.
    """

    latent_dim: int = 10
    input_dim: int = 100
    feature_probability: float = 0.1
    noise_variance: float = 0.25
    neurons: int = 30
    batch_size: int = 512
    learning_rate: float = 0.2
    temperature: float = 1.0
    weight_decay: float = 0.01
    initial_scale: float = 5e-3
    steps: int = 2000
    warmup_steps: int = 800
    ramp_steps: int = 600
    first_threshold: float = 0.2
    last_threshold: float = 0.9
    smoothing: float = 0.0


DEMONSTRATION = "demonstration"
# The demonstration, and settings near it that show how far it carries.
SETTINGS = {
    DEMONSTRATION: Setting(),
    "noise_0.40": Setting(noise_variance=0.40, steps=1500),
    "noise_0.80": Setting(noise_variance=0.80),
    "low_noise": Setting(
        latent_dim=16, input_dim=400, noise_variance=0.15, neurons=48, batch_size=256
    ),
    "frequent_features": Setting(
        latent_dim=8, input_dim=128, noise_variance=0.60, feature_probability=0.15, neurons=24
    ),
    "wide": Setting(input_dim=200, weight_decay=0.02, steps=3000),
}


def orthonormal_columns(setting, rng):
    """M [D, d], drawn uniformly."""
    columns, upper = np.linalg.qr(rng.standard_normal((setting.input_dim, setting.latent_dim)))
    return columns * np.sign(np.diag(upper))


def draw_latents(setting, count, rng):
    """Latents z [count, d]: entries -1 and 1, each with probability p / 2, else 0."""
    shape = count, setting.latent_dim
    signs = rng.choice([-1.0, 1.0], shape)
    return signs * (rng.random(shape) < setting.feature_probability)


def draw_noise(setting, count, rng):
    """Noise xi [count, D]."""
    noise = rng.standard_normal((count, setting.input_dim))
    return np.sqrt(setting.noise_variance) * noise


def complementary_masks(inputs, rng):
    """x+ = 2 D x and x++ = 2 (I - D) x, D diagonal of fair coins: no coordinate is in both."""
    kept = rng.integers(0, 2, inputs.shape)
    return 2.0 * kept * inputs, 2.0 * (1 - kept) * inputs


def no_masks(inputs, rng):
    """Both views are x."""
    return inputs, inputs


def independent_masks(inputs, rng):
    """x+ = 2 D x and x++ = 2 D' x, whose masks are drawn independently."""
    first, second = rng.integers(0, 2, (2, *inputs.shape))
    return 2.0 * first * inputs, 2.0 * second * inputs


ARMS = {
    "complementary masks": complementary_masks,
    "no augmentation": no_masks,
    "independent masks": independent_masks,
}


def second_moment(setting, columns, arm):
    """E[x+ x++^T] [D, D]: Sigma = p M M^T + sigma^2 I, without its diagonal if complementary."""
    covariance = setting.feature_probability * columns @ columns.T
    covariance += setting.noise_variance * np.eye(setting.input_dim)
    if arm != "complementary masks":
        return covariance
    return covariance - np.diag(np.diag(covariance))


def activate(inputs, thresholds, smoothing=0.0):
    """The symmetric thresholded activation and its derivative.

        h(u) = ReLU(u - b) - ReLU(-u - b)
        h_s(u) = E(u - b) - E(-u - b),   E(a) = a Phi(a / s) + s phi(a / s)

    the second being the mean of the first over Gaussian noise inside both ReLUs.

    Args:
        inputs: u, float [...].
        thresholds: b >= 0, broadcast to `inputs`.
        smoothing: s >= 0.

    Returns:
        h and dh/du, float [...] each.
    """
    above, below = inputs - thresholds, -inputs - thresholds
    if not smoothing:
        passed = np.abs(inputs) >= thresholds
        return np.maximum(above, 0.0) - np.maximum(below, 0.0), passed.astype(float)
    rectified = [
        a * ndtr(a / smoothing) + smoothing * _density(a / smoothing) for a in (above, below)
    ]
    return rectified[0] - rectified[1], ndtr(above / smoothing) + ndtr(below / smoothing)


def _density(values):
    return np.exp(-np.square(values) / 2) / np.sqrt(2 * np.pi)


def contrastive_loss(anchors, targets, temperature):
    """The loss of each anchor, and the gradient of their mean with respect to the anchors.

        l_i = -tau log(exp(a_i . c_i / tau) / sum_j exp(a_i . c_j / tau))

    Args:
        anchors: a = f(x+), float [B, m], not normalized.
        targets: c = f(x++), float [B, m]; no gradient flows into them.
        temperature: tau > 0.

    Returns:
        float [B] and float [B, m].
    """
    logits = anchors @ targets.T / temperature
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    totals = exponentials.sum(axis=1, keepdims=True)
    losses = temperature * (np.log(totals[:, 0]) - np.diag(shifted))
    return losses, ((exponentials / totals) @ targets - targets) / len(anchors)


def weight_gradient(setting, weights, thresholds, views):
    """The gradient [m, D] of the mean loss and of the weight decay, lambda / 2 sum |w|^2.

    Args:
        setting: the `Setting`.
        weights: W, float [m, D].
        thresholds: b, float [m], held fixed.
        views: x+ and x++, float [B, D] each.
    """
    (anchors, slopes), (targets, _) = (
        activate(view @ weights.T, thresholds, setting.smoothing) for view in views
    )
    _, by_anchors = contrastive_loss(anchors, targets, setting.temperature)
    return (by_anchors * slopes).T @ views[0] + setting.weight_decay * weights


def threshold_ratio(setting, step):
    """The ratio b / |w| at a step: 0 in stage 1, then rising linearly, then held."""
    if step < setting.warmup_steps:
        return 0.0
    risen = min(1.0, (step - setting.warmup_steps) / setting.ramp_steps)
    return setting.first_threshold + risen * (setting.last_threshold - setting.first_threshold)
