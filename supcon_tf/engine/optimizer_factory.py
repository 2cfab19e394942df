"""The optimizers of the recipes, by name."""

import math
import numbers

import keras

from supcon_tf.engine.optimizers import (
    LAMB,
    LARS,
    KernelAdamW,
    KernelMuon,
    L2RMSprop,
    MomentumSGD,
    require,
)

OPTIMIZERS = ("sgd", "lars", "rmsprop", "adamw", "lamb", "muon")


def make_optimizer(
    name: str,
    learning_rate,
    *,
    momentum: float | None = None,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
) -> keras.optimizers.Optimizer:
    """Builds an optimizer by name, as the recipes use it.

    | name    | class         | weight decay of kernels                       | momentum   |
    |---------|---------------|-----------------------------------------------|------------|
    | sgd     | `MomentumSGD` | L2 term of the gradient                       | 0.9        |
    | lars    | `LARS`        | L2 term of the gradient, inside the trust     | 0.9        |
    | rmsprop | `L2RMSprop`   | L2 term of the gradient, inside its mean      | 0.9        |
    | adamw   | `KernelAdamW` | decoupled: rate * weight_decay * w            | not taken  |
    | lamb    | `LAMB`        | term of Adam's step, inside the ratio         | not taken  |
    | muon    | `KernelMuon`  | decoupled: rate * weight_decay * w            | 0.95       |

    RMSprop has epsilon 1, as in the reference implementation: the published rates are for that, and
    far too high for Keras's 1e-7.

    Args:
        name: one of `OPTIMIZERS`.
        learning_rate: number > 0, schedule or callable.
        momentum: in [0, 1); None is the default above.
        nesterov: Nesterov momentum, for sgd and lars with a momentum above 0; muon always uses it.
        weight_decay: at least 0, per step.
        clip_norm: above 0: all gradients are scaled together so that the norm of their sum over
            replicas, over all variables and without weight decay, is at most this. None: no limit.

    Returns:
        The optimizer. Its state is in its variables only.

    Raises:
        ValueError: if an argument is out of range, or would have no effect on this optimizer.

    Reference:
        Khosla et al. 2020, section 4 (sgd, lars, rmsprop); Loshchilov and Hutter 2019 (adamw);
        You et al. 2020 (lamb); Jordan et al. 2024 (muon).
    """
    _check_arguments(name, learning_rate, momentum, nesterov, weight_decay, clip_norm)
    if isinstance(learning_rate, numbers.Real):
        learning_rate = float(learning_rate)
    shared = {"learning_rate": learning_rate, "global_clipnorm": clip_norm}
    if name == "adamw":
        return KernelAdamW(weight_decay=weight_decay, **shared)
    if name == "lamb":
        return LAMB(decay=weight_decay, **shared)
    if name == "muon":
        momentum = 0.95 if momentum is None else float(momentum)
        return KernelMuon(weight_decay=weight_decay, momentum=momentum, **shared)
    shared |= {"l2": weight_decay, "momentum": 0.9 if momentum is None else float(momentum)}
    if name == "rmsprop":
        return L2RMSprop(epsilon=1.0, **shared)
    return {"sgd": MomentumSGD, "lars": LARS}[name](nesterov=nesterov, **shared)


def _check_arguments(name, learning_rate, momentum, nesterov, weight_decay, clip_norm):
    require(name in OPTIMIZERS, "name", "one of " + ", ".join(OPTIMIZERS), name)
    if isinstance(learning_rate, numbers.Real):
        require(0 < learning_rate < math.inf, "learning_rate", "above 0", learning_rate)
    if momentum is not None:
        require(name not in ("adamw", "lamb"), "momentum", f"left out, for {name}", momentum)
        require(0 <= momentum < 1, "momentum", "from 0 to below 1", momentum)
    if nesterov:
        require(name in ("sgd", "lars"), "nesterov", f"left out, for {name}", nesterov)
        require(momentum != 0, "nesterov", "left out, for a momentum of 0", nesterov)
    require(0 <= weight_decay < math.inf, "weight_decay", "at least 0", weight_decay)
    if clip_norm is not None:
        require(0 < clip_norm < math.inf, "clip_norm", "above 0", clip_norm)
