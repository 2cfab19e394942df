"""Alternating flips: every image both ways in two epochs, whatever batch, worker or memory."""

import dataclasses

import numpy as np
import pytest

from supcon_tf import Augmentation, open_dataset
from supcon_tf.data import splits
from supcon_tf.data.augment import WHOLE, Share
from supcon_tf.data.streams import views
from supcon_tf.data.views import Position, Views

HOW = Augmentation(aspect=1.0, alternating_flip=True)
BATCH = 449  # Three steps an epoch of 1,347 images: none is left out.


def flips(split, epoch, seed=1, num_views=1, share=WHOLE):
    """Of each image, by its pixels either way, whether each view is mirrored in an epoch."""
    stream = views(
        split,
        Views(HOW, num_views, 8),
        batch_size=BATCH,
        position=Position(seed, 3 * epoch, share),
    )
    known = {image.tobytes(): True for image in split.held.images.numpy()}
    found = {}
    for batch, _ in stream.take(3).as_numpy_iterator():
        for image in np.rint(255 * batch).astype(np.uint8):
            ways = [view.tobytes() in known for view in image]
            key = image[0] if ways[0] else image[0][:, ::-1]
            found[key.tobytes()] = [not way for way in ways]
    return found


@pytest.fixture(scope="module")
def unlike(data_dir):
    """The training images, without those that are their own mirror images."""
    return open_dataset("digits", data_dir).train


def test_an_image_is_mirrored_in_every_other_epoch(unlike):
    first, second, third = (flips(unlike, epoch) for epoch in range(3))
    assert len(first) == len({image.tobytes() for image in unlike.held.images.numpy()})
    assert first == third
    assert all(first[image] != second[image] for image in first)
    mirrored = sum(way for (way,) in first.values())
    assert abs(mirrored / len(first) - 0.5) < 0.06  # A standard deviation is 0.014.
    assert flips(unlike, 0, seed=2) != first


def test_views_of_an_image_take_turns(unlike):
    one, three = flips(unlike, 1), flips(unlike, 1, num_views=3)
    assert all(three[image] == [way, not way, way] for image, (way,) in one.items())


def test_files_and_workers_give_the_same(unlike, monkeypatch):
    whole = views(unlike, Views(HOW, 2, 8), batch_size=100, position=Position(5, 17))
    monkeypatch.setattr(splits, "_HELD_BYTES", 0)
    streamed = dataclasses.replace(unlike)
    assert streamed.held is None
    for share in (Share(0, 2), Share(1, 2)):
        part = views(streamed, Views(HOW, 2, 8), batch_size=100, position=Position(5, 17, share))
        for (found, _), (expected, _) in zip(part.take(2), whole.take(2), strict=True):
            np.testing.assert_array_equal(found, expected[50 * share.index :][:50])
