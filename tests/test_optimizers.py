import keras
import numpy as np
import pytest

from supcon_tf import MomentumSGD, warmup_cosine


def test_weight_decay_is_part_of_the_gradient_and_spares_vectors():
    optimizer = MomentumSGD(0.1, momentum=0.9, l2=0.5)
    kernel = keras.Variable(np.array([[1.0, -2.0]], np.float32))
    bias = keras.Variable(np.array([3.0], np.float32))
    w, v = np.array([[1.0, -2.0]]), 0.0
    b, u = np.array([3.0]), 0.0
    for step in range(4):
        g = np.array([[0.3 * (step + 1), -0.2]])
        optimizer.apply([g.astype(np.float32), np.array([0.1], np.float32)], [kernel, bias])
        v = 0.9 * v - 0.1 * (g + 0.5 * w)
        w = w + v
        u = 0.9 * u - 0.1 * 0.1
        b = b + u
    np.testing.assert_allclose(kernel.numpy(), w, rtol=1e-6)
    np.testing.assert_allclose(bias.numpy(), b, rtol=1e-6)


def test_optimizer_round_trip():
    optimizer = MomentumSGD(warmup_cosine(0.3, 10, 2), momentum=0.8, l2=0.01, nesterov=True)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()


def test_refuses_negative_decay():
    with pytest.raises(ValueError, match="Received: -1"):
        MomentumSGD(l2=-1)


def test_schedule_warms_up_linearly_then_follows_the_cosine():
    schedule = warmup_cosine(2.0, 110, 10)
    rates = [float(schedule(step)) for step in (0, 5, 10, 60, 110)]
    np.testing.assert_allclose(rates[:3], [0, 1, 2], atol=1e-6)
    np.testing.assert_allclose(rates[3], (1 + 1e-3) / 2 * 2.0, rtol=1e-5)
    np.testing.assert_allclose(rates[4], 2e-3, rtol=1e-4)


def test_schedule_without_warmup_starts_at_the_peak():
    assert float(warmup_cosine(2.0, 10)(0)) == 2.0


@pytest.mark.parametrize("warmup", [-1, 10])
def test_schedule_refuses_a_warmup_that_does_not_fit(warmup):
    with pytest.raises(ValueError, match=f"below 10. Received: {warmup}"):
        warmup_cosine(1.0, 10, warmup)
