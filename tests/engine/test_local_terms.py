"""Terms of a loss that train some variables only: the gradient is the sum over their terms."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from supcon_tf import make_strategy
from supcon_tf.data.views import sharding_off
from supcon_tf.engine.loss_scaling import SharedLossScale
from supcon_tf.engine.method import Method

INPUT, FACTORS = 0.8, (1.1, -0.7, 1.3, 0.9)
MAPS = (0.88, -0.616, -0.8008, -0.72072)
# By scheme: overlap, the stages with a loss, and the gradients of the specification.
SCHEMES = {
    "greedy_infomax": (0, (1, 2, 3, 4), (0.704000, -0.542080, 0.493293, 0.577153)),
    "loco": (1, (2, 3, 4), (0.344960, -1.458195, 0.892860, 0.577153)),
    "loco_with_the_first": (1, (1, 2, 3, 4), (1.048960, -1.458195, 0.892860, 0.577153)),
    "end_to_end": (3, (4,), (0.472216, -0.742053, 0.399567, 0.577153)),
}


class HalfSquare(keras.losses.Loss):
    """h^2 / 2 of every example."""

    def call(self, y_true, y_pred):
        return tf.square(y_pred) / 2


class Chain(Method):
    """h_s = w_s h_{s-1}, and L_s = h_s^2 / 2, which trains the stages s - overlap to s."""

    def __init__(self, overlap, stages, **kwargs):
        images = keras.Input((1,))
        encoder = keras.Model(images, keras.layers.Activation("linear")(images))
        super().__init__(encoder, [f"stage{stage}" for stage in stages], **kwargs)
        self.overlap, self.stages = overlap, stages
        self.factors = [
            self.add_weight((), keras.initializers.Constant(one), name=f"w{index}")
            for index, one in enumerate(FACTORS)
        ]
        self.half_square = HalfSquare()

    def forward(self, batch, training=True):
        outputs, h = {}, batch[0][:, 0]
        for stage, factor in enumerate(self.factors, start=1):
            h = outputs[f"stage{stage}"] = factor * h
        return outputs

    def compute_losses(self, outputs):
        return {name: self.half_square(outputs[name], outputs[name]) for name in self.loss_names}

    def trained_by(self, name):
        stage = int(name[-1])
        if self.overlap is None:
            return None
        return self.factors[max(0, stage - self.overlap - 1) : stage]


def stepped(model, optimizer, examples=1):
    """The gradients, as a step of rate 1 takes them from the weights, and what it logs."""
    model.compile(optimizer=optimizer, jit_compile=False)
    before = [factor.numpy() for factor in model.factors]
    inputs = tf.fill([examples, 1], INPUT)
    logs = {name: float(one) for name, one in model.train_step((inputs, inputs)).items()}
    after = [factor.numpy() for factor in model.factors]
    return np.subtract(before, after), logs


@pytest.mark.parametrize("micro_batch_size", [None, 2])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_vectors(scheme, scaled, micro_batch_size):
    overlap, stages, expected = SCHEMES[scheme]
    optimizer = keras.optimizers.SGD(1.0)
    if scaled:
        optimizer = SharedLossScale(optimizer, initial_scale=2.0**8)
    model = Chain(overlap, stages, micro_batch_size=micro_batch_size)
    found, logs = stepped(model, optimizer, examples=4)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)
    losses = {f"stage{stage}": MAPS[stage - 1] ** 2 / 2 for stage in stages}
    assert logs["loss"] == pytest.approx(sum(losses.values()), rel=1e-5)
    for name in losses if len(losses) > 1 else ():
        assert logs[name] == pytest.approx(losses[name], rel=1e-5)


def finite_difference(stage, variable, step=1e-6):
    """dL_stage / dw_variable in float64."""

    def loss(change):
        factors = np.array(FACTORS)
        factors[variable - 1] += change
        return (INPUT * factors[:stage].prod()) ** 2 / 2

    return (loss(step) - loss(-step)) / (2 * step)


@pytest.mark.parametrize("overlap", [0, 1, 2, 3])
@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_a_term_reaches_its_own_stages_and_no_other(overlap, stage):
    found, _ = stepped(Chain(overlap, (stage,)), keras.optimizers.SGD(1.0))
    expected = [
        finite_difference(stage, variable) if stage - overlap <= variable <= stage else 0.0
        for variable in (1, 2, 3, 4)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (found == 0.0).tolist() == [value == 0.0 for value in expected]


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_terms_that_train_all_and_losses_of_layers_are_added_to_the_local_ones(micro_batch_size):
    class Mixed(Chain):
        def trained_by(self, name):
            return None if name == "stage4" else super().trained_by(name)

    model = Mixed(0, (2, 4), micro_batch_size=micro_batch_size)
    model.factors[2].regularizer = keras.regularizers.L2(0.5)  # w^2 / 2, whose gradient is w.
    found, logs = stepped(model, keras.optimizers.SGD(1.0), examples=4)
    expected = np.add(SCHEMES["end_to_end"][2], [0, -0.542080, FACTORS[2], 0])
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    value = (MAPS[1] ** 2 + MAPS[3] ** 2 + FACTORS[2] ** 2) / 2
    assert logs["loss"] == pytest.approx(value, rel=1e-5)


def test_a_frozen_variable_is_left_out():
    model = Chain(1, (2, 3, 4))
    model.factors[2].trainable = False
    found, _ = stepped(model, keras.optimizers.SGD(1.0))
    expected = np.array(SCHEMES["loco"][2]) * [1, 1, 0, 1]
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)


def test_a_method_without_local_terms_has_one_plain_tape(monkeypatch):
    made = []
    tape = tf.GradientTape

    def recorded(*args, **kwargs):
        made.append(kwargs.get("persistent", False))
        return tape(*args, **kwargs)

    monkeypatch.setattr(tf, "GradientTape", recorded)
    found, _ = stepped(Chain(None, (4,)), keras.optimizers.SGD(1.0))
    np.testing.assert_allclose(found, SCHEMES["end_to_end"][2], rtol=2e-6)
    stepped(Chain(1, (2, 3, 4)), keras.optimizers.SGD(1.0))
    assert made == [False, True]


@pytest.mark.multi_device
@pytest.mark.parametrize("micro_batch_size", [None, 1])
@pytest.mark.parametrize("strategy", ["one_device", "mirrored"])
def test_replicas_take_the_step_of_one(strategy, micro_batch_size):
    with make_strategy(strategy).scope():
        model = Chain(1, (2, 3, 4), micro_batch_size=micro_batch_size)
        model.compile(optimizer=keras.optimizers.SGD(1.0), jit_compile=False)
    inputs = np.array([[0.2], [0.4], [0.9], [1.3]], np.float32)
    data = sharding_off(tf.data.Dataset.from_tensors((inputs, inputs)))
    model.fit(data, shuffle=False, verbose=0)
    found = np.subtract(FACTORS, [factor.numpy() for factor in model.factors])
    expected = np.array(SCHEMES["loco"][2]) * np.mean(inputs**2) / INPUT**2
    np.testing.assert_allclose(found, expected, rtol=1e-5)
