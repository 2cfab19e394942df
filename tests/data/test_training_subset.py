"""Subsets of the training images: each class keeps its share, and the seed of the data decides."""

import numpy as np
import pytest
from conftest import write_images

from supcon_tf import PretrainConfig, UserError, open_dataset
from supcon_tf.data.balance import stratified_places
from supcon_tf.data.datasets import from_config


def encoded(split):
    return {image.numpy() for image, _ in split.records()}


def test_shares_are_rounded_by_the_largest_remainder():
    labels = np.array([3] * 6 + [1] * 3 + [2])  # Of 7 images: 4.2, 2.1 and 0.7.
    places = stratified_places(labels, 7, seed=0)
    assert np.bincount(labels[places]).tolist() == [0, 2, 1, 4]
    assert stratified_places(labels, 10, seed=0).tolist() == list(range(10))


def test_a_class_is_never_lost():
    labels = np.array([0] * 99 + [1])
    with pytest.raises(UserError, match="one of each class. Received: 10. Give another"):
        stratified_places(labels, 10, seed=0)
    with pytest.raises(UserError, match="at most the 100 training images.* Received: 101"):
        stratified_places(labels, 101, seed=0)


def test_a_subset_of_a_data_set_of_tensorflow_datasets(digits, data_dir):
    def subset(seed, **how):
        return open_dataset("digits", data_dir, train_images=200, seed=seed, **how)

    first, same, other = subset(1), subset(1), subset(2)
    assert first.train.num_examples == 200
    assert np.bincount(first.train.labels()).min() >= 19
    assert encoded(first.train) == encoded(same.train) != encoded(other.train)
    assert first.train.fingerprint == same.train.fingerprint != other.train.fingerprint
    assert encoded(first.train) <= encoded(digits.train)
    assert encoded(first.test) == encoded(digits.test)
    parts = subset(1, validation_fraction=0.25)
    assert (parts.train.num_examples, parts.validation.num_examples) == (150, 50)
    assert encoded(parts.train) | encoded(parts.validation) == encoded(first.train)


def test_a_subset_of_a_folder(tmp_path):
    name = f"folder:{write_images(tmp_path / 'photos', ['dark', 'light'], 20)}"
    whole = open_dataset(name, seed=3)
    part = open_dataset(name, seed=3, train_images=10, validation_fraction=0.2)
    assert part.test.names == whole.test.names
    assert np.bincount([*part.train.labels(), *part.validation.labels()]).tolist() == [5, 5]
    assert {*part.train.names, *part.validation.names} < {*whole.train.names}


def test_the_seed_of_the_data_is_not_that_of_the_training(tmp_path):
    name = f"folder:{write_images(tmp_path / 'photos', ['dark', 'light'], 20)}"

    def held_out(**seeds):
        return from_config(PretrainConfig(dataset=name, run_dir=str(tmp_path / "run"), **seeds))

    first = held_out(seed=1, data_seed=7).test.names
    assert first == held_out(seed=2, data_seed=7).test.names == held_out(seed=7).test.names
    assert first != held_out(seed=7, data_seed=1).test.names
