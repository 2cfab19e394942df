"""Streams that methods compose: balanced batches, several sizes, several streams."""

import collections
import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from supcon_tf.data.augment import WHOLE, Share
from supcon_tf.data.balance import balanced_order
from supcon_tf.data.policies import AUGMENTATIONS
from supcon_tf.data.streams import balanced, repeated, views, zipped
from supcon_tf.data.views import Position, Views

HOW = AUGMENTATIONS["symbols"]
LABELS = np.repeat([7, -3, 40, 2], [5, 6, 9, 4])


def rows(order, steps):
    return [order(step) for step in range(steps)]


def test_balanced_batches_use_every_class_and_image_as_often():
    order = balanced_order(LABELS, classes_per_batch=2, images_per_class=3, seed=1)
    batches = rows(order, 240)
    for batch in batches:
        assert len(np.unique(LABELS[batch])) == 2
        assert len(np.unique(batch)) == 6
    for first, second in zip(batches[::2], batches[1::2], strict=True):  # A round of all classes.
        assert sorted(np.unique(LABELS[np.concatenate([first, second])])) == [-3, 2, 7, 40]
    uses = collections.Counter(np.concatenate(batches).tolist())
    for label in np.unique(LABELS):
        own = [uses[place] for place in np.flatnonzero(label == LABELS)]
        assert sum(own) == 360  # A turn in each of 120 rounds, three images each.
        mean, turns = 360 / len(own), len(own) // 3
        assert max(own) <= 120 / turns  # Once in each order.
        assert min(own) > 0.7 * mean
    assert len({tuple(np.unique(LABELS[batch])) for batch in batches}) == 6


def test_rows_are_the_first_image_of_each_class_then_the_second():
    batch = balanced_order(LABELS, 4, 2, seed=0)(3)
    labels = LABELS[batch]
    np.testing.assert_array_equal(labels[:4], labels[4:])
    assert len(set(labels[:4])) == 4


def test_balanced_batches_are_a_function_of_seed_and_step():
    first, again, other = (balanced_order(LABELS, 2, 2, seed) for seed in (3, 3, 4))
    steps = [17, 0, 5, 17]
    np.testing.assert_array_equal([first(s) for s in steps], [again(s) for s in steps])
    assert any((first(s) != other(s)).any() for s in range(5))


@pytest.mark.parametrize("dtype", ["uint16", "int64", "uint64"])
def test_balanced_batches_do_not_depend_on_what_the_classes_are_called(dtype):
    ids = {7: 1, -3: 65535, 40: 0, 2: 9}
    if dtype != "uint16":
        ids |= {7: 2**40, 2: 2**63 - 1}
    renamed = np.array([ids[label] for label in LABELS.tolist()]).astype(dtype)
    found, expected = (balanced_order(labels, 2, 2, 3) for labels in (renamed, LABELS))
    for step in range(9):
        np.testing.assert_array_equal(found(step), expected(step))


def test_a_stream_keeps_ids_that_leave_int32(digits):
    load = digits.train.load
    far = dataclasses.replace(
        digits.train, load=lambda *element: (load(*element)[0], load(*element)[1] - 2**40)
    )
    position = Position(0, 0, WHOLE)
    stream = views(far, [Views(HOW, 1, 8)], batch_size=24, position=position)
    near = views(digits.train, [Views(HOW, 1, 8)], batch_size=24, position=position)
    ((_, found),), ((_, expected),) = taken(stream, 1), taken(near, 1)
    np.testing.assert_array_equal(found, expected - 2**40)


@pytest.mark.parametrize(
    ("classes", "images", "message"),
    [
        (3, 1, "classes_per_batch must divide the 4 classes. Received: 3"),
        (0, 1, "classes_per_batch must divide the 4 classes. Received: 0"),
        (2, 5, "images_per_class must be from 1 to 4, .* smallest class. Received: 5"),
        (2, 0, "images_per_class must be from 1 to 4"),
        (2, "x", "images_per_class must be a whole number. Received: 'x'"),
    ],
)
def test_impossible_batches_are_refused(classes, images, message):
    with pytest.raises(ValueError, match=message):
        balanced_order(LABELS, classes, images, seed=0)


def both(split, first_step=0, share=WHOLE, seed=0):
    """An unlabelled stream of 24 images with views of two sizes, and a balanced one of 10 x 2."""
    kinds = [Views(HOW, 2, 8), Views(HOW, 3, 4)]
    return zipped(
        unlabelled=views(split, kinds, batch_size=24, position=Position(seed, first_step, share)),
        labelled=balanced(
            split,
            Views(HOW, 1, 8),
            classes_per_batch=10,
            images_per_class=2,
            position=Position(seed, first_step, share, number=1),
        ),
    )


def taken(stream, count):
    return [tf.nest.map_structure(np.asarray, batch) for batch in stream.take(count)]


def test_streams_side_by_side_have_their_own_sizes(digits):
    (batch,) = taken(both(digits.train), 1)
    (large, small), labels = batch["unlabelled"]
    assert large.shape == (24, 2, 8, 8, 3)
    assert small.shape == (24, 3, 4, 4, 3)
    assert labels.shape == (24,)
    rows, classes = batch["labelled"]
    assert rows.shape == (20, 1, 8, 8, 3)
    np.testing.assert_array_equal(np.bincount(classes), np.full(10, 2))
    specs = [spec.shape.as_list() for spec in tf.nest.flatten(both(digits.train).element_spec)]
    assert specs == [list(part.shape) for part in tf.nest.flatten(batch)]


def test_a_stream_continues_where_it_was_broken_off_and_shares_make_up_the_batch(digits):
    steps = digits.train.num_examples // 24
    whole = taken(both(digits.train), steps + 3)
    for first_step in (2, steps, steps + 2):
        (again,) = taken(both(digits.train, first_step), 1)
        for left, right in zip(
            tf.nest.flatten(again), tf.nest.flatten(whole[first_step]), strict=True
        ):
            np.testing.assert_array_equal(left, right)
    parts = [taken(both(digits.train, 1, Share(index, 2)), 1)[0] for index in (0, 1)]
    joined = tf.nest.map_structure(lambda *halves: np.concatenate(halves), *parts)
    for left, right in zip(tf.nest.flatten(joined), tf.nest.flatten(whole[1]), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-6)  # Vectors of other lengths round so.
    other = taken(both(digits.train, seed=1), 1)[0]
    assert (other["labelled"][0] != whole[0]["labelled"][0]).any()


def test_repeated_batches_may_be_larger_than_the_split_and_use_every_image_as_often(
    digits,
):
    split = digits.train.subset(np.arange(10), "ten")

    def stream(first_step=0, share=WHOLE):
        return repeated(
            split, Views(HOW, 1, 8), batch_size=16, position=Position(0, first_step, share)
        )

    whole = taken(stream(), 6)
    labels = np.concatenate([labels for _, labels in whole])
    for epoch in range(9):
        np.testing.assert_array_equal(
            sorted(labels[epoch * 10 :][:10]), sorted(split.labels().tolist())
        )
    (again,) = taken(stream(4), 1)
    np.testing.assert_array_equal(again[0], whole[4][0])
    np.testing.assert_array_equal(again[1], whole[4][1])
    halves = [taken(stream(3, Share(index, 2)), 1)[0] for index in (0, 1)]
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in halves]), whole[3][1])
    joined = np.concatenate([views for views, _ in halves])
    np.testing.assert_allclose(joined, whole[3][0], atol=1e-6)
