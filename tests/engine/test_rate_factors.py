"""SGD with a factor on the rate of each variable."""

import keras
import numpy as np
import pytest

from supcon_tf.engine.rate_factors import FactoredSGD


def test_every_variable_moves_by_its_own_rate_as_in_the_formula():
    rng = np.random.default_rng(0)
    start = [rng.normal(size=(3, 2)), rng.normal(size=(2,)), rng.normal(size=(2, 2))]
    gradients = [[rng.normal(size=one.shape) for one in start] for _ in range(4)]
    factors, rate, momentum, l2 = (0.1, 1.0, 2.5), 0.3, 0.8, 0.05
    variables = [keras.Variable(one.astype(np.float32)) for one in start]
    optimizer = FactoredSGD(rate, factors, momentum=momentum, l2=l2)
    optimizer = FactoredSGD.from_config(optimizer.get_config())
    optimizer.build(variables)
    for step in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(one, "float32") for one in step])
    for index, (w, factor) in enumerate(zip(start, factors, strict=True)):
        v = np.zeros_like(w)
        for step in gradients:
            decay = l2 * w if w.ndim > 1 else 0.0  # Kernels alone are decayed.
            v = momentum * v - factor * rate * (step[index] + decay)
            w = w + v
        np.testing.assert_allclose(variables[index], w, rtol=1e-4, atol=1e-5)


def test_refuses_factors_that_do_not_fit():
    with pytest.raises(ValueError, match="factors must be above 0"):
        FactoredSGD(0.1, (1.0, 0.0))
    with pytest.raises(ValueError, match="one for each of the 1 variables. Received: 2"):
        FactoredSGD(0.1, (1.0, 2.0)).build([keras.Variable([0.0])])
