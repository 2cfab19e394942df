"""Learning rates against their formulas in float64, compiled and restored."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from supcon_tf.engine.schedules import SCHEDULES, make_schedule, scaled_rate, warmup_cosine

TOTAL, WARMUP = 1000, 100
# One set of arguments a kind, each of which acts.
ARGUMENTS = {
    "cosine": {"floor": 0.02},
    "partial_cosine": {},
    "step": {"decay_steps": (600, 750, 900), "decay_rate": 0.2},
    "exponential": {"decay_steps": (40,), "decay_rate": 0.97},
    "constant": {},
}


def build(kind, peak=3.0, total=TOTAL, warmup=WARMUP, **changes):
    return make_schedule(kind, peak, total, warmup, **{**ARGUMENTS[kind], **changes})


def expected(kind, step, peak=3.0, total=TOTAL, warmup=WARMUP, start=0.0, arguments=None):
    """The documented formulas, in Python's float64 and exact integers."""
    arguments = ARGUMENTS[kind] if arguments is None else arguments
    if step < warmup:
        return peak * (start + (1 - start) * step / warmup)
    if kind == "cosine":
        done = min((step - warmup) / (total - warmup), 1)
        floor = arguments["floor"]
        return peak * (floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2)
    if kind == "partial_cosine":
        return peak * math.cos(7 * math.pi * min((step - warmup) / (total - warmup), 1) / 16)
    if kind == "step":
        falls = len([at for at in arguments["decay_steps"] if at <= step])
        return peak * arguments["decay_rate"] ** falls
    if kind == "exponential":
        return peak * arguments["decay_rate"] ** ((step - warmup) // arguments["decay_steps"][0])
    return peak


STEPS = (0, 1, 50, 99, 100, 101, 139, 140, 141, 550, 599, 600, 601, 750, 899, 900, 999, 1000)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_follows_its_formula(kind):
    schedule = build(kind)
    rates = [float(schedule(step)) for step in STEPS]
    np.testing.assert_allclose(rates, [expected(kind, step) for step in STEPS], rtol=1e-6)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_without_warmup_starts_at_the_peak(kind):
    assert float(build(kind, warmup=0)(0)) == 3.0


@pytest.mark.parametrize("kind", SCHEDULES)
def test_warmup_may_start_above_zero_and_ends_at_the_peak(kind):
    schedule = build(kind, peak=0.5, warmup_from=0.01 / 0.5)
    np.testing.assert_allclose(
        [float(schedule(step)) for step in (0, 50, 100)], [0.01, 0.255, 0.5], rtol=1e-6
    )


@pytest.mark.parametrize("kind", ["cosine", "partial_cosine", "constant"])
def test_stays_where_it_ended(kind):
    schedule = build(kind)
    assert float(schedule(TOTAL)) == float(schedule(TOTAL + 1)) == float(schedule(10 * TOTAL))


@pytest.mark.parametrize("kind", SCHEDULES)
def test_compiled_with_an_int64_step_is_float32_and_the_same(kind):
    schedule = build(kind, warmup_from=0.1)
    compiled = tf.function(schedule, jit_compile=True)
    for step in (0, 99, 100, 601, 1000):
        rate = compiled(tf.constant(step, tf.int64))
        assert rate.dtype == tf.float32
        assert rate.shape == ()
        np.testing.assert_allclose(rate, expected(kind, step, start=0.1), rtol=1e-6)


def test_long_runs_lose_no_precision():
    total, warmup = 10_000_000, 16_667
    steps = (warmup - 1, warmup + 1, 5_000_001, 9_990_001, total - 1, total)
    cosine = make_schedule("cosine", 3.0, total, warmup, floor=1e-6)
    wanted = [
        expected("cosine", step, 3.0, total, warmup, arguments={"floor": 1e-6}) for step in steps
    ]
    np.testing.assert_allclose([float(cosine(step)) for step in steps], wanted, rtol=1e-6)
    # Neighbours at a boundary that float32 cannot tell apart.
    boundary = 2**25 + 1
    stairs = make_schedule("step", 3.0, 2**26, decay_steps=(boundary,))
    np.testing.assert_allclose([stairs(boundary - 1), stairs(boundary)], [3.0, 0.3], rtol=1e-6)
    halving = make_schedule("exponential", 3.0, 2**26, 2, decay_steps=(2**25 - 1,), decay_rate=0.5)
    np.testing.assert_allclose([halving(2**25), halving(2**25 + 1)], [3.0, 1.5], rtol=1e-6)


def test_partial_cosine_at_quarters_of_the_training():
    schedule = make_schedule("partial_cosine", 0.03, 512 * 1024)
    factors = [float(schedule(share * 1024)) / 0.03 for share in (0, 128, 256, 512)]
    np.testing.assert_allclose(factors, [1, 0.941544, 0.773010, 0.195090], atol=5e-7)


def test_cosine_is_warmup_cosine():
    ours, keras_own = make_schedule("cosine", 2.0, 110, 10), warmup_cosine(2.0, 110, 10)
    for step in range(0, 115, 3):
        np.testing.assert_allclose(ours(step), keras_own(step), rtol=2e-5)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_round_trip_through_json(kind):
    schedule = build(kind, warmup=np.int32(WARMUP), peak=np.float64(3), warmup_from=0.25)
    stored = json.loads(json.dumps(keras.optimizers.schedules.serialize(schedule)))
    again = keras.optimizers.schedules.deserialize(stored)
    assert again.get_config() == schedule.get_config()
    assert [float(again(step)) for step in STEPS] == [float(schedule(step)) for step in STEPS]


@pytest.mark.parametrize("kind", SCHEDULES)
def test_drives_an_optimizer_and_is_restored_with_it(kind):
    optimizer = keras.optimizers.SGD(build(kind))
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    for each in (optimizer, again):
        weight = keras.Variable(np.zeros(1, np.float32))
        each.build([weight])
        each.iterations.assign(620)
        each.apply([np.ones(1, np.float32)], [weight])
        np.testing.assert_allclose(weight.numpy(), [-expected(kind, 620)], rtol=1e-6)


def test_supcontrast_linear_stage():
    epoch = 97
    schedule = make_schedule(
        "step", 5.0, 100 * epoch, decay_steps=[60 * epoch, 75 * epoch, 90 * epoch], decay_rate=0.2
    )
    # Epochs count from 0 here: after 60 of them the rate is a fifth.
    found = [float(schedule(number * epoch)) for number in (59, 60, 74, 75, 89, 90, 99)]
    np.testing.assert_allclose(found, [5, 1, 1, 0.2, 0.2, 0.04, 0.04], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("linear", 1.0, 10), "kind must be one of cosine, partial_cosine.* Received: 'linear'"),
        (("cosine", 0.0, 10), "peak must be above 0. Received: 0.0"),
        (("cosine", math.nan, 10), "peak must be above 0. Received: nan"),
        (("cosine", math.inf, 10), "peak must be above 0. Received: inf"),
        (("cosine", 1.0, 0), "total_steps must be above 0. Received: 0"),
        (("cosine", 1.0, 10.5), "total_steps must be a whole number. Received: 10.5"),
        (("cosine", 1.0, 10, 10), "warmup_steps must be from 0 to below 10. Received: 10"),
        (("cosine", 1.0, 10, -1), "warmup_steps must be from 0 to below 10. Received: -1"),
        (("cosine", 1.0, 10, 1.5), "warmup_steps must be a whole number. Received: 1.5"),
    ],
)
def test_refuses_a_bad_run(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(*arguments)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("cosine", {"floor": 1.1}, "floor must be from 0 to 1. Received: 1.1"),
        ("cosine", {"floor": -0.1}, "floor must be from 0 to 1. Received: -0.1"),
        ("cosine", {"warmup_from": -0.1}, "warmup_from must be from 0 to 1. Received: -0.1"),
        ("cosine", {"warmup_from": 1.5}, "warmup_from must be from 0 to 1. Received: 1.5"),
        ("step", {"decay_steps": ()}, r"at least one. Received: \(\)"),
        ("step", {"decay_steps": (WARMUP,)}, r"above the 100 warmup_steps.* Received: \(100,\)"),
        ("step", {"decay_steps": (TOTAL,)}, r"below 1000.* Received: \(1000,\)"),
        ("step", {"decay_steps": (300, 300)}, r"rising.* Received: \(300, 300\)"),
        ("step", {"decay_steps": (300.5,)}, r"whole numbers. Received: \(300.5,\)"),
        ("step", {"decay_rate": 0.0}, "decay_rate must be between 0 and 1. Received: 0.0"),
        ("exponential", {"decay_rate": 1.0}, "decay_rate must be between 0 and 1. Received: 1.0"),
        ("exponential", {"decay_steps": ()}, r"one number of steps above 0. Received: \(\)"),
        ("exponential", {"decay_steps": (0,)}, r"one number of steps above 0. Received: \(0,\)"),
        ("exponential", {"decay_steps": (5, 9)}, r"one number of steps.* Received: \(5, 9\)"),
    ],
)
def test_refuses_what_is_out_of_range(kind, changes, message):
    with pytest.raises(ValueError, match=message):
        build(kind, **changes)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("cosine", "decay_steps", (300,)),
        ("partial_cosine", "decay_steps", (300,)),
        ("constant", "decay_steps", (300,)),
        ("cosine", "decay_rate", 0.5),
        ("partial_cosine", "decay_rate", 0.5),
        ("constant", "decay_rate", 0.5),
        ("partial_cosine", "floor", 0.5),
        ("step", "floor", 0.5),
        ("exponential", "floor", 0.5),
        ("constant", "floor", 0.5),
    ],
)
def test_refuses_what_would_have_no_effect(kind, name, value):
    with pytest.raises(ValueError, match=f"{name} must be .* for {kind}. Received: "):
        build(kind, **{name: value})


def test_refuses_a_start_of_no_warmup():
    with pytest.raises(ValueError, match="warmup_from must be 0 without warmup_steps.*: 0.5"):
        build("cosine", warmup=0, warmup_from=0.5)


def test_warmup_cosine_warms_up_linearly_then_follows_the_cosine():
    schedule = warmup_cosine(2.0, 110, 10)
    rates = [float(schedule(step)) for step in (0, 5, 10, 60, 110)]
    np.testing.assert_allclose(rates[:3], [0, 1, 2], atol=1e-6)
    np.testing.assert_allclose(rates[3], (1 + 1e-3) / 2 * 2.0, rtol=1e-5)
    np.testing.assert_allclose(rates[4], 2e-3, rtol=1e-4)


def test_warmup_cosine_without_warmup_starts_at_the_peak():
    assert float(warmup_cosine(2.0, 10)(0)) == 2.0


@pytest.mark.parametrize("warmup", [-1, 10])
def test_warmup_cosine_refuses_a_warmup_that_does_not_fit(warmup):
    with pytest.raises(ValueError, match=f"below 10. Received: {warmup}"):
        warmup_cosine(1.0, 10, warmup)


def test_scaled_rate():
    assert scaled_rate(0.4, 6144) == pytest.approx(9.6)
    assert scaled_rate(0.5, 256) == 0.5
    with pytest.raises(ValueError, match="batch_size must be above 0. Received: 0"):
        scaled_rate(0.5, 0)
