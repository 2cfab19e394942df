"""Training images whose labels are hidden: which they are, and who may see them."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from conftest import write_images

import supcon_tf
from supcon_tf import PretrainConfig, UserError
from supcon_tf.data.hidden_labels import hide_labels
from supcon_tf.data.splits import UNLABELED
from supcon_tf.stages.building import steps_per_epoch_of, stream_of


def encoded(split):
    return [image.numpy() for image, _ in split.records()]


def test_so_many_of_each_class_keep_their_label_by_seed(digits, data_dir):
    def open_with(seed):
        return supcon_tf.open_dataset("digits", data_dir, labels_per_class=4, seed=seed)

    part = open_with(0)
    np.testing.assert_array_equal(np.bincount(part.train.labels()), np.full(10, 4))
    kept, hidden = encoded(part.train), encoded(part.unlabelled)
    assert len(kept) == part.train.num_examples == 40
    assert len(hidden) == part.unlabelled.num_examples == digits.train.num_examples - 40
    assert sorted(kept + hidden) == sorted(encoded(digits.train))
    assert sorted(kept + hidden) == sorted(encoded(part.all_images))
    assert sorted(kept) == sorted(encoded(open_with(0).train))
    assert sorted(kept) != sorted(encoded(open_with(1).train))
    assert digits.unlabelled is None
    assert digits.all_images is digits.train
    described = part.describe()
    assert described["unlabelled"]["examples"] == 1307
    assert described["train"] != open_with(1).describe()["train"]


def test_which_keep_their_label_does_not_depend_on_what_the_classes_are_called(digits):
    new = np.random.default_rng(0).permutation(10)
    elements = digits.train.elements

    def renamed(seed):
        return elements(seed).map(lambda image, label: (image, tf.gather(new, label)))

    other = dataclasses.replace(
        digits,
        train=dataclasses.replace(digits.train, elements=renamed),
        class_names=tuple(digits.class_names[at] for at in np.argsort(new)),
    )
    found, expected = (hide_labels(data, 4, None, seed=5).train for data in (other, digits))
    assert encoded(found) == encoded(expected)
    np.testing.assert_array_equal(found.labels(), new[expected.labels()])


def test_a_share_of_each_class_keeps_its_labels(digits, data_dir):
    part = supcon_tf.open_dataset("digits", data_dir, labelled_fraction=0.1)
    whole = np.bincount(digits.train.labels())
    np.testing.assert_array_equal(np.bincount(part.train.labels()), np.round(0.1 * whole))
    every = supcon_tf.open_dataset("digits", data_dir, labelled_fraction=1.0)
    assert every.unlabelled is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"labels_per_class": 5, "labelled_fraction": 0.1},
            "are mutually exclusive. Received: 5 and",
        ),
        ({"labels_per_class": 500}, "class '.' has 1.. training images, .* labels_per_class=500"),
        ({"labels_per_class": 0}, "labels_per_class must be at least 1. Received: 0"),
        ({"labelled_fraction": 1.5}, "labelled_fraction must be above 0 and at most 1. .* 1.5"),
    ],
)
def test_what_cannot_be_hidden_is_refused(arguments, message, data_dir):
    with pytest.raises(UserError, match=message):
        supcon_tf.open_dataset("digits", data_dir, **arguments)


def test_a_folder_may_hold_unlabeled_images(tmp_path):
    root = write_images(tmp_path / "photos", ["dark", "light"], 10)
    write_images(root / "unlabeled", ["a", "b"], 3, seed=5)
    data = supcon_tf.open_dataset(f"folder:{root}")
    assert data.class_names == ("dark", "light")
    assert data.train.num_examples == 16
    np.testing.assert_array_equal(data.unlabelled.labels(), np.full(6, UNLABELED))
    assert data.all_images.num_examples == 22
    fewer = supcon_tf.open_dataset(f"folder:{root}", labels_per_class=2)
    np.testing.assert_array_equal(np.bincount(fewer.train.labels()), [2, 2])
    hidden = fewer.unlabelled.labels()
    assert len(hidden) == 18  # The known classes are there for monitors.
    np.testing.assert_array_equal(np.bincount(hidden + 1), [6, 6, 6])
    assert sorted(fewer.train.names + fewer.unlabelled.names) == sorted(data.all_images.names)
    (root / "unlabeled" / "a" / "bad.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot read image .*unlabeled/a/bad.png"):
        supcon_tf.open_dataset(f"folder:{root}")
    (tmp_path / "photos2" / "unlabeled").mkdir(parents=True)
    write_images(tmp_path / "photos2", ["dark", "light"], 10)
    with pytest.raises(UserError, match="unlabeled has no images"):
        supcon_tf.open_dataset(f"folder:{tmp_path / 'photos2'}")


@pytest.mark.parametrize(
    ("method", "images"), [("supcon_out", 40), ("cross_entropy", 40), ("simclr", 1347)]
)
def test_methods_that_use_labels_see_labelled_images_alone(method, images, data_dir):
    config = PretrainConfig(
        data_dir=data_dir, method=method, labels_per_class=4, batch_size=4, num_views=2
    )
    data = supcon_tf.data.datasets.from_config(config)
    steps = steps_per_epoch_of(config, data)
    assert steps == images // 4
    if images == 40:
        epoch = [labels for _, labels in stream_of(config, data)().take(steps)]
        np.testing.assert_array_equal(np.bincount(tf.concat(epoch, 0)), np.full(10, 4))


def test_a_change_of_the_unlabelled_images_is_noticed_when_a_run_is_resumed(tmp_path):
    root = write_images(tmp_path / "photos", ["dark", "light"], 10)
    write_images(root / "unlabeled", ["a"], 4, seed=5)
    config = PretrainConfig(
        dataset=f"folder:{root}",
        run_dir=str(tmp_path / "run"),
        method="simclr",
        image_size_px=8,
        width_multiplier=0.5,
        batch_size=4,
        epochs=2,
        warmup_epochs=0.0,
        resume=True,
    )
    supcon_tf.pretrain(config, stop_when=lambda history: True)
    write_images(root / "unlabeled", ["b"], 1, seed=6)
    with pytest.raises(UserError, match="'unlabelled' of .* changed .*: 4 images then, 5 now"):
        supcon_tf.pretrain(config)
    (root / "unlabeled").rename(root / "unlabelled")
    with pytest.raises(UserError, match="has unlabelled/. Name it unlabeled/"):
        supcon_tf.pretrain(config)


def test_unlabelled_images_that_are_all_unreadable_are_none(tmp_path):
    root = write_images(tmp_path / "photos", ["dark", "light"], 10)
    (root / "unlabeled").mkdir()
    (root / "unlabeled" / "bad.png").write_bytes(b"nothing")
    data = supcon_tf.open_dataset(f"folder:{root}", skip_bad_images=True)
    assert data.unlabelled is None
    assert data.bad_images == ("unlabeled/bad.png",)
