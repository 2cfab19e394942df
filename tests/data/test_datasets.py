import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from conftest import write_images
from sklearn.datasets import load_digits

from supcon_tf import UserError, open_dataset
from supcon_tf.data.balance import long_tail
from supcon_tf.data.digits import write_digits
from supcon_tf.data.images import decode
from supcon_tf.data.tfds import LONG_TAILED


def test_digits_are_scikit_learns(digits):
    images, labels = load_digits(return_X_y=True)
    expected = sorted(
        (int(label), tuple(np.rint(image * 255 / 16).astype(int)))
        for image, label in zip(images, labels, strict=True)
    )
    found = sorted(
        (int(label), tuple(decode(encoded).numpy()[..., 0].ravel().astype(int)))
        for split in (digits.train, digits.test)
        for encoded, label in split.records()
    )
    assert found == expected
    assert digits.train.num_examples == 1347
    assert digits.test.num_examples == 450
    assert digits.class_names == tuple("0123456789")
    assert (digits.native_size_px, digits.image_size_px) == (8, 8)


def test_digits_hold_out_every_class_alike(digits):
    labels = [int(label) for _, label in digits.test.records()]
    counts = np.bincount(labels)
    assert counts.min() >= 43
    assert counts.max() <= 47


def test_digits_can_be_written_as_a_folder(tmp_path, digits):
    assert write_digits(str(tmp_path / "photos")) == 1797
    written = open_dataset(f"folder:{tmp_path / 'photos'}", image_size_px=8)
    assert written.class_names == digits.class_names

    def content(dataset):
        records = dataset.train.records().concatenate(dataset.test.records())
        return sorted((int(label), decode(png).numpy().tobytes()) for png, label in records)

    assert content(written) == content(digits)
    with pytest.raises(UserError, match="must be new or empty"):
        write_digits(str(tmp_path / "photos"))


def test_shuffling_depends_on_the_seed_alone(digits):
    def order(seed):
        return [encoded.numpy() for encoded, _ in digits.train.records(seed).take(50)]

    tf.random.set_seed(1)
    first = order(1)
    tf.random.set_seed(1)
    assert order(1) == first
    assert order(2) != first
    everything = sorted(encoded.numpy() for encoded, _ in digits.train.records(1))
    assert everything == sorted(encoded.numpy() for encoded, _ in digits.train.records())


def test_image_size_overrides_the_native_one(data_dir):
    dataset = open_dataset("digits", data_dir, image_size_px=12)
    images, labels = next(iter(dataset.test.images(dataset.image_size_px, 7)))
    assert images.shape == (7, 12, 12, 3)
    assert labels.dtype == tf.int64


def test_unknown_names_suggest_the_nearest(tmp_path):
    with pytest.raises(UserError, match="Received: 'cifar100x'. Did you mean 'cifar100'"):
        open_dataset("cifar100x", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_of_a_folder_or_a_table_suggests_its_prefix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "labels.csv").write_text("path,label\n")
    for name, advice in {
        "photos": "folder:photos",
        "./photos": "folder:./photos",
        str(tmp_path / "photos"): f"folder:{tmp_path / 'photos'}",
        "labels.csv": "csv:labels.csv",
    }.items():
        with pytest.raises(UserError, match=f"Did you mean '{advice}'") as raised:
            open_dataset(name, str(tmp_path))
        assert "\n" not in str(raised.value)


def test_an_unknown_version_is_named(data_dir):
    with pytest.raises(UserError, match="dataset 'cifar10:99.9.9' cannot be used: .*99.9.9"):
        open_dataset("cifar10:99.9.9", data_dir)


def test_skipping_bad_images_is_for_folders(data_dir):
    with pytest.raises(UserError, match="skip_bad_images is for folder data sets"):
        open_dataset("digits", data_dir, skip_bad_images=True)


def test_digits_that_cannot_be_written_are_one_clear_line():
    with pytest.raises(UserError, match="cannot write the digits to /proc/nope"):
        open_dataset("digits", "/proc/nope")


def test_a_sample_is_drawn_over_all_classes_and_always_the_same(tmp_path):
    write_images(tmp_path, ["a", "b", "c"], 40)
    split = open_dataset(f"folder:{tmp_path}").train
    labels = [int(label) for _, label in split.sample(15)]
    assert len(labels) == 15
    assert set(labels) == {0, 1, 2}
    assert [int(label) for _, label in split.sample(15)] == labels
    everything = [int(label) for _, label in split.sample(None)]
    assert everything == sorted(everything)
    images = np.concatenate([images for images, _ in split.images(8, 4, limit=15)])
    assert images.shape == (15, 8, 8, 3)


class HiddenLabels(tfds.core.GeneratorBasedBuilder):
    """A test split whose labels are not published."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(4, 4, 3)),
                "label": tfds.features.ClassLabel(names=["a", "b"]),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(8, 1),
            "validation": self._generate_examples(4, 1),
            "test": self._generate_examples(2, -1),
        }

    def _generate_examples(self, count, label):
        for index in range(count):
            yield index, {"image": np.zeros((4, 4, 3), np.uint8), "label": label}


def test_a_test_split_without_labels_gives_way_to_validation(tmp_path):
    HiddenLabels(data_dir=str(tmp_path)).download_and_prepare()
    assert open_dataset("hidden_labels", str(tmp_path)).test.num_examples == 4


class WithoutLabels(tfds.core.GeneratorBasedBuilder):
    """Images without labels."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(4, 4, 3))})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"image": np.zeros((4, 4, 3), np.uint8)}


def test_refuses_a_data_set_without_labels(tmp_path):
    WithoutLabels(data_dir=str(tmp_path)).download_and_prepare()
    with pytest.raises(UserError, match="must have an image and a class label"):
        open_dataset("without_labels", str(tmp_path))


def test_a_batch_is_at_most_the_data(digits, monkeypatch):
    """A batch of a million takes TensorFlow half a minute, for however few images."""
    asked, batch = [], tf.data.Dataset.batch

    def noting(self, size, **arguments):
        asked.append(size)
        return batch(self, size, **arguments)

    monkeypatch.setattr(tf.data.Dataset, "batch", noting)
    for limit in (None, 1000, 7):
        (images, _), *_ = digits.test.images(8, 2**20, limit)
        assert len(images) == asked[-1]
    assert asked == [450, 450, 7]


@pytest.mark.parametrize("kind", ["digits", "folder", "tfds"])
def test_the_validation_set_is_drawn_from_each_class_by_the_seed(kind, data_dir, tmp_path):
    if kind == "folder":
        write_images(tmp_path, ["a", "b", "c"], 40)
    if kind == "tfds":
        Sorted(data_dir=str(tmp_path)).download_and_prepare()
    name, place = {
        "digits": ("digits", data_dir),
        "folder": (f"folder:{tmp_path}", ""),
        "tfds": ("sorted", str(tmp_path)),
    }[kind]

    def opened(seed):
        found = open_dataset(name, place, validation_fraction=0.25, seed=seed)
        return [
            [e.numpy() for e, _ in split.records()] for split in (found.train, found.validation)
        ]

    dataset = open_dataset(name, place, validation_fraction=0.25, seed=3)
    held, rest = (np.bincount(split.labels()) for split in (dataset.validation, dataset.train))
    np.testing.assert_allclose(held / (held + rest), 0.25, atol=0.01)
    (rest, held), again, (_, other) = opened(3), opened(3), opened(4)
    assert [rest, held] == again
    assert held != other
    assert not {*held} & {*rest}


def test_a_long_tail_has_the_published_sizes():
    """CIFAR-10-LT of imbalance 100 has 12,406 images (Cao et al. 2019)."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 5000))
    places = long_tail(labels, 100.0, 0)
    counts = np.bincount(labels[places])
    assert counts.tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert len(set(places.tolist())) == 12_406
    np.testing.assert_array_equal(places, long_tail(labels, 100.0, 0))
    other = long_tail(labels, 100.0, 1)
    assert np.bincount(labels[other]).tolist() == counts.tolist()
    assert set(other.tolist()) != set(places.tolist())


def test_a_long_tailed_data_set_is_a_part_of_anothers_training_split(tmp_path, monkeypatch):
    Sorted(data_dir=str(tmp_path)).download_and_prepare()
    monkeypatch.setitem(LONG_TAILED, "sorted_lt", "sorted")

    def opened(**settings):
        return open_dataset("sorted_lt", str(tmp_path), **settings)

    found = opened(imbalance_factor=8.0)
    assert found.name == "sorted_lt"
    assert np.bincount(found.train.labels()).tolist() == [80, 10]
    assert found.test.num_examples == 4
    whole = [
        encoded.numpy() for encoded, _ in open_dataset("sorted", str(tmp_path)).train.records()
    ]
    part = [encoded.numpy() for encoded, _ in found.train.records()]
    assert len({*part}) == 90
    assert {*part} < {*whole}
    again, other = opened(imbalance_factor=8.0), opened(imbalance_factor=8.0, seed=1)
    assert again.describe() == found.describe() != other.describe()
    held = opened(imbalance_factor=8.0, validation_fraction=0.2)
    assert np.bincount(held.train.labels()).tolist() == [64, 8]
    assert np.bincount(held.validation.labels()).tolist() == [16, 2]
    with pytest.raises(UserError, match="imbalance_factor must be at most 80, .*Received: 100"):
        opened()
    with pytest.raises(UserError, match="is for cifar10_lt.* Received: 8 with dataset='digits'"):
        open_dataset("digits", imbalance_factor=8.0)


class Sorted(tfds.core.GeneratorBasedBuilder):
    """Classes one after the other, in several shards' worth of images that all differ."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(4, 4, 3)),
                "label": tfds.features.ClassLabel(names=["a", "b"]),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(160), "test": self._generate_examples(4)}

    def _generate_examples(self, count):
        for index in range(count):
            image = np.full((4, 4, 3), index, np.uint8)
            yield index, {"image": image, "label": index * 2 // count}
