"""Learning-rate schedules: a linear warm-up, then a decay.

Of Keras's schedules `make_schedule` uses only `PiecewiseConstantDecay`: the others count steps in
float32, and in a run of 1e7 steps `CosineDecay` errs by 4e-4 near its end and `ExponentialDecay` by
1e-4.
"""

import dataclasses
import math
import numbers
from collections.abc import Sequence

import keras
from keras import ops

SCHEDULES = ("cosine", "partial_cosine", "step", "exponential", "constant")
_DECAY_RATE, _FLOOR = 0.1, 1e-3


@keras.saving.register_keras_serializable("supcon_tf")
@dataclasses.dataclass(eq=False)
class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A learning-rate schedule: linear warm-up, then a decay; also called `make_schedule`.

    With s updates made so far, W in the warm-up and T in all, the rate is peak times

        s < W           warmup_from + (1 - warmup_from) s / W
        cosine          floor + (1 - floor) (1 + cos(pi (s - W) / (T - W))) / 2
        partial_cosine  cos(7 pi (s - W) / (16 (T - W)))
        step            decay_rate ** (number of decay_steps <= s)
        exponential     decay_rate ** floor((s - W) / decay_steps[0])
        constant        1

    and stays after T as it was at T. "exponential" is a staircase, as in the reference
    implementation: a smooth curve through its upper corners would be lower by a factor of
    decay_rate at the end of each stair. "step" counts from the start of the run, warm-up included,
    as SupContrast does. "partial_cosine" ends at 0.195 of the peak.

    Steps are compared and subtracted as integers, so that a long run loses no precision; the rate
    is float32.

    Args:
        kind: one of `SCHEDULES`.
        peak: float > 0, the highest learning rate.
        total_steps: steps in all, including the warm-up.
        warmup_steps: steps of warm-up, below `total_steps`.
        decay_steps: for "step", the steps at which the rate falls, between the warm-up's end and
            `total_steps`; for "exponential", one number, the steps of a stair; otherwise empty.
        decay_rate: factor of each fall, in (0, 1), for "step" and "exponential".
        floor: the last rate of "cosine" as a share of the peak, in [0, 1].
        warmup_from: the first rate as a share of the peak, in [0, 1]. SupContrast's 0.01 is
            `0.01 / peak`.

    Raises:
        ValueError: if an argument is out of range, or would have no effect on this kind.

    Reference:
        As `warmup_cosine`; Sohn et al. 2020, "FixMatch: Simplifying Semi-Supervised Learning
        with Consistency and Confidence" (partial_cosine); Khosla et al. 2020, section 4
        (exponential, for stage 2). Differs from SupContrast's warm-up, which ends at the rate that
        a cosine over the whole run has reached by then.
    """

    kind: str
    peak: float
    total_steps: int
    warmup_steps: int = 0
    _: dataclasses.KW_ONLY
    decay_steps: Sequence[int] = ()
    decay_rate: float = _DECAY_RATE
    floor: float = _FLOOR
    warmup_from: float = 0.0

    def __post_init__(self):
        for name in ("peak", "decay_rate", "floor", "warmup_from"):
            setattr(self, name, float(getattr(self, name)))
        self.total_steps, self.warmup_steps = map(_as_int, (self.total_steps, self.warmup_steps))
        self.decay_steps = tuple(map(_as_int, self.decay_steps))
        self._check()
        self._check_decay()

    def __call__(self, step):
        """The rate, float32 [], of the update that follows `step`, int [], updates."""
        step = ops.minimum(ops.cast(step, "int64"), self.total_steps)
        rate = self._decayed(step)
        if self.warmup_steps:
            climbed = _ratio(step, self.warmup_steps)
            share = self.warmup_from + (1 - self.warmup_from) * climbed
            rate = ops.where(step < self.warmup_steps, self.peak * share, rate)
        return rate

    def get_config(self):
        """The constructor's arguments, as JSON holds them."""
        return {**dataclasses.asdict(self), "decay_steps": list(self.decay_steps)}

    def _decayed(self, step):
        """The rate once the warm-up has ended."""
        if self.kind == "cosine":
            # (1 + cos(pi t)) / 2 is sin(pi (1 - t) / 2)^2, which stays precise near 0.
            remaining = _ratio(self.total_steps - step, self.total_steps - self.warmup_steps)
            sine = ops.sin(math.pi / 2 * remaining)
            return self.peak * (self.floor + (1 - self.floor) * ops.square(sine))
        if self.kind == "partial_cosine":
            done = _ratio(step - self.warmup_steps, self.total_steps - self.warmup_steps)
            return self.peak * ops.cos(7 / 16 * math.pi * done)
        if self.kind == "exponential":
            stair = ops.maximum(step - self.warmup_steps, 0) // self.decay_steps[0]
            # Not decay_rate ** stair: float32 would round decay_rate before raising it.
            return self.peak * ops.exp(math.log(self.decay_rate) * ops.cast(stair, "float32"))
        rates = [self.peak * self.decay_rate**falls for falls in range(len(self.decay_steps) + 1)]
        if len(rates) == 1:
            return ops.convert_to_tensor(self.peak, "float32")
        # Keras's schedule keeps a rate up to and including its boundary.
        last = [boundary - 1 for boundary in self.decay_steps]
        return keras.optimizers.schedules.PiecewiseConstantDecay(last, rates)(step)

    def _check(self):
        total, warmup = self.total_steps, self.warmup_steps
        self._require("kind", self.kind in SCHEDULES, "one of " + ", ".join(SCHEDULES))
        self._require("peak", 0 < self.peak < math.inf, "above 0")
        for name in ("total_steps", "warmup_steps"):
            self._require(name, isinstance(getattr(self, name), int), "a whole number")
        self._require("total_steps", total > 0, "above 0")
        self._require("warmup_steps", 0 <= warmup < total, f"from 0 to below {total}")
        self._require("warmup_from", 0 <= self.warmup_from <= 1, "from 0 to 1")
        self._require("warmup_from", warmup or not self.warmup_from, "0 without warmup_steps")

    def _check_decay(self):
        steps, limits = self.decay_steps, (self.warmup_steps, self.total_steps)
        whole = all(isinstance(step, int) for step in steps)
        self._require("decay_steps", whole, "whole numbers")
        if self.kind == "step":
            order = [limits[0], *steps, limits[1]]
            rising = order == sorted(set(order))
            rule = f"rising, above the {limits[0]} warmup_steps and below {limits[1]}, at least one"
            self._require("decay_steps", steps and rising, rule)
        elif self.kind == "exponential":
            one = len(steps) == 1 and steps[0] > 0
            self._require("decay_steps", one, "one number of steps above 0")
        else:
            self._require("decay_steps", not steps, f"empty, for {self.kind}")
            unchanged = self.decay_rate == _DECAY_RATE
            self._require("decay_rate", unchanged, f"left out, for {self.kind}")
        self._require("decay_rate", 0 < self.decay_rate < 1, "between 0 and 1")
        if self.kind != "cosine":
            self._require("floor", self.floor == _FLOOR, f"left out, for {self.kind}")
        self._require("floor", 0 <= self.floor <= 1, "from 0 to 1")

    def _require(self, name, fits, rule):
        if not fits:
            raise ValueError(f"{name} must be {rule}. Received: {getattr(self, name)!r}.")


make_schedule = WarmupSchedule


def _ratio(steps, of_steps):
    # The steps are counted in int64 and only their ratio is rounded: float32 does not hold every
    # whole number above 2^24, and a difference of two large ones would lose digits that a run of
    # 1e7 steps needs.
    return ops.cast(steps, "float32") / of_steps


def _as_int(number):
    """Turns NumPy's integers into Python's; anything else stays as it is, to be refused."""
    return int(number) if isinstance(number, numbers.Integral) else number


def warmup_cosine(peak: float, total_steps: int, warmup_steps: int = 0, floor: float = 1e-3):
    """Linear warm-up from 0 to the peak, then cosine decay.

    Args:
        peak: float > 0, the highest learning rate.
        total_steps: steps in all, including the warm-up.
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
        batch_size: int > 0, images per step, over all replicas.

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
