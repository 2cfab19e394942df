"""Images held in memory: the same streams as from the files, without decoding them again."""

import dataclasses

import numpy as np
import pytest
from conftest import write_images

from supcon_tf import AUGMENTATIONS, open_dataset
from supcon_tf.data import splits
from supcon_tf.data.augment import Share
from supcon_tf.data.images import decode
from supcon_tf.data.streams import balanced, repeated, views
from supcon_tf.data.views import Position, Views

KIND = Views(dataclasses.replace(AUGMENTATIONS["cifar"], flip=False, alternating_flip=True), 2, 8)
STREAMS = {
    "views": lambda split, at: views(split, KIND, batch_size=128, position=at),
    "repeated": lambda split, at: repeated(split, KIND, batch_size=128, position=at),
    "balanced": lambda split, at: balanced(
        split, KIND, classes_per_batch=10, images_per_class=6, position=at
    ),
}


def first_batches(split, make, position, count=3):
    return [tuple(map(np.asarray, batch)) for batch in make(split, position).take(count)]


def test_the_images_in_their_stored_order(digits):
    images, labels, _ = digits.train.held
    expected = [decode(encoded).numpy() for encoded, _ in digits.train.records()]
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(labels, digits.train.labels())
    assert digits.train.held is digits.train.held


@pytest.mark.parametrize("make", STREAMS.values(), ids=STREAMS.keys())
def test_a_stream_is_that_of_the_files(make, data_dir, monkeypatch):
    position = Position(3, 9, Share(1, 2))

    def subset():
        train = open_dataset("digits", data_dir).train
        return train.subset(np.arange(0, train.num_examples, 2), "every second")

    held = subset()
    found = first_batches(held, make, position)
    assert held.held is not None
    monkeypatch.setattr(splits, "_HELD_BYTES", 0)
    streamed = subset()
    expected = first_batches(streamed, make, position)
    assert streamed.held is None
    for batch, other in zip(found, expected, strict=True):
        for part, same in zip(batch, other, strict=True):
            np.testing.assert_array_equal(part, same)


def test_large_and_mixed_images_are_read_again(digits, tmp_path, monkeypatch):
    write_images(tmp_path, ["dark", "light"], 4, size=(40, 30))
    assert open_dataset(f"folder:{tmp_path}", holdout_fraction=0.5).train.held is None
    bytes_of_test = digits.test.num_examples * 8 * 8 * 3
    for limit, fits in ((bytes_of_test, True), (bytes_of_test - 1, False)):
        monkeypatch.setattr(splits, "_HELD_BYTES", limit)
        split = digits.test.subset(np.arange(digits.test.num_examples), "all")
        assert (split.held is not None) == fits
