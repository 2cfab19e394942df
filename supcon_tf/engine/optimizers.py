"""Optimizers of the recipes: all clip and decay the gradient that is summed over replicas.

Kernels are the variables with two axes or more. The others, biases and batch norm, are neither
decayed nor adapted. Keras would go by their names, which depend on who built the layer.
"""

import keras
from keras import ops


def _is_kernel(variable) -> bool:
    return len(variable.shape) > 1


def _with_l2(gradient, variable, l2):
    """The gradient of loss + l2 / 2 |w|^2, where w is a kernel."""
    if not l2 or not _is_kernel(variable):
        return gradient
    return gradient + l2 * ops.cast(variable, gradient.dtype)


def _norm(array):
    # Not `keras.ops.norm`, which refuses more than two axes.
    return ops.sqrt(ops.sum(ops.square(ops.cast(array, "float32"))))


def _trust(variable, update, coefficient=1.0):
    """The ratio coefficient |w| / |update|, []; 1 where either norm is 0. Norms in float32."""
    weight_norm, update_norm = _norm(variable), _norm(update)
    both = ops.logical_and(weight_norm > 0, update_norm > 0)
    ratio = coefficient * weight_norm / ops.where(both, update_norm, 1.0)
    return ops.cast(ops.where(both, ratio, 1.0), variable.dtype)


def require(fits: bool, name: str, rule: str, value) -> None:
    """Raises `ValueError` unless an argument fits its rule."""
    if not fits:
        raise ValueError(f"{name} must be {rule}. Received: {value}.")


class _ClipsSum:
    """Clips after the sum over replicas; Keras would clip each replica's share before."""

    def _clip_gradients(self, grads):
        return grads

    def _all_reduce_sum_gradients(self, grads_and_vars):
        grads, variables = zip(*super()._all_reduce_sum_gradients(grads_and_vars), strict=True)
        return list(zip(super()._clip_gradients(list(grads)), variables, strict=True))


@keras.saving.register_keras_serializable("supcon_tf")
class MomentumSGD(_ClipsSum, keras.optimizers.SGD):
    """SGD with momentum whose weight decay is an L2 term of the gradient, as in the recipes.

        g <- g + l2 w;   v <- momentum v - rate g;   w <- w + v

    With `nesterov`, w <- w + momentum v - rate g. Keras's own `weight_decay` is decoupled from the
    momentum and so about 1 - momentum times as strong. Only variables with two axes or more are
    decayed: kernels, not biases or batch norm.

    Args:
        learning_rate: float, schedule or callable.
        momentum: float in [0, 1).
        l2: float >= 0, per step.
        **kwargs: as for `keras.optimizers.SGD`.

    Raises:
        ValueError: if `l2` is negative.

    Reference:
        Khosla et al. 2020, section 4 (weight decay of the published recipes).
    """

    def __init__(self, learning_rate=0.01, momentum=0.9, l2=0.0, **kwargs):
        require(l2 >= 0, "l2", "at least 0", l2)
        super().__init__(learning_rate=learning_rate, momentum=momentum, **kwargs)
        self.l2 = l2

    def update_step(self, gradient, variable, learning_rate):
        """One update of one variable, from its summed gradient."""
        super().update_step(_with_l2(gradient, variable, self.l2), variable, learning_rate)

    def get_config(self):
        """The constructor's arguments."""
        return {**super().get_config(), "l2": self.l2}


@keras.saving.register_keras_serializable("supcon_tf")
class LARS(_ClipsSum, keras.optimizers.SGD):
    """SGD with momentum whose rate is adapted to each kernel, for large batches.

        g <- g + l2 w;   trust = trust_coefficient |w| / |g|, or 1 where |w| or |g| is 0
        v <- momentum v + rate trust g;   w <- w - v

    With `nesterov`, w <- w - momentum v - rate trust g. The norms are over the whole variable, in
    float32. Variables with fewer than two axes have neither l2 nor trust.

    The trust is not linear in the gradient: it is right only for that of the global batch. Nothing
    may normalise, clip or apply a replica's own share before the sum over replicas, which this
    class makes itself.

    Args:
        learning_rate: float, schedule or callable. It multiplies the trust, so that rates above 1
            are usual.
        momentum: float in [0, 1).
        l2: float >= 0, per step.
        trust_coefficient: float > 0.
        **kwargs: as for `keras.optimizers.SGD`.

    Raises:
        ValueError: if `l2` is negative or `trust_coefficient` is not positive.

    Reference:
        You, Gitman and Ginsburg 2017, "Large Batch Training of Convolutional Networks", algorithm
        1. Differs, as the reference code of SimCLR and SupCon does: the norm of g + l2 w, not the
        sum |g| + l2 |w|. That code exempts batch norm by name, but not biases.
    """

    def __init__(self, learning_rate=0.1, momentum=0.9, l2=0.0, trust_coefficient=0.001, **kwargs):
        require(l2 >= 0, "l2", "at least 0", l2)
        require(trust_coefficient > 0, "trust_coefficient", "above 0", trust_coefficient)
        super().__init__(learning_rate=learning_rate, momentum=momentum, **kwargs)
        self.l2 = l2
        self.trust_coefficient = trust_coefficient

    def update_step(self, gradient, variable, learning_rate):
        """One update of one variable, from its summed gradient."""
        gradient = _with_l2(ops.cast(gradient, variable.dtype), variable, self.l2)
        if _is_kernel(variable):
            gradient = gradient * _trust(variable, gradient, self.trust_coefficient)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        """The constructor's arguments."""
        own = {"l2": self.l2, "trust_coefficient": self.trust_coefficient}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("supcon_tf")
class L2RMSprop(_ClipsSum, keras.optimizers.RMSprop):
    """RMSprop whose weight decay is an L2 term of the gradient, before the mean of its square.

        g <- g + l2 w;   s <- rho s + (1 - rho) g^2
        v <- momentum v + rate g / sqrt(s + epsilon);   w <- w - v

    Only kernels are decayed.

    Args:
        learning_rate: float, schedule or callable.
        l2: float >= 0, per step.
        **kwargs: as for `keras.optimizers.RMSprop`.

    Raises:
        ValueError: if `l2` is negative.
    """

    def __init__(self, learning_rate=0.001, l2=0.0, **kwargs):
        require(l2 >= 0, "l2", "at least 0", l2)
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.l2 = l2

    def update_step(self, gradient, variable, learning_rate):
        """One update of one variable, from its summed gradient."""
        super().update_step(_with_l2(gradient, variable, self.l2), variable, learning_rate)

    def get_config(self):
        """The constructor's arguments."""
        return {**super().get_config(), "l2": self.l2}


@keras.saving.register_keras_serializable("supcon_tf")
class KernelAdamW(_ClipsSum, keras.optimizers.AdamW):
    """AdamW that decays kernels only: w <- w - rate weight_decay w, then Adam's step."""

    def _use_weight_decay(self, variable):
        # Keras's `exclude_from_weight_decay` goes by name or by list, and is not serialized.
        return _is_kernel(variable) and super()._use_weight_decay(variable)


@keras.saving.register_keras_serializable("supcon_tf")
class LAMB(_ClipsSum, keras.optimizers.Lamb):
    """LAMB as published, with biases and batch norm left to Adam.

        u = m' / (sqrt(v') + epsilon) + decay w;   w <- w - rate |w| / |u| u

    where m' and v' are Adam's unbiased moments, and the ratio is 1 where |w| or |u| is 0. Variables
    with fewer than two axes have neither decay nor ratio. Keras's own class decays outside the
    ratio and adapts all variables: a bias that starts at 0 is then held near its size after the
    first step.

    Args:
        learning_rate: float, schedule or callable.
        decay: float >= 0, per step.
        **kwargs: as for `keras.optimizers.Lamb`.

    Raises:
        ValueError: if `decay` is negative.

    Reference:
        You et al. 2020, "Large Batch Optimization for Deep Learning", algorithm 2.
    """

    def __init__(self, learning_rate=0.001, decay=0.0, **kwargs):
        require(decay >= 0, "decay", "at least 0", decay)
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.decay = decay

    def update_step(self, gradient, variable, learning_rate):
        """One update of one variable, from its summed gradient."""
        gradient, rate = (ops.cast(tensor, variable.dtype) for tensor in (gradient, learning_rate))
        index = self._get_variable_index(variable)
        m, v = self._momentums[index], self._velocities[index]
        self.assign_add(m, (gradient - m) * (1 - self.beta_1))
        self.assign_add(v, (ops.square(gradient) - v) * (1 - self.beta_2))
        step = ops.cast(self.iterations + 1, variable.dtype)
        unbiased_v = v / (1 - ops.power(self.beta_2, step))
        update = m / (1 - ops.power(self.beta_1, step)) / (ops.sqrt(unbiased_v) + self.epsilon)
        if _is_kernel(variable):
            update = update + self.decay * ops.convert_to_tensor(variable)
            rate = rate * _trust(variable, update)
        self.assign_sub(variable, rate * update)

    def get_config(self):
        """The constructor's arguments."""
        return {**super().get_config(), "decay": self.decay}


@keras.saving.register_keras_serializable("supcon_tf")
class KernelMuon(_ClipsSum, keras.optimizers.Muon):
    """Muon for every kernel, those of convolutions too, and Adam for the other variables.

        m <- momentum m + g;   u = orthogonal(g + momentum m)
        w <- w - rate weight_decay w;   w <- w - rate 0.2 sqrt(max(n, k)) u

    A kernel [..., k] is taken as a matrix [n, k], n the product of its first axes, and orthogonal()
    brings its singular values near 1 by five Newton-Schulz steps. Its update then has about the
    size of Adam's, so that one rate serves both. Keras's own leaves convolutions to Adam.

    Args:
        learning_rate: float, schedule or callable.
        momentum: float in [0, 1).
        weight_decay: float >= 0 or None, decoupled, of kernels only.
        **kwargs: as for `keras.optimizers.Muon`.

    Reference:
        Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; Liu et al.
        2025, "Muon is Scalable for LLM Training", section 2.2 (the factor).
    """

    def __init__(self, learning_rate=0.001, momentum=0.95, weight_decay=0.0, **kwargs):
        kwargs = {"adam_weight_decay": None, **kwargs}
        super().__init__(learning_rate, momentum=momentum, weight_decay=weight_decay, **kwargs)

    def _should_use_adamw(self, variable):
        return not _is_kernel(variable)

    def _use_weight_decay(self, variable):
        return _is_kernel(variable) and super()._use_weight_decay(variable)

    def zeropower_via_newtonschulz5(self, x, steps):
        """As Keras's, for a kernel with any number of axes, and scaled."""
        matrix = ops.reshape(x, [-1, x.shape[-1]])
        matrix = super().lr_adjust(super().zeropower_via_newtonschulz5(matrix, steps))
        return ops.reshape(matrix, x.shape)

    def lr_adjust(self, x):
        """Leaves an update as it is: `zeropower_via_newtonschulz5` has scaled it."""
        return x
