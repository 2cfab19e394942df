"""The speed of half precision on CPUs, most of which have no arithmetic for it."""

import statistics
import time

import tensorflow as tf

_ROUNDS = 5
# A convolution of about the least size that shows the rate, and its gradients.
_IMAGES, _KERNEL = (16, 16, 16, 32), (3, 3, 32, 32)
# Less may be noise; small models spend part of their time elsewhere.
_SLOW = 2.0


def slowdown(precision: str) -> float:
    """The time of a training step's arithmetic on this CPU, relative to float32.

    Args:
        precision: "float32", "mixed_bfloat16" or "mixed_float16".

    Returns:
        A ratio of medians, measured within a fraction of a second; 1 for float32 and if there is
        an accelerator.
    """
    accelerated = any(tf.config.list_logical_devices(kind) for kind in ("GPU", "TPU"))
    if precision == "float32" or accelerated:
        return 1.0
    dtypes = precision.removeprefix("mixed_"), "float32"
    steps, seconds = [_step(dtype) for dtype in dtypes], ([], [])
    for step in steps:
        step()
    for _ in range(_ROUNDS):
        for step, spent in zip(steps, seconds, strict=True):
            started = time.perf_counter()
            step().numpy()
            spent.append(time.perf_counter() - started)
    half, whole = map(statistics.median, seconds)
    return half / whole


def slowness_warning(precision: str) -> str | None:
    """A warning if float32 is much faster on this CPU; else None."""
    ratio = slowdown(precision)
    if ratio < _SLOW:
        return None
    return (
        f"{precision} takes {ratio:.0f} times as long as float32 on this CPU, which has no "
        "arithmetic for it"
    )


def _step(dtype):
    """A convolution and its gradients, as a function that returns a scalar."""
    images, kernel = (tf.ones(shape, dtype) for shape in (_IMAGES, _KERNEL))

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            tape.watch([images, kernel])
            outputs = tf.nn.conv2d(images, kernel, 1, "SAME")
        gradients = tape.gradient(outputs, [images, kernel])
        return sum(tf.cast(one[0, 0, 0, 0], "float32") for one in gradients)

    return step
