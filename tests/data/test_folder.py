import os
import shutil
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from conftest import forbid, write_images

from supcon_tf import UserError, open_dataset
from supcon_tf.core.errors import StorageError
from supcon_tf.data import own_images
from supcon_tf.data.datasets import naming_lost_images
from supcon_tf.data.folder import list_folder
from supcon_tf.data.images import decode
from supcon_tf.data.own_images import Splitting, check_and_split


def names(split):
    return {name for name, _ in split}


def read_folder(path, **how):
    return check_and_split(list_folder(str(path)), Splitting(**how))


def test_holds_out_a_stratified_share_by_seed(tmp_path):
    write_images(tmp_path, ["a"], 20)
    write_images(tmp_path, ["b"], 10, seed=1)
    found = read_folder(tmp_path)
    splits = found.splits
    assert found.class_names == ["a", "b"]
    assert found.bad_images == found.copies == found.remarks == []
    assert Counter(label for _, label in splits["test"]) == {"a": 4, "b": 2}
    assert Counter(label for _, label in splits["train"]) == {"a": 16, "b": 8}
    assert not names(splits["train"]) & names(splits["test"])
    again = read_folder(tmp_path).splits
    other = read_folder(tmp_path, seed=1).splits
    assert again == splits
    assert names(other["test"]) != names(splits["test"])


def test_takes_train_and_test_subfolders_as_they_are(tmp_path):
    write_images(tmp_path / "train", ["a", "b"], 5)
    write_images(tmp_path / "test", ["a", "b"], 3, seed=1)
    dataset = open_dataset(f"folder:{tmp_path}")
    assert (dataset.train.num_examples, dataset.test.num_examples) == (10, 6)
    labels = [int(label) for _, label in dataset.test.records()]
    assert labels == [0, 0, 0, 1, 1, 1]


def test_streams_grey_rgba_and_mixed_sizes(tmp_path):
    write_images(tmp_path, ["grey"], 5, mode="L", size=(9, 30))
    write_images(tmp_path, ["alpha"], 5, mode="RGBA", size=(41, 17))
    dataset = open_dataset(f"folder:{tmp_path}", image_size_px=12)
    assert dataset.native_size_px is None
    images, labels = next(iter(dataset.train.images(12, 8)))
    assert images.shape == (8, 12, 12, 3)
    grey = images.numpy()[labels.numpy() == dataset.class_names.index("grey")]
    np.testing.assert_array_equal(grey[..., 0], grey[..., 1])


def test_finds_images_at_any_depth_and_ignores_other_files(tmp_path):
    write_images(tmp_path / "a", ["deeper"], 5)
    write_images(tmp_path, ["b"], 5, seed=1)
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "b" / "._000.png").write_bytes(b"of a file manager")
    found = read_folder(tmp_path)
    assert found.class_names == ["a", "b"]
    assert sum(map(len, found.splits.values())) == 10


def test_names_a_bad_image_or_leaves_it_out(image_folder):
    bad = image_folder / "dark" / "003.png"
    bad.write_bytes(bad.read_bytes()[:40])
    with pytest.raises(UserError, match=r"cannot read image .*dark/003\.png: .*skip_bad_images"):
        open_dataset(f"folder:{image_folder}")
    dataset = open_dataset(f"folder:{image_folder}", skip_bad_images=True)
    assert dataset.bad_images == ("dark/003.png",)
    assert dataset.train.num_examples + dataset.test.num_examples == 39
    assert dataset.describe()["bad_images"] == ["dark/003.png"]


def test_images_checked_before_are_not_decoded_again(image_folder, monkeypatch):
    def fail(*arguments):
        raise AssertionError

    monkeypatch.setattr(own_images, "check_images", fail)
    found = read_folder(image_folder, bad_images=["dark/003.png"])
    assert found.bad_images == ["dark/003.png"]
    assert sum(map(len, found.splits.values())) == 39


def test_holdout_fraction_is_for_folders_without_a_test_split(tmp_path):
    write_images(tmp_path / "train", ["a", "b"], 5)
    write_images(tmp_path / "test", ["a", "b"], 3)
    with pytest.raises(UserError, match="holdout_fraction applies only to a folder without"):
        open_dataset(f"folder:{tmp_path}", holdout_fraction=0.3)


def test_fingerprint_changes_with_the_files(image_folder):
    before = open_dataset(f"folder:{image_folder}").describe()
    assert open_dataset(f"folder:{image_folder}").describe() == before
    shutil.copy(image_folder / "dark" / "000.png", image_folder / "dark" / "more.png")
    assert open_dataset(f"folder:{image_folder}").describe() != before


def test_a_link_that_leads_nowhere_is_a_bad_image(image_folder):
    (image_folder / "dark" / "lost.png").symlink_to("/nowhere.png")
    with pytest.raises(UserError, match=r"cannot read image .*dark/lost.png"):
        open_dataset(f"folder:{image_folder}")


@pytest.mark.parametrize("place", ["", "dark", "dark/deeper", "unlabeled/deeper"])
def test_a_folder_that_may_not_be_read_is_refused_and_named(image_folder, monkeypatch, place):
    for inner in ("dark/deeper", "unlabeled/deeper", "dark/.thumbnails"):
        (image_folder / inner).mkdir(parents=True)
    shutil.copy(image_folder / "dark/000.png", image_folder / "unlabeled")
    for forbidden in (place, "dark/.thumbnails"):
        forbid(monkeypatch, image_folder / forbidden)
    with pytest.raises(UserError, match=f"cannot read folder {image_folder / place}: Permission"):
        open_dataset(f"folder:{image_folder}", skip_bad_images=True)


def test_a_file_that_may_not_be_read_is_named_with_the_reason(image_folder, monkeypatch):
    for name in ("dark", "light"):
        forbid(monkeypatch, image_folder / name / "003.png")
    both = (
        r"2 images: .*dark/003\.png \(Permission denied\), .*light/003\.png \(Permission denied\)\."
    )
    with pytest.raises(UserError, match=f"cannot read {both} Remove or replace them, or pass"):
        open_dataset(f"folder:{image_folder}")


def test_twenty_bad_images_are_named_and_the_others_counted(image_folder):
    bad = [f"{name}/{number:03d}.png" for name in ("dark", "light") for number in range(11)]
    for name in bad:
        (image_folder / name).write_text(name)
    with pytest.raises(UserError) as raised:
        open_dataset(f"folder:{image_folder}")
    message = str(raised.value)
    assert message.startswith("cannot read 22 images: ")
    assert "\n" not in message
    assert [name in message for name in bad] == [True] * 20 + [False] * 2
    assert message.count("(the bytes are not a whole JPEG, PNG, BMP, GIF or WebP image)") == 20
    assert message.endswith("and 2 more. Remove or replace them, or pass --skip_bad_images.")
    remarks = open_dataset(f"folder:{image_folder}", skip_bad_images=True).remarks
    assert remarks[0].startswith("unreadable images left out: 22 (dark/000.png (the bytes are")


def test_a_class_without_a_readable_image_is_named(image_folder):
    write_images(image_folder, ["broken"], 3)
    for file in (image_folder / "broken").iterdir():
        file.write_bytes(b"nothing")
    with pytest.raises(UserError, match="class 'broken' of folder .* has no readable image"):
        open_dataset(f"folder:{image_folder}", skip_bad_images=True)


def test_names_of_any_bytes_are_images_as_others(image_folder):
    odd = os.fsdecode(b"\xff\xfe.png")
    (image_folder / "dark/000.png").rename(image_folder / "dark" / odd)
    dataset = open_dataset(f"folder:{image_folder}", holdout_fraction=0.1)
    assert f"dark/{odd}" in {*dataset.train.names, *dataset.test.names}
    assert len(list(dataset.train.records())) + len(list(dataset.test.records())) == 40
    again = open_dataset(f"folder:{image_folder}", holdout_fraction=0.1)
    assert again.describe() == dataset.describe()
    (image_folder / "dark" / odd).rename(image_folder / "dark" / os.fsdecode(b"\xfd\xfe.png"))
    assert open_dataset(f"folder:{image_folder}").describe() != dataset.describe()


def _lose(kind, file):
    if kind == "text":
        file.write_text("no image")
    else:
        file.unlink()
    if kind == "folder":
        file.mkdir()


@pytest.mark.parametrize("kind", ["text", "deleted", "folder"])
def test_an_image_lost_since_it_was_checked_is_named(image_folder, kind):
    split = open_dataset(f"folder:{image_folder}").train
    lost = image_folder / split.names[3]
    _lose(kind, lost)
    with (
        pytest.raises(StorageError, match=f"cannot read image {lost}: .*--resume"),
        naming_lost_images(None, split),
    ):
        list(split.records().map(lambda encoded, label: decode(encoded)))


def test_what_is_no_lost_image_is_left_to_tensorflow(image_folder, digits):
    split = open_dataset(f"folder:{image_folder}").train
    with (
        pytest.raises(tf.errors.InvalidArgumentError),
        naming_lost_images(split, digits.train),
    ):
        tf.constant([1.0, 2.0]) + tf.constant([1.0, 2.0, 3.0])


def _break(kind, root):
    if kind == "missing":
        return root / "nowhere", "folder data set not found"
    if kind == "empty":
        shutil.rmtree(root)
        root.mkdir()
        return root, "has no class subfolders"
    if kind == "one class":
        shutil.rmtree(root / "light")
        return root, "has only the class 'dark'"
    if kind == "no images":
        shutil.rmtree(root / "light")
        (root / "light").mkdir()
        return root, "folder .*light has no images"
    if kind == "too few":
        for file in sorted((root / "light").iterdir())[4:]:
            file.unlink()
        return root, "class 'light' .* has 4 images; holdout_fraction=0.2 needs 5"
    if kind == "splits of other names":
        (root / "light").rename(root / "validation")
        (root / "dark").rename(root / "training")
        return root, "subfolders training, validation, which are not classes"
    if kind == "unprintable":
        (root / "light").rename(root / "li\nght")
        return root, r"class names must be printable. Received: 'li\\nght'"
    if kind == "no test":
        (root / "train").mkdir()
        return root, "has train/ but no test/"
    write_images(root / "train", ["a", "b"], 2)
    write_images(root / "test", ["a"], 2)
    return root, "class 'b' .* has no images in split 'test'"


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "empty",
        "one class",
        "no images",
        "too few",
        "no test",
        "class in one",
        "splits of other names",
        "unprintable",
    ],
)
def test_refuses_folders_it_cannot_use(kind, image_folder):
    root, message = _break(kind, image_folder)
    with pytest.raises(UserError, match=message):
        open_dataset(f"folder:{root}")
