"""Initial weights depend on the seed alone."""

import random

import keras
import numpy as np

from supcon_tf.networks.initial import initial_weights


def test_initial_weights_depend_on_the_seed_alone():
    def kernel(seed):
        with initial_weights(seed):
            layer = keras.layers.Dense(3)
            layer.build((None, 2))
        return layer.kernel.numpy()

    random.seed(1)
    before = random.getstate()
    np.testing.assert_array_equal(kernel(4), kernel(4))
    assert random.getstate() == before
    assert not np.array_equal(kernel(4), kernel(5))
