"""Runs on a user's own images: copies, also in runs begun before they were known; tables."""

import json
import shutil

import pytest

from supcon_tf import PretrainConfig, UserError, open_dataset
from supcon_tf.stages.planning import plan
from supcon_tf.stages.run_directory import RunDirectory


@pytest.fixture
def config(image_folder, tmp_path):
    """Settings of a run on a folder where every image of a class has a copy."""
    for number in range(20):
        name = f"{number:03d}.png"
        shutil.copy(image_folder / "dark" / name, image_folder / "dark" / f"copy{name}")
    return PretrainConfig(dataset=f"folder:{image_folder}", run_dir=str(tmp_path / "run"))


def begin(config, dataset):
    with RunDirectory(config.run_dir) as run:
        run.begin("pretrain", config, dataset.describe())
        (run.path / "encoder.keras").write_text("")
    return config.replace(resume=True)


def forget(file, drop):
    """Writes a JSON file as an earlier version would have."""
    content = json.loads(file.read_text())
    drop(content["pretrain"])
    file.write_text(json.dumps(content))


def test_later_stages_split_as_the_training_did(config):
    dataset = RunDirectory(config.run_dir).open_checked(config)
    assert len(dataset.copies) == 20
    resumed = begin(config, dataset)
    with RunDirectory(config.run_dir) as run:
        for again in (run.open_dataset(), run.open_checked(resumed)):
            assert again.describe() == dataset.describe()


def test_a_run_from_before_is_continued_with_its_own_split(config):
    before = open_dataset(config.dataset, copies=[])
    assert "copies" not in before.describe()
    resumed = begin(config, before)
    forget(RunDirectory(config.run_dir).path / "config.json", lambda stage: stage.pop("holdout_by"))
    with RunDirectory(config.run_dir) as run:
        run.check("pretrain", resumed)
        for again in (run.open_dataset(), run.open_checked(resumed)):
            assert again.test.names == before.test.names
        assert run.open_checked(config).test.names != before.test.names
        with pytest.raises(UserError, match="holdout_by was 'image'. Received: 'folder'"):
            run.check("pretrain", resumed.replace(holdout_by="folder"))


def test_the_plan_says_what_was_found(config):
    found = plan(config.replace(batch_size=8, image_size_px=8))
    assert found.problems == ()
    assert (
        "",
        "exact copies: 20, of 20 images; they stay together when images are held out or set aside",
    ) in found.rows


@pytest.mark.parametrize("has_splits", [True, False])
def test_validation_rows_of_a_table_are_a_validation_set(image_folder, tmp_path, has_splits):
    files = sorted(image_folder.rglob("*.png"))
    splits = ["train", "train", "validation", "test"] if has_splits else [""]
    rows = [f"{file},{file.parent.name},{splits[n % len(splits)]}" for n, file in enumerate(files)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,split", *rows]))
    config = PretrainConfig(
        dataset=f"csv:{tmp_path}/labels.csv",
        run_dir=str(tmp_path / "run"),
        best_metric="knn_top1",
        batch_size=8,
        image_size_px=8,
    )
    problems = plan(config).problems
    if has_splits:
        assert problems == ()
    else:
        assert "best_metric knn_top1 needs a validation set" in "".join(problems)
