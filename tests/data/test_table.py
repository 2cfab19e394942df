import json
import os

import numpy as np
import pytest
from conftest import write_images

from supcon_tf import PretrainConfig, UserError, open_dataset
from supcon_tf.data.datasets import from_config
from supcon_tf.data.images import decode

KINDS = ("csv", "jsonl")


@pytest.fixture
def rows(image_folder):
    """A row for each image of the folder, most with paths relative to it."""
    paths = sorted(image_folder.rglob("*.png"))
    names = [path.relative_to(image_folder).as_posix() for path in paths]
    names[0], names[1] = str(paths[0]), f"light/../{names[1]}"
    return [
        {"path": name, "label": path.parent.name} for name, path in zip(names, paths, strict=True)
    ]


def write(folder, kind, rows):
    file = folder / f"labels.{kind}"
    if kind == "csv":
        columns = list(rows[0])
        lines = [",".join(columns), *(",".join(str(row[c]) for c in columns) for row in rows)]
        file.write_text("\ufeff" + "\r\n".join(lines) + "\r\n")
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n")
    return f"{kind}:{file}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_is_split_as_the_folder_that_it_lists(image_folder, rows, kind):
    settings = {"validation_fraction": 0.25, "seed": 3}
    expected = open_dataset(f"folder:{image_folder}", **settings)
    name = write(image_folder, kind, rows[::-1])
    found = open_dataset(name, **settings)
    for split in ("train", "validation", "test"):
        assert getattr(found, split).names == getattr(expected, split).names
        np.testing.assert_array_equal(
            getattr(found, split).labels(), getattr(expected, split).labels()
        )
    assert (found.name, found.class_names, found.remarks) == (name, ("dark", "light"), ())
    pixels = [decode(encoded).numpy() for encoded, _ in found.test.records()]
    wanted = [decode(encoded).numpy() for encoded, _ in expected.test.records()]
    np.testing.assert_array_equal(pixels, wanted)
    assert open_dataset(name, **settings, bad_images=[]).describe() == found.describe()


def test_images_may_lie_elsewhere_and_in_no_class_folder(tmp_path):
    write_images(tmp_path / "all", ["x"], 20)
    (tmp_path / "tables").mkdir()
    rows = [{"path": str(tmp_path / f"all/x/{n:03d}.png"), "label": "ab"[n % 2]} for n in range(20)]
    dataset = open_dataset(write(tmp_path / "tables", "csv", rows))
    assert dataset.class_names == ("a", "b")
    places = {
        name: label
        for s in (dataset.train, dataset.test)
        for name, label in zip(s.names, s.labels(), strict=True)
    }
    assert places == {row["path"]: "ab".index(row["label"]) for row in rows}


@pytest.mark.parametrize("kind", KINDS)
def test_given_splits_are_taken_as_they_are(image_folder, rows, kind):
    for number, row in enumerate(rows):
        row["split"] = ("train", "train", "validation", "test")[number % 4]
    name = write(image_folder, kind, rows)
    dataset = open_dataset(name)
    counts = [split.num_examples for split in (dataset.train, dataset.validation, dataset.test)]
    assert counts == [20, 10, 10]
    assert dataset.validation.names == tuple(
        sorted(os.path.normpath(row["path"]) for row in rows if row["split"] == "validation")
    )
    for setting in ("holdout_fraction", "validation_fraction"):
        with pytest.raises(UserError, match=f"{setting} applies only to .* without a .*split"):
            open_dataset(name, **{setting: 0.3})


def test_a_class_that_changes_is_noticed(image_folder, rows):
    first = open_dataset(write(image_folder, "csv", rows), holdout_fraction=0.5).describe()
    rows[5]["label"], rows[25]["label"] = rows[25]["label"], rows[5]["label"]
    changed = open_dataset(write(image_folder, "csv", rows), holdout_fraction=0.5).describe()
    assert changed["train"] != first["train"] or changed["test"] != first["test"]
    given = [dict(row, split=("train", "test")[n % 2]) for n, row in enumerate(rows)]
    before = open_dataset(write(image_folder, "csv", given)).describe()
    given[4]["label"] = "light"
    after = open_dataset(write(image_folder, "csv", given)).describe()
    assert before["train"] != after["train"]
    assert before["test"] == after["test"]


def test_groups_stay_on_one_side(image_folder, rows):
    for number, row in enumerate(rows):
        row["group"] = f"patient {number % 5}"
    dataset = open_dataset(write(image_folder, "jsonl", rows), holdout_by="folder")
    group_of = {
        os.path.normpath(row["path"]).replace(f"{image_folder}/", ""): row["group"] for row in rows
    }
    held = {group_of[name] for name in dataset.test.names}
    assert len(held) == 1
    assert not held & {group_of[name] for name in dataset.train.names}
    assert dataset.remarks == ("test split by folder: 8 of 40 images (20.0 %), 1 of 5 groups",)
    for row in rows:
        del row["group"]
    with pytest.raises(UserError, match="holdout_by=folder needs a column group"):
        open_dataset(write(image_folder, "jsonl", rows), holdout_by="folder")


def test_bad_images_copies_and_other_columns_are_told(image_folder, rows):
    (image_folder / "light/000.png").write_bytes((image_folder / "dark/000.png").read_bytes())
    rows[1]["path"] = "dark/nowhere.png"
    name = write(image_folder, "csv", [dict(row, camera="x") for row in rows])
    with pytest.raises(UserError, match=r"cannot read image .*dark/nowhere\.png: No such file"):
        open_dataset(name)
    dataset = open_dataset(name, skip_bad_images=True)
    assert dataset.bad_images == ("dark/nowhere.png",)
    assert dataset.remarks == (
        "columns not used: camera",
        "unreadable images left out: 1 (dark/nowhere.png (No such file or directory))",
        "exact copies: 1, of 1 images; they stay together when images are held out or set aside",
        "one image under several classes: dark/000.png = light/000.png",
    )


def test_a_file_lost_since_it_was_checked_is_named(image_folder, rows):
    name = write(image_folder, "csv", rows)
    (image_folder / "light/004.png").unlink()
    with pytest.raises(UserError, match=r"light/004\.png: No such file .* Restore it"):
        open_dataset(name, bad_images=[])


BAD_CSV = {
    "no header": ("a.png,dark\n", "must have the columns path and label. Received: a.png, dark"),
    "empty": ("", "must have the columns path and label. Received: an empty file"),
    "no rows": ("path,label\n", "has no images"),
    "too few cells": ("path,label\na.png,x\n\nb.png\n", "line 4: the row must have as many cells"),
    "too many cells": ("path,label\na.png,x,y\n", "line 2: the row must have as many cells"),
    "no label": ("path,label\na.png,\n", "line 2: label must be non-empty text"),
    "no path": ("path,label\n,x\n", "line 2: path must be non-empty text"),
    "nothing beside |": (
        "path,label\na.png,x|\n",
        "line 2: label must be non-empty text. Received: ''",
    ),
    "twice": ("path,label\na.png,x\nb/../a.png,y\n", "line 3: the image is also in line 2"),
    "other split": ("path,label,split\na,x,dev\n", "line 2: split must be one of train, valid"),
    "a split missing": (
        "path,label,split\na,x,train\nb,y,test\nc,x,\n",
        "line 4: split is empty",
    ),
    "no test": ("path,label,split\na,x,train\nb,y,validation\n", "has no row of split 'test'"),
    "a column twice": ("path,label,label\na,x,y\n", "has a column twice. Received: 'label'"),
    "quotes in the header": ('path,"la"bel\n', "line 1: ',' expected after"),
    "open quotes": ('path,label\n"a,x\n', "line 2: unexpected end of data"),
    "one class": ("path,label\na,x\nb,x\n", "has only the class 'x'"),
    "unprintable": ("path,label\na,x\nb,\x07\n", "class names must be printable"),
    "class in one split": (
        "path,label,split\na,x,train\nb,y,train\nc,x,test\n",
        "class 'y' .* has no images in split 'test'",
    ),
}


@pytest.mark.parametrize("kind", BAD_CSV)
def test_refuses_a_wrong_csv(kind, tmp_path):
    content, message = BAD_CSV[kind]
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        open_dataset(f"csv:{tmp_path}/labels.csv")


BAD_JSON = {
    "no JSON": ('{"path": "a", "label": "x"}\n{"path"', "line 2: not JSON"),
    "no object": ("[1]\n", "line 1: not an object with the keys path and label. .*: list"),
    "no label": ('\n{"path": "a"}\n', "line 2: not an object .* Received: path"),
    "no labels": ('{"path": "a", "label": []}', "line 1: label must be non-empty text"),
    "| in one of several": (
        '{"path": "a", "label": ["x", "y"]}\n{"path": "b", "label": "x|z"}',
        r"line 2: a label must have no \| in a table .*: 'x\|z'",
    ),
    "a fraction": ('{"path": "a", "label": 1.5}', "line 1: label must be non-empty text.*: 1.5"),
    "too deep": ("[" * 100_000, "line 1: not JSON .it is nested too deeply"),
    "a key twice": ('{"path": "a", "label": "x", "label": "y"}', "line 1: a key occurs twice"),
    "no UTF-8": ('{"path": "\\ud800", "label": "x"}', "line 1: path is not UTF-8. Received"),
    "null": ('{"path": null, "label": "x"}', "line 1: path must be non-empty text.*: None"),
}


@pytest.mark.parametrize("kind", BAD_JSON)
def test_refuses_wrong_json_lines(kind, tmp_path):
    content, message = BAD_JSON[kind]
    (tmp_path / "labels.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        open_dataset(f"jsonl:{tmp_path}/labels.jsonl")


@pytest.mark.parametrize("kind", KINDS)
def test_other_encodings_than_utf_8_are_named(kind, image_folder, rows):
    name = write(image_folder, kind, rows)
    file = image_folder / f"labels.{kind}"
    text = file.read_text("utf-8-sig")
    file.write_text(text, "utf-16")
    with pytest.raises(UserError, match=r"is UTF-16\. Save it as UTF-8"):
        open_dataset(name)
    file.write_text(text.replace("light", "hell\xe4"), "latin-1")
    with pytest.raises(UserError, match=r"(label|path) is not UTF-8\. Received: 'hell.udce4'"):
        open_dataset(name)


def test_json_may_begin_with_a_byte_order_mark(image_folder, rows):
    name = write(image_folder, "jsonl", rows)
    file = image_folder / "labels.jsonl"
    file.write_text(file.read_text(), "utf-8-sig")
    assert open_dataset(name).train.num_examples == 32


@pytest.mark.parametrize("kind", KINDS)
def test_white_space_around_a_label_makes_no_other_class(kind, image_folder, rows):
    rows[3]["label"] += " "
    assert open_dataset(write(image_folder, kind, rows)).class_names == ("dark", "light")


def test_paths_lead_from_the_table_wherever_it_is_opened_from(image_folder, rows, monkeypatch):
    monkeypatch.chdir(image_folder.parent)
    (image_folder / "tables").mkdir()
    expected = open_dataset(write(image_folder, "csv", rows))
    rows = [dict(row, path=os.path.join(image_folder, row["path"])) for row in rows]
    rows = [dict(row, path=os.path.relpath(row["path"], image_folder / "tables")) for row in rows]
    write(image_folder / "tables", "csv", rows)
    dataset = open_dataset("csv:photos/tables/labels.csv")
    assert sorted(dataset.test.names) == [str(image_folder / name) for name in expected.test.names]
    paths = "dark/000.png", str(image_folder / "dark/000.png")
    write(image_folder, "csv", [{"path": path, "label": "dark"} for path in paths])
    with pytest.raises(UserError, match="line 3: the image is also in line 2"):
        open_dataset("csv:photos/labels.csv")


def test_a_pipe_is_not_waited_for(image_folder, rows):
    os.mkfifo(image_folder / "pipe.png")
    rows[4]["path"] = "pipe.png"
    with pytest.raises(UserError, match=r"pipe\.png: it is not a regular file"):
        open_dataset(write(image_folder, "csv", rows))


def test_whole_numbers_are_labels_in_json(image_folder, rows):
    rows = [dict(row, label=["dark", "light"].index(row["label"])) for row in rows]
    assert open_dataset(write(image_folder, "jsonl", rows)).class_names == ("0", "1")


def test_the_path_is_absolute_in_the_configuration(image_folder, rows, monkeypatch):
    write(image_folder, "csv", rows)
    monkeypatch.chdir(image_folder)
    config = PretrainConfig(dataset="csv:labels.csv")
    assert config.dataset == f"csv:{image_folder}/labels.csv"
    monkeypatch.chdir("/")
    assert from_config(config).train.num_examples == 32
    with pytest.raises(UserError, match="dataset must name a table. Received: 'csv:'"):
        PretrainConfig(dataset="csv:")
    with pytest.raises(UserError, match="csv data set not found. Received: '/nowhere.csv'"):
        open_dataset("csv:/nowhere.csv")
