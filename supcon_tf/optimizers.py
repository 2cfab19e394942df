"""Optimizers and learning-rate schedules."""

import keras


@keras.saving.register_keras_serializable("supcon_tf")
class MomentumSGD(keras.optimizers.SGD):
    """SGD with momentum whose weight decay is an L2 term of the gradient, as in the recipes.

        g <- g + l2 w;   v <- momentum v - rate g;   w <- w + v

    Keras's own `weight_decay` is decoupled from the momentum and so about 1 - momentum times as
    strong. Only variables with two axes or more are decayed: kernels, not biases or batch norm.
    It acts on the gradient that is already summed over replicas.

    Args:
        learning_rate: float, schedule or callable.
        momentum: float in [0, 1).
        l2: float >= 0, per step.
        **kwargs: as `keras.optimizers.SGD`.

    Raises:
        ValueError: if `l2` is negative.

    Reference:
        Khosla et al. 2020, section 4 (weight decay of the published recipes).
    """

    def __init__(self, learning_rate=0.01, momentum=0.9, l2=0.0, **kwargs):
        if l2 < 0:
            raise ValueError(f"l2 must be at least 0. Received: {l2}.")
        super().__init__(learning_rate=learning_rate, momentum=momentum, **kwargs)
        self.l2 = l2

    def update_step(self, gradient, variable, learning_rate):
        """One update of one variable, from its summed gradient."""
        if self.l2 and len(variable.shape) > 1:
            gradient = gradient + self.l2 * keras.ops.cast(variable, gradient.dtype)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        """The constructor's arguments."""
        return {**super().get_config(), "l2": self.l2}


def warmup_cosine(peak: float, total_steps: int, warmup_steps: int = 0, floor: float = 1e-3):
    """Linear warm-up from 0 to the peak, then cosine decay.

    Args:
        peak: float > 0, the highest learning rate.
        total_steps: steps in all, the warm-up's included.
        warmup_steps: steps of warm-up, below `total_steps`.
        floor: the last learning rate as a share of the peak.

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`.

    Raises:
        ValueError: if `warmup_steps` is not from 0 to below `total_steps`.

    Reference:
        Loshchilov and Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts", eq. 5,
        without restarts; Goyal et al. 2017, section 2.2 (warm-up).
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"warmup_steps must be from 0 to below {total_steps}. Received: {warmup_steps}."
        )
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup_steps else peak,
        decay_steps=total_steps - warmup_steps,
        alpha=floor,
        warmup_target=peak if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
