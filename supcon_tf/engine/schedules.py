"""Learning-rate schedules: a linear warm-up, then a decay."""

import math
import numbers
from collections.abc import Sequence

import keras
from keras import ops

_DECAY_RATE, _FLOOR = 0.1, 1e-3


def _ratio(steps, of_steps: int):
    # The steps are counted in int64 and only their ratio is rounded: float32 holds no whole number
    # above 2^24 exactly, and a difference of two large ones loses what a run of 1e7 steps needs.
    return ops.cast(steps, "float32") / of_steps


def _cosine(schedule, step):
    # (1 + cos(pi t)) / 2 is sin(pi (1 - t) / 2)^2, which keeps its digits as it nears 0.
    remaining = ops.maximum(schedule.total_steps - step, 0)
    decaying = schedule.total_steps - schedule.warmup_steps
    sine = ops.sin(math.pi / 2 * _ratio(remaining, decaying))
    return schedule.floor + (1 - schedule.floor) * ops.square(sine)


def _step(schedule, step):
    passed = sum(ops.cast(step >= boundary, "int32") for boundary in schedule.decay_steps)
    shares = [schedule.decay_rate**times for times in range(len(schedule.decay_steps) + 1)]
    return ops.take(ops.convert_to_tensor(shares, "float32"), passed)


def _exponential(schedule, step):
    passed = ops.maximum(step - schedule.warmup_steps, 0) // schedule.decay_steps[0]
    return ops.exp(math.log(schedule.decay_rate) * ops.cast(passed, "float32"))


def _constant(schedule, step):
    return ops.ones((), "float32")


_DECAYS = {"cosine": _cosine, "step": _step, "exponential": _exponential, "constant": _constant}
SCHEDULES = tuple(_DECAYS)


@keras.saving.register_keras_serializable("supcon_tf")
class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """The schedule that `make_schedule` makes, and of the same arguments."""

    def __init__(
        self,
        kind,
        peak,
        total_steps,
        warmup_steps=0,
        *,
        decay_steps=(),
        decay_rate=_DECAY_RATE,
        floor=_FLOOR,
        warmup_from=0.0,
    ):
        self.kind = kind
        self.peak = float(peak)
        self.total_steps = _as_int(total_steps)
        self.warmup_steps = _as_int(warmup_steps)
        self.decay_steps = tuple(map(_as_int, decay_steps))
        self.decay_rate = float(decay_rate)
        self.floor = float(floor)
        self.warmup_from = float(warmup_from)
        _check(self)

    def __call__(self, step):
        """The rate, float32 [], of the update after int `step` []."""
        step = ops.minimum(ops.cast(step, "int64"), self.total_steps)
        share = _DECAYS[self.kind](self, step)
        if self.warmup_steps:
            climbed = _ratio(step, self.warmup_steps)
            warming = self.warmup_from + (1 - self.warmup_from) * climbed
            share = ops.where(step < self.warmup_steps, warming, share)
        return self.peak * share

    def get_config(self):
        """The constructor's arguments, as JSON holds them."""
        return {
            "kind": self.kind,
            "peak": self.peak,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "decay_steps": list(self.decay_steps),
            "decay_rate": self.decay_rate,
            "floor": self.floor,
            "warmup_from": self.warmup_from,
        }


def _check(schedule: WarmupSchedule) -> None:
    def require(fits, name, rule):
        if not fits:
            raise ValueError(f"{name} must be {rule}. Received: {getattr(schedule, name)!r}.")

    kind, total, warmup = schedule.kind, schedule.total_steps, schedule.warmup_steps
    require(kind in SCHEDULES, "kind", "one of " + ", ".join(SCHEDULES))
    require(0 < schedule.peak < math.inf, "peak", "above 0")
    for name in ("total_steps", "warmup_steps"):
        require(isinstance(getattr(schedule, name), int), name, "a whole number")
    require(total > 0, "total_steps", "above 0")
    require(0 <= warmup < total, "warmup_steps", f"from 0 to below {total}")
    require(0 <= schedule.warmup_from <= 1, "warmup_from", "from 0 to 1")
    require(warmup or not schedule.warmup_from, "warmup_from", "0 without warmup_steps")
    steps = schedule.decay_steps
    require(all(isinstance(step, int) for step in steps), "decay_steps", "whole numbers")
    if kind == "step":
        rising = all(
            low < high for low, high in zip((warmup, *steps), (*steps, total), strict=True)
        )
        rule = f"rising, above the {warmup} warmup_steps and below {total}, at least one"
        require(steps and rising, "decay_steps", rule)
    elif kind == "exponential":
        require(len(steps) == 1 and steps[0] > 0, "decay_steps", "one number of steps above 0")
    else:
        require(not steps, "decay_steps", f"empty, for {kind}")
    if kind in ("step", "exponential"):
        require(0 < schedule.decay_rate < 1, "decay_rate", "between 0 and 1")
    else:
        require(schedule.decay_rate == _DECAY_RATE, "decay_rate", f"left out, for {kind}")
    if kind == "cosine":
        require(0 <= schedule.floor <= 1, "floor", "from 0 to 1")
    else:
        require(schedule.floor == _FLOOR, "floor", f"left out, for {kind}")


def _as_int(number):
    """NumPy's integers as Python's; anything else as it is, for `_check` to refuse."""
    return int(number) if isinstance(number, numbers.Integral) else number


def make_schedule(
    kind: str,
    peak: float,
    total_steps: int,
    warmup_steps: int = 0,
    *,
    decay_steps: Sequence[int] = (),
    decay_rate: float = _DECAY_RATE,
    floor: float = _FLOOR,
    warmup_from: float = 0.0,
) -> keras.optimizers.schedules.LearningRateSchedule:
    """A learning-rate schedule: linear warm-up, then a decay.

    With s the updates made so far, W the warm-up's and T all of them, the rate is peak times

        s < W        warmup_from + (1 - warmup_from) s / W
        cosine       floor + (1 - floor) (1 + cos(pi (s - W) / (T - W))) / 2
        step         decay_rate ** (how many of decay_steps are <= s)
        exponential  decay_rate ** floor((s - W) / decay_steps[0])
        constant     1

    and after T what it was at T. "exponential" is a staircase, as in the reference implementation:
    a smooth curve through its upper corners would be lower by a factor of decay_rate at the end of
    each stair. "step" counts from the start of the run, warm-up included, as SupContrast does.

    Args:
        kind: one of `SCHEDULES`.
        peak: float > 0, the highest learning rate.
        total_steps: steps in all, the warm-up's included.
        warmup_steps: steps of warm-up, below `total_steps`.
        decay_steps: for "step", the steps at which the rate falls, between the warm-up's end and
            `total_steps`; for "exponential", one number, the steps of a stair; else empty.
        decay_rate: factor of each fall, in (0, 1), for "step" and "exponential".
        floor: the last rate of "cosine" as a share of the peak, in [0, 1].
        warmup_from: the first rate as a share of the peak, in [0, 1]. SupContrast's 0.01 is
            `0.01 / peak`.

    Returns:
        A serializable schedule; float32. Steps are compared and subtracted as integers, so that a
        long run loses no precision.

    Raises:
        ValueError: if an argument is out of range, or would have no effect on this kind.

    Reference:
        As `warmup_cosine`; Khosla et al. 2020, section 4 (exponential, for stage 2). Differs from
        SupContrast's warm-up, which ends where a cosine over the whole run has come to by then.
    """
    return WarmupSchedule(
        kind,
        peak,
        total_steps,
        warmup_steps,
        decay_steps=decay_steps,
        decay_rate=decay_rate,
        floor=floor,
        warmup_from=warmup_from,
    )


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


def scaled_rate(base: float, batch_size: int) -> float:
    """The linear scaling rule: base * batch_size / 256.

    Args:
        base: the learning rate at a batch of 256 images.
        batch_size: int > 0, images a step, over all replicas.

    Returns:
        The learning rate at that batch.

    Raises:
        ValueError: if `batch_size` is not above 0.

    Reference:
        Goyal et al. 2017, "Accurate, Large Minibatch SGD", section 2.1.
    """
    if batch_size <= 0:
        raise ValueError(f"batch_size must be above 0. Received: {batch_size}.")
    return base * batch_size / 256
