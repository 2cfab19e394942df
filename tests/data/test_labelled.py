"""Images of other data sets under the classes of a model."""

import numpy as np
import pytest
from conftest import write_images

from supcon_tf import UserError
from supcon_tf.data.labelled import open_labelled


def labels_of(split):
    return [int(label) for _, label in split.records()]


def test_classes_of_a_folder_are_matched_by_name(tmp_path):
    root = write_images(tmp_path / "other", ["cup", "pen"], 3)
    write_images(root, ["ape"], 2)
    split, bad = open_labelled(f"folder:{root}", ("pen", "none", "cup", "ape"))
    assert labels_of(split) == split.labels().tolist() == [3, 3, 2, 2, 2, 0, 0, 0]
    assert split.names[:3] == ("ape/000.png", "ape/001.png", "cup/000.png")
    assert bad == 0


def test_of_a_folder_with_a_hold_out_the_hold_out(tmp_path):
    for part, count in (("train", 4), ("test", 2)):
        write_images(tmp_path / part, ["cup", "pen"], count)
    name = f"folder:{tmp_path}"
    split, _ = open_labelled(name, ("cup", "pen"), trained_on=name)
    assert [file.split("/")[0] for file in split.names] == ["test"] * 4


def test_classes_of_a_named_data_set_are_matched_too(data_dir, digits):
    names = tuple(f"{digit}" for digit in reversed(range(11)))
    split, _ = open_labelled("digits", names, data_dir)
    expected = 10 - digits.test.labels()
    np.testing.assert_array_equal(split.labels(), expected)
    assert labels_of(split) == expected.tolist()


def test_unreadable_images_are_left_out_where_asked_for(tmp_path):
    root = write_images(tmp_path / "other", ["cup"], 3)
    (root / "cup/bad.png").write_bytes(b"no image")
    name = f"folder:{root}"
    with pytest.raises(UserError, match="bad.png.* or pass --skip_bad_images"):
        open_labelled(name, ("cup", "pen"))
    split, bad = open_labelled(name, ("cup", "pen"), skip_bad_images=True)
    assert (split.num_examples, bad) == (3, 1)
    for file in split.names:
        (root / file).write_bytes(b"no image")
    with pytest.raises(UserError, match="cannot read 4 images: .* Remove or replace them.$"):
        open_labelled(name, ("cup", "pen"), skip_bad_images=True)


def test_what_cannot_be_scored_is_refused_by_name(tmp_path, data_dir):
    root = write_images(tmp_path / "other", ["cup", "dog", "eel"], 1)
    name = f"folder:{root}"
    with pytest.raises(UserError, match="does not know: 'dog', 'eel'. The model knows cup, pen. "):
        open_labelled(name, ("cup", "pen"))
    with pytest.raises(UserError, match="does not know: '9'. The model knows 0, 1"):
        open_labelled("digits", tuple(map(str, range(9))), data_dir)
    with pytest.raises(UserError, match="trained on images of dataset .* Leave --dataset out"):
        open_labelled(name, ("cup", "dog", "eel"), trained_on=name)
    with pytest.raises(UserError, match="folder data set not found. Received: '/nowhere'"):
        open_labelled("folder:/nowhere", ("cup", "pen"))
    with pytest.raises(UserError, match="data_dir is for TensorFlow Datasets"):
        open_labelled(name, ("cup", "pen"), "somewhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no class subfolders"):
        open_labelled(f"folder:{tmp_path / 'empty'}", ("cup", "pen"))
