import pytest

from supcon_tf.config.dataset_names import (
    absolute_dataset,
    is_table,
    own_data,
    plain_path_advice,
    without_place,
)


def test_prefixes_tell_own_images_from_other_data_sets():
    assert own_data("folder:/a:b") == ("folder", "/a:b")
    assert own_data("csv:x.csv") == ("csv", "x.csv")
    assert own_data("mnist:3.0.1") is None
    assert own_data("folder") is None
    assert [is_table(name) for name in ("csv:a", "jsonl:a", "folder:a", "csv")] == [
        True,
        True,
        False,
        False,
    ]


def test_names_are_absolute_for_stages_and_without_a_place_for_readers(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert absolute_dataset("folder:photos") == f"folder:{tmp_path}/photos"
    assert absolute_dataset("jsonl:~/a.jsonl") == "jsonl:/home/me/a.jsonl"
    assert absolute_dataset("digits") == "digits"
    assert without_place("folder:/home/me/photos") == "folder photos"
    assert without_place("csv:/home/me/labels.csv") == "table labels.csv"
    assert without_place("cifar10") == "cifar10"


@pytest.mark.parametrize("place", ["photos", "nowhere"])
def test_a_prefix_where_a_plain_path_belongs_is_noticed(tmp_path, place):
    (tmp_path / "photos").mkdir()
    advice = plain_path_advice(f"folder:{tmp_path / place}")
    assert advice == (f" Did you mean '{tmp_path}/photos'?" if place == "photos" else "")
    assert plain_path_advice(str(tmp_path)) == ""
