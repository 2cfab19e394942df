import shutil
from types import SimpleNamespace

import pytest
from conftest import write_images

from supcon_tf import AddClassConfig, UserError
from supcon_tf.exporting.new_classes import find_images

BUNDLE = SimpleNamespace(class_names=("a", "b"), path="saved_models/m/1")


@pytest.mark.parametrize("seed", range(3))
def test_copies_stay_on_one_side_and_what_was_found_is_said(tmp_path, seed, capsys):
    write_images(tmp_path, ["x"], 10)
    shutil.copy(tmp_path / "x/000.png", tmp_path / "x/copy.png")
    (tmp_path / "notes.txt").write_text("")
    new = find_images(AddClassConfig(images=str(tmp_path), seed=seed), BUNDLE)
    assert (new.names, new.support.num_examples + new.held_out.num_examples) == (["x"], 11)
    same = {"x/000.png", "x/copy.png"}
    assert same <= set(new.support.names) or same <= set(new.held_out.names)
    assert set(new.support.labels()) == set(new.held_out.labels()) == {2}
    assert capsys.readouterr().err.splitlines() == [
        "1 file ignored: 1 .txt",
        "exact copies: 1, of 1 images; they stay together when images are held out or set aside",
    ]


def test_every_bad_image_of_new_classes_is_named(tmp_path):
    write_images(tmp_path, ["x"], 10)
    for number in (2, 5):
        (tmp_path / f"x/00{number}.png").write_bytes(b"half")
    with pytest.raises(UserError, match=r"2 images: .*x/002\.png \(.*x/005\.png \(.* replace them"):
        find_images(AddClassConfig(images=str(tmp_path)), BUNDLE)
    with pytest.raises(UserError, match=f"Received: 'folder:.*'. Did you mean '{tmp_path}'"):
        find_images(AddClassConfig(images=f"folder:{tmp_path}"), BUNDLE)
