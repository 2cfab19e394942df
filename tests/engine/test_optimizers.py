"""Updates against their formulas in float64: compiled, on two replicas, loss-scaled and resumed."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from engine.optimizer_formulas import (
    RATES,
    SETTINGS,
    STEPS,
    assert_close,
    reference,
    train,
    values,
    variables,
)

from supcon_tf import MomentumSGD, make_strategy, warmup_cosine
from supcon_tf.engine.optimizer_factory import OPTIMIZERS, make_optimizer
from supcon_tf.engine.optimizers import LAMB, LARS, KernelAdamW


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_follows_its_formula(name, settings, compiled):
    weights, gradients = values()
    found = train(
        make_optimizer(name, RATES[name], **settings), gradients, variables(weights), compiled
    )
    assert_close(found, reference(name, **settings))


def train_on_two(optimizer, gradients, trained, strategy, shares):
    """As `train`, of replicas that hold unequal parts of each gradient."""

    @tf.function
    def step(step_gradients):
        strategy.run(lambda parts: optimizer.apply(parts, trained), args=(step_gradients,))

    for step_gradients in gradients:
        parts = [
            strategy.experimental_distribute_values_from_function(
                lambda context, whole=gradient: tf.constant(
                    shares(context.replica_id_in_sync_group, whole), tf.float32
                )
            )
            for gradient in step_gradients
        ]
        step(parts)
    for variable in trained:
        first, second = strategy.experimental_local_results(variable.value)
        np.testing.assert_array_equal(first, second)
    return [variable.numpy() for variable in trained]


def unequal_shares(replica, gradient):
    """Two parts that add up to the gradient, whose norms do not."""
    second = 0.3 * gradient + np.arange(gradient.size).reshape(gradient.shape) * 0.5
    return (gradient - second, second)[replica]


@pytest.mark.multi_device
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_replicas_equal_one(name):
    strategy = make_strategy("mirrored")
    assert strategy.num_replicas_in_sync == 2
    weights, gradients = values()
    schedule = warmup_cosine(RATES[name], 2 * STEPS, 2)
    settings = {"weight_decay": 0.3, "clip_norm": 1.0}
    with strategy.scope():
        trained = variables(weights)
        optimizer = make_optimizer(name, schedule, **settings)
        optimizer.build(trained)
    found = train_on_two(optimizer, gradients, trained, strategy, unequal_shares)
    assert_close(found, reference(name, rate=lambda step: float(schedule(step)), **settings))


@pytest.mark.multi_device
@pytest.mark.parametrize("clip", [{"clipnorm": 0.5}, {"clipvalue": 0.1}, {"global_clipnorm": 0.5}])
def test_every_kind_of_clipping_acts_on_the_sum(clip):
    strategy = make_strategy("mirrored")
    weights, gradients = values()
    one = train(MomentumSGD(0.1, **clip), gradients, variables(weights))
    with strategy.scope():
        trained = variables(weights)
        optimizer = MomentumSGD(0.1, **clip)
        optimizer.build(trained)
    assert_close(train_on_two(optimizer, gradients, trained, strategy, unequal_shares), one)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_loss_scaling_changes_nothing_and_skips_a_step_that_overflowed(name):
    weights, gradients = values()
    scale = 2.0**10
    scaled = [[scale * gradient for gradient in step] for step in gradients]
    overflowed = [gradient.copy() for gradient in scaled[0]]
    overflowed[0].flat[0] = np.inf
    inner = make_optimizer(name, RATES[name], weight_decay=0.3, clip_norm=1.0)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=2 * scale)
    # The overflow halves the scale, to the one that the gradients have.
    found = train(optimizer, [overflowed, *scaled], variables(weights), compiled=True)
    assert_close(found, reference(name, weight_decay=0.3, clip_norm=1.0))


@pytest.mark.parametrize("name", ["lars", "adamw"])
def test_trains_a_compiled_model_in_mixed_float16(name):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.layers.Dense(3, dtype="mixed_float16"), keras.layers.BatchNormalization()]
    )
    model.build((None, 4))
    optimizer = keras.optimizers.LossScaleOptimizer(make_optimizer(name, RATES[name], clip_norm=1))
    model.compile(optimizer=optimizer, loss="mse", jit_compile=True)
    before = model.layers[0].kernel.numpy()
    rng = np.random.default_rng(0)
    model.fit(rng.normal(size=(32, 4)), rng.normal(size=(32, 3)), batch_size=8, verbose=0)
    assert int(optimizer.iterations.numpy()) > 0
    assert all(np.isfinite(weight.numpy()).all() for weight in model.weights)
    assert np.abs(model.layers[0].kernel.numpy() - before).max() > 1e-4


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resumes_from_saved_weights(name, tmp_path):
    _, gradients = values()
    gradients = [[step[1], step[3]] for step in gradients]  # Of a Dense(4) on 3 inputs.

    def build():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Dense(4)])
        model.build((None, 3))
        rate = warmup_cosine(RATES[name], 2 * STEPS, 2)
        model.compile(optimizer=make_optimizer(name, rate, weight_decay=0.3, clip_norm=1.0))
        model.optimizer.build(model.trainable_variables)
        return model

    whole, begun, resumed = build(), build(), build()
    wanted = train(whole.optimizer, gradients, whole.trainable_variables)
    train(begun.optimizer, gradients[:2], begun.trainable_variables)
    begun.save_weights(tmp_path / "half.weights.h5")
    resumed.load_weights(tmp_path / "half.weights.h5")
    found = train(resumed.optimizer, gradients[2:], resumed.trainable_variables)
    assert_close(found, wanted, rtol=1e-7, atol=0)
    for left, right in zip(resumed.optimizer.variables, whole.optimizer.variables, strict=True):
        np.testing.assert_allclose(left.numpy(), right.numpy(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_round_trip(name, settings):
    optimizer = make_optimizer(name, warmup_cosine(RATES[name], 8, 2), **settings)
    wrapped = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1.0)
    for whole in (optimizer, wrapped):
        again = keras.optimizers.deserialize(keras.optimizers.serialize(whole))
        assert again.get_config() == whole.get_config()
    weights, gradients = values()
    wanted = train(optimizer, gradients, variables(weights))
    assert_close(train(again, gradients, variables(weights)), wanted)


def test_lars_moves_a_kernel_by_a_share_of_its_norm_whatever_the_gradient():
    for size in (1e-6, 1.0, 1e6):
        kernel = keras.Variable(np.array([[3.0, 4.0]], np.float32))
        LARS(2.0).apply([np.array([[0.0, size]], np.float32)], [kernel])
        # |w| = 5, times the rate 2 and the trust coefficient 0.001.
        np.testing.assert_allclose(kernel.numpy(), [[3.0, 4.0 - 0.01]], rtol=1e-6)


def test_lars_takes_norms_in_float32():
    # In float16 the square of 300 would be infinite, and that of 1e-5 nothing.
    kernel = keras.Variable(np.full((2, 2), 300.0), dtype="float16")
    LARS(10.0).apply([tf.constant(np.full((2, 2), 1e-5), tf.float16)], [kernel])
    np.testing.assert_allclose(kernel.numpy(), 297.0, rtol=1e-3)


def test_lamb_leaves_biases_to_adam():
    bias, kernel = (keras.Variable(np.zeros(shape, np.float32)) for shape in (2, (2, 1)))
    optimizer = LAMB(0.01)
    for _ in range(50):
        optimizer.apply([np.ones(2, np.float32), np.ones((2, 1), np.float32)], [bias, kernel])
    np.testing.assert_allclose(bias.numpy(), [-0.5, -0.5], rtol=1e-4)
    # A kernel of 0 takes one whole step, and then grows by a hundredth of its size.
    np.testing.assert_allclose(kernel.numpy(), -0.01 * 1.01**49, rtol=1e-4)


def test_adamw_keeps_exclusions_of_its_user():
    decayed, spared = (keras.Variable(np.ones((2, 2), np.float32), name=name) for name in "ab")
    optimizer = KernelAdamW(0.1, weight_decay=1.0)
    optimizer.exclude_from_weight_decay(var_list=[spared])
    optimizer.apply([np.zeros((2, 2), np.float32)] * 2, [decayed, spared])
    np.testing.assert_allclose(decayed.numpy(), 0.9, rtol=1e-6)
    np.testing.assert_array_equal(spared.numpy(), 1)
