"""Estimates of a plan against enumeration and exact fractions."""

import itertools
import math
from fractions import Fraction

import keras
import numpy as np
import pytest

from supcon_tf import SupConLoss, TripletLoss
from supcon_tf.core.files import format_bytes
from supcon_tf.losses.blocks import sizes
from supcon_tf.stages.estimates import (
    activation_bytes,
    block_bytes,
    chance_alone,
    expected_positives,
)


def enumerated(counts, batch_size, num_views):
    """For an anchor of each class: mean positives, and the share of batches that hold no other."""
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    expected, alone = [], []
    for label in range(len(counts)):
        others = list(labels)
        others.remove(label)
        batches = list(itertools.combinations(others, batch_size - 1))
        same = [batch.count(label) for batch in batches]
        positives = [num_views - 1 + num_views * count for count in same]
        expected.append(Fraction(sum(positives), len(batches)))
        alone.append(Fraction(same.count(0), len(batches)))
    return expected, alone


@pytest.mark.parametrize("num_views", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("counts", [(3, 4, 1), (1, 1, 1, 1, 4), (8,), (2, 6)])
def test_positives_are_those_of_all_batches(counts, batch_size, num_views):
    expected, alone = enumerated(counts, batch_size, num_views)
    found = expected_positives(counts, batch_size, num_views)
    np.testing.assert_allclose(found, np.array(expected, float), rtol=1e-12)
    np.testing.assert_allclose(chance_alone(counts, batch_size), np.array(alone, float), atol=1e-14)


def test_the_mean_over_anchors_is_that_of_drawn_batches():
    """Over whole batches, each image an anchor: no anchor is singled out in advance."""
    counts, batch_size, views = (4, 3, 1), 4, 2
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    positives, alone = [], []
    for batch in itertools.combinations(labels, batch_size):
        others = [batch.count(label) - 1 for label in batch]
        positives += [views - 1 + views * count for count in others]
        alone += [count == 0 for count in others]
    expected = expected_positives(counts, batch_size, views)
    np.testing.assert_allclose(np.average(expected, weights=counts), np.mean(positives))
    chance = chance_alone(counts, batch_size)
    np.testing.assert_allclose(np.average(chance, weights=counts), np.mean(alone))


def test_the_chance_is_exact_for_large_data_sets():
    counts, batch_size = (1_200_000, 50_000, 700, 1), 4096
    total = sum(counts)
    exact = [
        Fraction(math.comb(total - n, batch_size - 1), math.comb(total - 1, batch_size - 1))
        for n in counts
    ]
    found = chance_alone(counts, batch_size)
    # lgamma of a million has nine digits behind the point.
    np.testing.assert_allclose(found, np.array([float(one) for one in exact]), rtol=1e-6)
    assert found[3] == 1.0


def test_wrong_counts_are_refused():
    for call, message in [
        (lambda: expected_positives([3, 0], 2, 2), "counts must be images of each class"),
        (lambda: expected_positives([], 2, 2), "counts must be images of each class"),
        (lambda: expected_positives([3, 1], 2, 0), "num_views must be at least 1. Received: 0"),
        (lambda: chance_alone([3, 1], 5), "batch_size must be from 1 to 4. Received: 5"),
        (lambda: chance_alone([3, 1], 0), "batch_size must be from 1 to 4. Received: 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_activations_are_the_outputs_of_every_layer_call():
    images = keras.Input((8, 8, 3))
    convolution = keras.layers.Conv2D(4, 3, padding="same", dtype="mixed_bfloat16")
    inside = keras.Input((None, None, 4))
    block = keras.Model(inside, keras.layers.Conv2D(4, 1)(inside))
    tail = keras.Sequential([keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5)])
    x = block(block(convolution(images)))  # One layer called twice; sides unknown inside.
    encoder = keras.Model(images, tail(x))
    expected = 2 * (8 * 8 * 4) + 4 * 2 * (8 * 8 * 4) + 4 * (4 + 5)
    assert activation_bytes(encoder) == expected


def test_blocks_of_similarities():
    supcon, triplet = SupConLoss, TripletLoss
    assert block_bytes(supcon(), 64, 2, 0) == 4 * 128 * 128
    assert block_bytes(supcon(), 64, 2, 512) == 4 * 128 * 640
    assert block_bytes(supcon(), 4096, 2, 0) == 4 * sizes().block
    assert block_bytes(supcon(block_size=16), 4096, 2, 0) == 4 * 16 * 8192
    assert block_bytes(triplet(margin=None, mining="all"), 2048, 2, 0) == 4 * 4096 * 4096
    assert block_bytes(triplet(), 4096, 2, 0) == 4 * sizes().block


def test_sizes_are_readable():
    shown = {
        0: "0 bytes",
        1023: "1023 bytes",
        1536: "1.5 KiB",
        2**30: "1.0 GiB",
        2**50: "1024.0 TiB",
    }
    assert {number: format_bytes(number) for number in shown} == shown
