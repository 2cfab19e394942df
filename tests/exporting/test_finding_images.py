"""The image files that paths, folders and patterns name."""

import os
import re

import pytest
from conftest import forbid

from supcon_tf import UserError
from supcon_tf.exporting.prediction import find_images


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = "a.png b.JPG notes.txt deep/c.gif deep/er/d.bmp deep/.hidden.png .trash/e.png x[1].png"
    for name in names.split():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "folder.png").mkdir()


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (["b.JPG", "a.png"], "b.JPG a.png"),
        (["notes.txt"], "notes.txt"),  # Named as it is, whatever it is called.
        (["deep"], "deep/c.gif deep/er/d.bmp"),
        (["."], "a.png b.JPG deep/c.gif deep/er/d.bmp x[1].png"),
        (["*"], "a.png b.JPG x[1].png"),
        (["**/*.[bg]*"], "deep/c.gif deep/er/d.bmp"),
        (["x[1].png"], "x[1].png"),  # A file before a pattern.
        (["deep/c.gif", "deep", "./deep/../deep/er/d.bmp", "**"], None),
    ],
)
def test_files_folders_and_patterns(images, found, tree):
    expected = found or "deep/c.gif deep/er/d.bmp a.png b.JPG x[1].png"
    if images == ["."]:
        images = [os.getcwd()]
        expected = " ".join(os.path.join(os.getcwd(), name) for name in expected.split())
    assert find_images(images) == dict.fromkeys(expected.split(), "")


def test_a_file_is_taken_once_but_a_link_to_it_is_another(tree):
    os.symlink("deep", "linked")
    os.symlink("a.png", "z.png")
    found = find_images(["deep", "linked/c.gif", "a.png", "z.png"])
    assert list(found) == ["deep/c.gif", "deep/er/d.bmp", "a.png", "z.png"]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("", "path is empty"),
        ("none.png", "image not found"),
        ("none*.png", "matches the pattern"),
        ("folder.png", "folder has no images"),
        ("*.txt", "no image .* matches the pattern"),
    ],
)
def test_what_names_no_image_is_named_and_refused_by_itself(image, message, tree):
    found = find_images([image, "a.png"])
    assert list(found) == [image, "a.png"]
    assert re.search(message, found[image])
    assert found["a.png"] == ""
    with pytest.raises(UserError, match=f"^{re.escape(repr(image))}: .*{message}.*'no.gif': image"):
        find_images([image, "no.gif"])


def test_a_folder_that_may_not_be_read_is_named(tree, monkeypatch):
    os.mkdir("deep/.trash")
    for folder in ("deep/er", "deep/.trash"):
        forbid(monkeypatch, folder)
    with pytest.raises(UserError, match="'deep': cannot read folder deep/er: Permission denied"):
        find_images(["deep"])
