"""Tables whose images have several labels, as splits and streams."""

import json

import numpy as np
import pytest
from conftest import write_images

from supcon_tf import AUGMENTATIONS, UserError, open_dataset
from supcon_tf.data.augment import Share
from supcon_tf.data.holding_out import tie
from supcon_tf.data.labelled import open_labelled
from supcon_tf.data.several_labels import hold_out_several, multi_hot
from supcon_tf.data.streams import training_views

CLASSES = ("blue", "green", "red")


def label_of(number):
    """Its classes: each of three bits is one; every eighth image has none."""
    return [name for bit, name in enumerate(CLASSES) if number >> bit & 1]


def write_table(folder, kind="jsonl", count=80, **columns):
    """A table of images with several labels; other columns are functions of the image's number."""
    if not (folder / "all").exists():
        write_images(folder, ["all"], count, size=(6, 6))
    rows = [
        {"path": f"all/{n:03d}.png", "label": label_of(n)}
        | {name: of(n) for name, of in columns.items()}
        for n in range(count)
    ]
    file = folder / f"labels.{kind}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [",".join(rows[0])]
        lines += [
            ",".join(["|".join(c) if isinstance(c, list) else c for c in r.values()]) for r in rows
        ]
        file.write_text("\n".join(lines) + "\n")
    return f"{kind}:{file}"


def truth(names):
    """The labels bool [N, 3] of files, from their numbers."""
    return np.array([[name in label_of(int(file[-7:-4])) for name in CLASSES] for file in names])


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_labels_are_rows_of_bools_in_every_split(tmp_path, kind):
    dataset = open_dataset(write_table(tmp_path, kind), validation_fraction=0.25, seed=1)
    assert dataset.multi_label
    assert dataset.class_names == CLASSES
    assert dataset.describe()["multi_label"] is True
    for split in (dataset.train, dataset.validation, dataset.test):
        labels = split.labels()
        assert labels.dtype == bool
        np.testing.assert_array_equal(labels, truth(split.names))
        _, streamed = next(iter(split.images(8, split.num_examples)))
        np.testing.assert_array_equal(streamed, labels)
    part = dataset.train.subset(np.array([3, 1]), "")
    np.testing.assert_array_equal(part.labels(), dataset.train.labels()[[1, 3]])


def test_views_come_with_the_labels_of_their_images(tmp_path):
    dataset = open_dataset(write_table(tmp_path), image_size_px=8)
    settings = {"augmentation": AUGMENTATIONS["weak"], "num_views": 2, "batch_size": 16}
    whole = training_views(dataset, **settings, epochs=1, seed=5)
    views, labels = next(iter(whole))
    assert views.shape == (16, 2, 8, 8, 3)
    assert labels.shape == (16, 3)
    shares = [
        next(iter(training_views(dataset, **settings, epochs=1, seed=5, share=Share(index, 2))))
        for index in range(2)
    ]
    np.testing.assert_array_equal(np.concatenate([share[1] for share in shares]), labels)
    counts = sum(labels.numpy().sum(axis=0) for _, labels in whole)
    assert np.all(counts <= dataset.train.labels().sum(axis=0))
    assert counts.min() > 0


def test_one_row_with_several_labels_decides_for_the_table(tmp_path):
    write_images(tmp_path, ["all"], 24, size=(6, 6))
    names = [["red"], ["green"]] * 12
    lines = [f"all/{n:03d}.png,{'|'.join(label)}" for n, label in enumerate(names)]
    (tmp_path / "labels.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    assert not open_dataset(f"csv:{tmp_path}/labels.csv").multi_label
    lines[0] = "all/000.png,red | green"
    (tmp_path / "labels.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    dataset = open_dataset(f"csv:{tmp_path}/labels.csv")
    assert (dataset.multi_label, dataset.class_names) == (True, ("green", "red"))
    found = {
        n: row.tolist()
        for s in (dataset.train, dataset.test)
        for n, row in zip(s.names, s.labels(), strict=True)
    }
    assert found["all/000.png"] == [True, True]
    assert found["all/001.png"] == [True, False]


def test_the_hold_out_has_the_share_of_every_class():
    rng = np.random.default_rng(0)
    rates = [0.5, 0.1, 0.05]
    shown = rng.random((400, 3)) < rates
    examples = [
        (f"{number}", tuple(name for name, is_there in zip(CLASSES, row, strict=True) if is_there))
        for number, row in enumerate(shown)
    ]
    names = [name for name, _ in examples]
    sides = hold_out_several("table x", examples, 0.2, 3, "holdout_fraction", tie(names, []))
    assert sorted(sides[0] + sides[1]) == sorted(examples)
    assert len(sides[1]) == pytest.approx(80, abs=2)
    held = multi_hot(sides[1], CLASSES).sum(axis=0)
    np.testing.assert_allclose(held, 0.2 * shown.sum(axis=0), atol=1.01)
    again = hold_out_several("table x", examples, 0.2, 3, "holdout_fraction", tie(names, []))
    other = hold_out_several("table x", examples, 0.2, 4, "holdout_fraction", tie(names, []))
    assert sides == again
    assert sides != other
    pairs = tie(names, [names[at : at + 2] for at in range(0, 400, 2)])
    tied = hold_out_several("table x", examples, 0.2, 3, "holdout_fraction", pairs)
    numbers = {int(name) // 2 for name, _ in tied[0]}
    assert not numbers & {int(name) // 2 for name, _ in tied[1]}
    np.testing.assert_allclose(
        multi_hot(tied[1], CLASSES).sum(axis=0), 0.2 * shown.sum(axis=0), atol=2.01
    )


def test_a_class_that_cannot_be_on_both_sides_is_refused(tmp_path):
    write_images(tmp_path, ["all"], 20, size=(6, 6))
    rows = [{"path": f"all/{n:03d}.png", "label": ["red", "green"]} for n in range(20)]
    rows[0]["label"] = ["blue"]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="class 'blue' of table .* has 1 images; holdout_fraction"):
        open_dataset(f"jsonl:{tmp_path}/labels.jsonl")


def test_groups_stay_on_one_side(tmp_path):
    name = write_table(tmp_path, group=lambda number: f"patient {number // 8 % 5}")
    dataset = open_dataset(name, holdout_by="folder")
    held = {int(file[-7:-4]) // 8 % 5 for file in dataset.test.names}
    assert len(held) == 1
    assert not held & {int(file[-7:-4]) // 8 % 5 for file in dataset.train.names}


def test_copies_with_other_labels_are_named(tmp_path):
    name = write_table(tmp_path)
    for source, copy in ((8, 9), (16, 24)):  # Of no class and of one; both of none.
        content = (tmp_path / f"all/{source:03d}.png").read_bytes()
        (tmp_path / f"all/{copy:03d}.png").write_bytes(content)
    remarks = open_dataset(name).remarks
    assert remarks == (
        "exact copies: 2, of 2 images; they stay together when images are held out or set aside",
        "copies with different labels: all/008.png = all/009.png",
    )


def test_a_label_that_changes_is_noticed(tmp_path):
    splits = {"split": lambda number: ("train", "test")[number // 8 % 2]}
    name = write_table(tmp_path, **splits)
    before = open_dataset(name).describe()
    file = tmp_path / "labels.jsonl"
    file.write_text(file.read_text().replace('["blue", "green"]', '["blue", "red"]', 1))
    after = open_dataset(name).describe()
    assert before["train"] != after["train"]
    assert before["test"] == after["test"]


@pytest.mark.parametrize("setting", [{"labels_per_class": 2}, {"labelled_fraction": 0.5}])
def test_hidden_labels_are_for_one_class_an_image(tmp_path, setting):
    with pytest.raises(UserError, match="are for images of one class each"):
        open_dataset(write_table(tmp_path), **setting)


def test_other_images_are_labelled_with_the_classes_of_the_model(tmp_path):
    name = write_table(tmp_path)
    known = ("red", "black", "blue", "green")
    split, left_out = open_labelled(name, known, multi_label=True)
    assert left_out == 0
    np.testing.assert_array_equal(split.labels()[:, [2, 3, 0]], truth(split.names))
    assert not split.labels()[:, 1].any()
    with pytest.raises(UserError, match="the model gives one class of each"):
        open_labelled(name, known)
    with pytest.raises(UserError, match="does not know: 'green'"):
        open_labelled(name, ("red", "blue"), multi_label=True)
    with pytest.raises(UserError, match="pass a table that lists them"):
        open_labelled("digits", known, multi_label=True)
    (tmp_path / "single.csv").write_text("path,label\nall/000.png,red\nall/001.png,blue\n")
    split, _ = open_labelled(f"csv:{tmp_path}/single.csv", known, multi_label=True)
    assert split.labels().tolist() == [[True, False, False, False], [False, False, True, False]]
