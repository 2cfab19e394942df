"""Splits that keep copies and groups together."""

import shutil
from collections import Counter

import numpy as np
import pytest
from conftest import write_images
from sklearn.model_selection import train_test_split

from supcon_tf import UserError, open_dataset
from supcon_tf.data.holding_out import check_rarest, hold_out, hold_out_groups, tie

EXAMPLES = [(f"{label}/{number:02}", label) for label in "abc" for number in range(20)]


def test_ties_are_joined_over_others():
    numbers = tie(list("abcdef"), [("a", "c"), ("e", "c"), ("b", "elsewhere"), ("d", "f")])
    together = {frozenset(n for n in numbers if numbers[n] == own) for own in numbers.values()}
    assert together == {frozenset("ace"), frozenset("b"), frozenset("df")}


def test_without_ties_the_split_is_scikit_learns():
    labels = [label for _, label in EXAMPLES]
    expected = train_test_split(EXAMPLES, test_size=0.3, stratify=labels, random_state=7)
    alone = tie([name for name, _ in EXAMPLES], [])
    found = hold_out("folder x", EXAMPLES, 0.3, 7, "holdout_fraction", alone)
    assert found == tuple(map(sorted, expected))


@pytest.mark.parametrize("seed", range(5))
def test_copies_stay_on_one_side(seed):
    copies = [["a/00", "a/01", "a/02"], ["b/05", "c/05"], ["c/06", "c/07"]]
    unit_of = tie([name for name, _ in EXAMPLES], copies)
    sides = hold_out("folder x", EXAMPLES, 0.3, seed, "holdout_fraction", unit_of)
    assert sorted(sides[0] + sides[1]) == EXAMPLES
    for group in copies:
        assert len({number for number, side in enumerate(sides) if set(group) & {*dict(side)}}) == 1


def test_copies_do_not_make_up_for_missing_images():
    copies = [[f"a/{number:02}" for number in range(17)]]
    unit_of = tie([name for name, _ in EXAMPLES], copies)
    with pytest.raises(
        UserError, match="'a' of folder x has 4 images, copies counted once; .* 5 or"
    ):
        hold_out("folder x", EXAMPLES, 0.2, 0, "holdout_fraction", unit_of)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.3, 0.4, 0.5, 0.7])
def test_groups_are_held_out_whole_and_near_the_share(fraction):
    rng = np.random.default_rng(3)
    group_of = {name: int(rng.integers(20)) for name, _ in EXAMPLES * 4}
    rest, held = hold_out_groups("folder x", EXAMPLES, fraction, 0, "holdout_fraction", group_of)
    assert sorted(rest + held) == EXAMPLES
    assert not {group_of[name] for name, _ in rest} & {group_of[name] for name, _ in held}
    counts = Counter(label for _, label in held)
    assert set(counts) == set("abc")
    assert len(held) / 60 == pytest.approx(fraction, abs=0.1)
    again = hold_out_groups("folder x", EXAMPLES, fraction, 0, "holdout_fraction", group_of)
    other = hold_out_groups("folder x", EXAMPLES, fraction, 1, "holdout_fraction", group_of)
    assert again == (rest, held) != other


def test_classes_of_two_groups_each_are_halved():
    """No fifth of the groups has an image of every class."""
    group_of = {name: (ord(label), name > f"{label}/09") for name, label in EXAMPLES}
    number_of = {name: sorted(set(group_of.values())).index(g) for name, g in group_of.items()}
    held = hold_out_groups("folder x", EXAMPLES, 0.2, 0, "holdout_fraction", number_of)[1]
    assert Counter(label for _, label in held) == {"a": 10, "b": 10, "c": 10}


def test_a_class_of_one_group_is_refused():
    group_of = {
        name: (0 if label == "b" else number) for number, (name, label) in enumerate(EXAMPLES)
    }
    with pytest.raises(
        UserError, match="class 'b' of folder x has only one group .*holdout_by=folder"
    ):
        hold_out_groups("folder x", EXAMPLES, 0.2, 0, "holdout_fraction", group_of)


def copy(root, name, other):
    (root / other).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(root / name, root / other)


def sides_of(dataset, names):
    splits = {"train": dataset.train, "test": dataset.test, "validation": dataset.validation}
    return [side for side, split in splits.items() if split and set(names) & set(split.names)]


@pytest.fixture
def with_copies(image_folder):
    """The folder with three copies of one image, and one image under two classes."""
    copy(image_folder, "dark/001.png", "dark/copy.png")
    copy(image_folder, "dark/001.png", "dark/deeper/copy.png")
    copy(image_folder, "light/002.png", "dark/wrong.png")
    return image_folder


@pytest.mark.parametrize("seed", range(4))
def test_copies_in_a_folder_are_reported_and_stay_together(with_copies, seed):
    settings = {"seed": seed, "validation_fraction": 0.25}
    dataset = open_dataset(f"folder:{with_copies}", **settings)
    same = ("dark/001.png", "dark/copy.png", "dark/deeper/copy.png")
    twins = ("dark/wrong.png", "light/002.png")
    assert set(dataset.copies) == {same, twins}
    for group in dataset.copies:
        assert len(sides_of(dataset, group)) == 1
    assert dataset.remarks == (
        "exact copies: 3, of 2 images; they stay together when images are held out or set aside",
        "one image under several classes: dark/wrong.png = light/002.png",
    )
    described = dataset.describe()
    found = {"bad_images": [], "copies": described["copies"]}
    later = open_dataset(f"folder:{with_copies}", **settings, **found)
    assert later.describe() == described
    assert later.remarks == ()


def test_runs_from_before_copies_were_known_are_split_as_then(with_copies):
    before = open_dataset(f"folder:{with_copies}", bad_images=[])
    names = sorted(before.train.names + before.test.names)
    examples = [(name, name.split("/")[0]) for name in names]
    labels = [label for _, label in examples]
    expected = train_test_split(examples, test_size=0.2, stratify=labels, random_state=0)[1]
    assert list(before.test.names) == sorted(name for name, _ in expected)
    assert "copies" not in before.describe()


def test_copies_between_given_splits_are_counted(tmp_path):
    write_images(tmp_path / "train", ["a", "b"], 5)
    write_images(tmp_path / "test", ["a", "b"], 3, seed=1)
    copy(tmp_path, "train/a/001.png", "test/a/again.png")
    copy(tmp_path, "train/b/002.png", "test/b/again.png")
    copy(tmp_path, "test/b/000.png", "test/b/twice.png")
    remarks = open_dataset(f"folder:{tmp_path}").remarks
    assert remarks == (
        "exact copies: 3, of 3 images; they stay together when images are held out or set aside",
        "copies of training images in the test split: 2 (test/a/again.png, test/b/again.png)",
    )


def test_unlabelled_copies_of_held_out_images_are_left_out(image_folder):
    for file in sorted(image_folder.rglob("*.png")):
        name = file.relative_to(image_folder).as_posix()
        copy(image_folder, name, f"unlabeled/{name.replace('/', '-')}")
    dataset = open_dataset(f"folder:{image_folder}")
    kept = {f"unlabeled/{name.replace('/', '-')}" for name in dataset.train.names}
    assert set(dataset.unlabelled.names) == kept
    assert len(kept) == 32
    assert dataset.remarks[-1] == "unlabelled images left out, related to held-out ones: 8"


@pytest.fixture
def patients(tmp_path):
    """Two classes of six patients each, the same patients, and one more in the second."""
    for name in ("ill", "well"):
        write_images(tmp_path / name, [f"p{number}" for number in range(6)], 4, seed=ord(name[0]))
    write_images(tmp_path / "well", ["p6/left", "p6/right"], 2, seed=9)
    return tmp_path


def test_patients_are_held_out_whole(patients):
    settings = {"holdout_by": "folder", "holdout_fraction": 0.3, "validation_fraction": 0.25}
    dataset = open_dataset(f"folder:{patients}", **settings)
    splits = dataset.train, dataset.validation, dataset.test
    own = [{name.split("/")[1] for name in split.names} for split in splits]
    assert sum(map(len, own)) == 7
    assert set().union(*own) == {f"p{number}" for number in range(7)}
    for split in splits:
        assert set(split.labels()) == {0, 1}
    total = sum(split.num_examples for split in splits)
    share = 100 * dataset.test.num_examples / total
    assert dataset.remarks[0] == (
        f"test split by folder: {dataset.test.num_examples} of {total} images ({share:.1f} %), "
        f"{len(own[2])} of 7 groups"
    )
    assert dataset.remarks[1].startswith("validation split by folder: ")
    again = open_dataset(f"folder:{patients}", **settings, bad_images=[])
    assert again.describe() == dataset.describe()


def test_copies_join_groups(patients):
    copy(patients, "ill/p0/000.png", "ill/p1/copy.png")
    copy(patients, "ill/p1/001.png", "well/p2/copy.png")
    for seed in range(4):
        dataset = open_dataset(f"folder:{patients}", holdout_by="folder", seed=seed)
        held = {name.split("/")[1] for name in dataset.test.names}
        assert len(held & {"p0", "p1", "p2"}) in (0, 3)


def test_unlabelled_images_of_held_out_patients_are_left_out(patients):
    write_images(patients / "unlabeled", [f"p{number}" for number in range(7)], 2, seed=4)
    dataset = open_dataset(f"folder:{patients}", holdout_by="folder")
    held = {name.split("/")[1] for name in dataset.test.names}
    left = {name.split("/")[1] for name in dataset.unlabelled.names}
    assert held
    assert left == {f"p{number}" for number in range(7)} - held


def test_a_hold_out_by_folder_that_cannot_be_made_is_refused(image_folder, tmp_path, data_dir):
    with pytest.raises(UserError, match="needs subfolders below the class folders. .* has none"):
        open_dataset(f"folder:{image_folder}", holdout_by="folder")
    with pytest.raises(UserError, match="holdout_by is for folder data sets"):
        open_dataset("digits", data_dir, holdout_by="folder")
    for split in ("train", "test"):
        write_images(tmp_path / "given" / split / "a", ["p1", "p2"], 3)
        write_images(tmp_path / "given" / split / "b", ["p3"], 3)
    given = f"folder:{tmp_path / 'given'}"
    with pytest.raises(UserError, match="holdout_by applies only to images without splits"):
        open_dataset(given, holdout_by="folder")
    with pytest.raises(UserError, match="class 'b' .* one group .* validation_fraction=0.5"):
        open_dataset(given, holdout_by="folder", validation_fraction=0.5)


def test_a_class_that_is_too_small_after_holding_out_is_counted_so():
    with pytest.raises(UserError, match="'c' of d has 6 images besides those held out; valid"):
        check_rarest("d", {"b": 20, "c": 6}, 0.1, "validation_fraction", False)
    with pytest.raises(UserError, match="'c' of d has 3 images, copies counted once; holdout"):
        check_rarest("d", {"c": 3}, 0.2, "holdout_fraction", True)
