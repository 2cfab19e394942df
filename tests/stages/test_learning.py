"""Whether a training learns: the verdict, when it is said, and the data that it begins with."""

import json

import pytest
from conftest import write_images

import supcon_tf
from supcon_tf import PretrainConfig
from supcon_tf.cli.flags import read_recipe
from supcon_tf.cli.recipes import FOLDER
from supcon_tf.stages.learning import Baseline, describe_data

# Two standard errors of 40 % of 150 images are 8 %.
BASELINE = Baseline(untrained=0.4, largest_class=0.3, images=150)


@pytest.mark.parametrize(
    ("baseline", "top1", "verdict"),
    [
        (BASELINE, 0.485, "learning"),
        (BASELINE, 0.475, "undecided"),
        (BASELINE, 0.4, "not learning"),
        (BASELINE, 0.35, "not learning"),
        # The largest class counts where it is more than before training.
        (Baseline(0.1, 0.4, 150), 0.475, "undecided"),
        (Baseline(0.1, 0.4, 150), 0.485, "learning"),
        # Four times as many images halve the standard error.
        (Baseline(0.4, 0.3, 600), 0.445, "learning"),
        # No gain is possible if all images were right before training.
        (Baseline(1.0, 0.5, 8), 1.0, "undecided"),
        (Baseline(1.0, 0.5, 8), 0.875, "not learning"),
    ],
)
def test_verdicts(baseline, top1, verdict):
    assert baseline.verdict(top1) == verdict
    assert baseline.scores(top1)["verdict"] == verdict


def said(scores, epochs):
    """The news after each epoch for which there is a score so far."""
    return [
        BASELINE.news({"knn_top1": scores[:count]}, epochs) for count in range(1, len(scores) + 1)
    ]


def test_learning_is_reported_once_and_not_again_at_the_end():
    found = said([0.4, None, 0.6, 0.3, 0.7, 0.8], epochs=6)
    assert [bool(line) for line in found] == [False, False, True, False, False, False]
    assert found[2] == (
        "learning: k-NN 60.0 % of 150 validation images, 40.0 % before training, 30.0 % by always "
        "naming the largest class"
    )


def test_not_learning_is_reported_halfway():
    found = said([0.3, 0.3, None, 0.3, 0.3, 0.3], epochs=6)
    assert [bool(line) for line in found] == [False, False, False, True, False, False]
    assert found[3].startswith("not learning: k-NN 30.0 % of 150 validation images, 40.0 % before")
    assert "try another --learning_rate" in found[3]
    assert said([0.3], epochs=1) == [None]
    assert said([0.45] * 5, epochs=6) == [None] * 5  # Undecided.


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [({}, "learning"), ({"weight_decay": 1.0, "learning_rate": 0.5}, "not learning")],
)
def test_a_run_says_whether_it_is_learning(changes, verdict, small_config, tmp_path, capsys):
    settings = {**small_config, "epochs": 4, "validation_fraction": 0.4, **changes}
    run = tmp_path / "run"
    metrics = supcon_tf.pretrain(PretrainConfig(run_dir=str(run), **settings), maps=False)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("data: 808 training images of 10 classes (smallest: '8' with ")
    assert lines[0].endswith("), 539 for validation, 450 held out")
    assert "knn_top1 0." in next(line for line in lines if " epoch 4/4 " in line)
    assert lines[-1].startswith(f"pretrain {verdict}: k-NN {100 * metrics['knn_top1']:.1f} % of")
    assert metrics == json.loads((run / "metrics.json").read_text())["pretrain"]
    assert metrics["verdict"] == verdict
    assert 0.1 < metrics["largest_class"] < 0.11


def test_the_data_are_described_with_the_smallest_class(tmp_path):
    root = write_images(tmp_path / "photos", ["cup", "pen"], 10)
    write_images(root, ["ape"], 5)
    write_images(root / "unlabeled", ["any"], 3)
    dataset = supcon_tf.open_dataset(f"folder:{root}")
    assert describe_data(dataset) == (
        "data: 20 training images of 3 classes (smallest: 'ape' with 4), 3 unlabelled, none for "
        "validation, 5 held out; --validation_fraction=0.1 would show whether the encoder "
        "learns"
    )


def test_the_recipe_for_folders_sets_validation_images_aside():
    assert read_recipe(str(FOLDER / "folder.flags")).validation_fraction == 0.1
