"""Initial weights depend on the seed alone."""

import random
import threading

import keras
import numpy as np

from supcon_tf.networks.initial import initial_weights


def kernel(seed, before=lambda: None):
    with initial_weights(seed):
        before()
        layer = keras.layers.Dense(3)
        layer.build((None, 2))
    return layer.kernel.numpy()


def test_initial_weights_depend_on_the_seed_alone():
    random.seed(1)
    before = random.getstate()
    np.testing.assert_array_equal(kernel(4), kernel(4))
    assert random.getstate() == before
    assert not np.array_equal(kernel(4), kernel(5))


def test_another_thread_neither_changes_them_nor_is_changed():
    drawn = []

    def draw():
        thread = threading.Thread(target=lambda: drawn.append(random.randint(1, 10**9)))
        thread.start()
        thread.join()

    random.seed(1)
    expected = random.randint(1, 10**9)
    random.seed(1)
    np.testing.assert_array_equal(kernel(4, draw), kernel(4))
    assert drawn == [expected]
