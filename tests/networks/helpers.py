"""Images and networks that several tests of this room take."""

import keras
import numpy as np

_RNG = np.random.default_rng(0)


def random_images(size):
    """float32 [2, size, size, 3]."""
    return _RNG.random((2, size, size, 3), dtype="float32")


def application(name, size, **arguments):
    """One of keras.applications with random weights, without its classifier."""
    return getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), **{"include_top": False, **arguments}
    )
