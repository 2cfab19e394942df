"""Image files held in memory: the same images, made once."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import write_images

from supcon_tf import AUGMENTATIONS, open_dataset
from supcon_tf.data import held_files
from supcon_tf.data.streams import views
from supcon_tf.data.views import Position, Views

KINDS = [Views(AUGMENTATIONS["cifar"], 2, 16), Views(AUGMENTATIONS["cifar"], 1, 8)]


@pytest.fixture
def train(tmp_path):
    write_images(tmp_path, ["dark", "light"], 6, size=(70, 50))
    return open_dataset(f"folder:{tmp_path}", holdout_fraction=0.5, image_size_px=16).train


def batches(split):
    """Two epochs as training sees them, and the images as evaluation does."""
    stream = views(split, KINDS, batch_size=3, position=Position(5)).take(4)
    seen = [*stream, *split.images(16, 4), *split.images(16, 4)]
    return [
        np.asarray(part) for batch in seen for images, *rest in [batch] for part in (*images, *rest)
    ]


def test_what_is_held_is_what_would_be_made_again(train, monkeypatch):
    held = batches(train)
    one_image = 32 * 45 * 3
    for most in (0, 2 * one_image):
        monkeypatch.setattr(held_files, "_MOST_BYTES", most)
        again = train.subset(np.arange(train.num_examples), "all")
        for one, other in zip(held, batches(again), strict=True):
            np.testing.assert_array_equal(one, other)
        assert again.held_files._free >= 0


def test_a_file_is_read_once(train):
    first = batches(train)
    made = [image.nbytes for image, _ in train.held_files._made.values()]
    assert sum(made) == pytest.approx(train.held_bytes(16), rel=0.1)
    for name in train.names:
        (train.folder / name).unlink()
    for one, other in zip(first, batches(train), strict=True):
        np.testing.assert_array_equal(one, other)


def test_beyond_the_limit_files_are_read_again(train, monkeypatch):
    monkeypatch.setattr(held_files, "_MOST_BYTES", 0)
    batches(train)
    (train.folder / train.names[0]).unlink()
    with pytest.raises(tf.errors.NotFoundError, match=train.names[0]):
        batches(train)
