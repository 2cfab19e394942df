"""The weights that a training begins with."""

import contextlib
import random


@contextlib.contextmanager
def initial_weights(seed: int):
    """Models built inside start from weights that depend on `seed` alone.

    Keras draws the seeds of its initializers from Python's generator, which is left as it was.
    """
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
