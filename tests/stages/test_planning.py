"""The plan: its numbers against the model that is built, and all that would fail."""

import math
import shutil

import numpy as np
import pytest
from conftest import write_images

import supcon_tf
from supcon_tf import PretrainConfig, UserError
from supcon_tf.stages import building
from supcon_tf.stages.estimates import (
    expected_positives,
)
from supcon_tf.stages.planning import plan, print_plan
from supcon_tf.stages.run_directory import RunDirectory


@pytest.fixture
def planned(small_config, tmp_path):
    """Plans a small run with some settings changed."""

    def make(**changes):
        settings = {**small_config, "run_dir": str(tmp_path / "run"), **changes}
        return plan(PretrainConfig(**settings))

    return make


ENGINES = {
    "sgd": {},
    "no momentum": {"momentum": 0.0, "learning_rate": 0.01},
    "moving average and queue": {"ema_momentum": 0.99, "queue_size": 512, "optimizer": "rmsprop"},
    "cross entropy": {"method": "cross_entropy", "ema_momentum": 0.9, "optimizer": "lamb"},
    "half precision": {"precision": "mixed_float16", "optimizer": "adamw", "method": "triplet"},
    "another head": {"embedding_dim": 16, "projection_hidden_dim": 0, "method": "npairs"},
}


@pytest.mark.parametrize("changes", ENGINES.values(), ids=ENGINES.keys())
def test_parameters_and_state_are_the_models(changes, planned, small_config, digits):
    found = planned(**changes)
    assert found.problems == ()
    config = PretrainConfig(**{**small_config, **changes})
    model = building.compiled_model(config, digits, steps=10, replicas=1)
    model.optimizer.build(model.trainable_variables)
    numbers = found.numbers
    assert numbers["encoder_parameters"] == model.encoder.count_params()
    trained = sum(math.prod(w.shape) for w in model.trainable_weights)
    own = sum(math.prod(w.shape) for w in model.encoder.trainable_weights)
    assert numbers["head_parameters"] == trained - own
    variables = [*model.weights, *model.optimizer.variables]
    held = 4 * sum(math.prod(variable.shape) for variable in variables)
    # Counters and the loss scale are left out.
    assert held - 64 <= numbers["checkpoint_bytes"] <= held
    assert numbers["gradient_bytes"] == 4 * trained
    shown = dict(found.rows)
    assert f"{numbers['encoder_parameters']:,} parameters" in shown["encoder"]


def test_activation_memory_goes_with_what_is_encoded_at_once(planned):
    whole = planned().numbers
    # At least eight maps [8, 8, 8] of the first stage.
    assert 256 * 8 * 4 * 8**3 < whole["activation_bytes"] < 100 * 2**20
    assert whole["views_bytes"] == 128 * 2 * 8 * 8 * 3 * 4
    assert whole["held_bytes"] == 1347 * 8 * 8 * 3
    micro = planned(micro_batch_size=32).numbers
    assert micro["activation_bytes"] * 4 == whole["activation_bytes"]
    assert micro["gradient_bytes"] == 2 * whole["gradient_bytes"]
    half = planned(precision="mixed_bfloat16").numbers["activation_bytes"]
    assert whole["activation_bytes"] / 2 < half < whole["activation_bytes"] * 0.55
    assert whole["optimizer_bytes"] == whole["gradient_bytes"]  # SGD's momentum.
    parts = ("activation", "block", "weight", "gradient", "optimizer", "ema", "queue", "views")
    assert whole["memory_bytes"] == sum(whole[f"{part}_bytes"] for part in parts)


@pytest.mark.multi_device
def test_replicas_share_the_batch(planned):
    one, two = planned(strategy="one_device"), planned(strategy="mirrored", compile="on")
    assert two.numbers["replicas"] == 2
    assert two.numbers["activation_bytes"] * 2 == one.numbers["activation_bytes"]
    assert len(two.problems) == 1
    assert "compile=on is for one replica" in two.problems[0]


def test_workers_are_counted_without_waiting_for_them(planned, monkeypatch):
    cluster = '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 0}}'
    monkeypatch.setenv("TF_CONFIG", cluster)
    assert planned().numbers["replicas"] == 2
    monkeypatch.setenv("TF_CONFIG", "{")
    assert "TF_CONFIG must describe the cluster" in planned().problems[0]


def test_steps_and_schedule(planned):
    found = planned(schedule="step", decay_epochs="4,8", scale_learning_rate=True, clip_norm=2.0)
    steps = 1347 // 128
    numbers, shown = found.numbers, dict(found.rows)
    assert numbers["steps_per_epoch"] == steps
    assert numbers["total_steps"] == 10 * steps
    assert numbers["warmup_steps"] == steps
    assert numbers["peak_rate"] == pytest.approx(0.1)
    assert numbers["last_rate"] == pytest.approx(0.001)
    assert f"at step {4 * steps}, {8 * steps}" in shown["  after that"]
    assert "momentum 0.9" in shown["optimizer"]
    assert "clipped to norm 2" in shown["optimizer"]


@pytest.mark.parametrize(
    ("schedule", "end"), [("cosine", "0.0002"), ("partial_cosine", "0.0390181")]
)
def test_where_a_cosine_ends(planned, schedule, end):
    found = planned(schedule=schedule, learning_rate=0.2)
    assert f"to {end} at step {10 * (1347 // 128)};" in dict(found.rows)["  after that"]


def test_positives_of_each_method(planned, digits):
    counts = np.bincount(digits.train.labels())
    expected = np.average(expected_positives(counts, 128, 2), weights=counts)
    numbers = planned().numbers
    assert numbers["positives"] == pytest.approx(expected)
    assert numbers["share_without_positive"] == 0.0
    assert numbers["images_per_class"] == {str(n): count for n, count in enumerate(counts.tolist())}
    one_view = planned(num_views=1, batch_size=8).numbers
    assert 0.1 < one_view["share_without_positive"] == one_view["chance_alone"] < 1
    assert planned(method="simclr").numbers["positives"] == 1
    assert planned(method="simclr", num_views=1).numbers["share_without_positive"] == 1.0
    assert "positives" not in planned(method="cross_entropy").numbers
    # The other view of the image, and one view of each other image of the class.
    paired = planned(method="npairs").numbers["positives"]
    assert paired == pytest.approx(1 + (expected - 1) / 2)


def test_positives_of_balanced_batches(planned):
    balance = {"batch_size": 30, "classes_per_batch": 10, "images_per_class": 3}
    found = planned(num_views=2, **balance)
    assert found.problems == ()
    assert found.numbers["positives"] == 5
    assert dict(found.rows)["positives per anchor"] == "5: batches of 10 classes x 3 images"
    assert planned(method="npairs", **balance).numbers["positives"] == 3


def test_the_worst_class_is_named(planned, tmp_path):
    folder = write_images(tmp_path / "photos", ["common"], 40)
    write_images(folder, ["rare"], 5, seed=1)
    found = planned(dataset=f"folder:{folder}", data_dir="", image_size_px=8, batch_size=8)
    shown = dict(found.rows)
    assert found.problems == ()
    assert "fewest in class 'rare'" in shown["positives per anchor"]
    assert "most in class 'rare'" in shown["  only one of their class in a batch"]
    assert found.numbers["images_per_class"] == {"common": 32, "rare": 4}


def test_every_check_that_fails_is_listed(planned, tmp_path):
    found = planned(
        encoder="resnet9",
        augmentation="rand",
        best_metric="knn_top1",
        optimizer="adamw",
        momentum=0.5,
        batch_size=2000,
        run_dir=str(tmp_path / "file/run"),
        strategy="tpu",
    )
    for message in [
        "Received: 'resnet9'",
        "Received: 'rand'",
        "best_metric knn_top1 needs a validation set",
        "momentum must be left out, for adamw",
        "at most 1347, the number of training images",
        "strategy=tpu found no TPU",
    ]:
        assert sum(message in problem for problem in found.problems) == 1, message
    assert all("\n" not in problem for problem in found.problems)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size_px": 3}, "needs images of 4 pixels"),
        ({"method": "byol"}, "method must be one of .*Received: 'byol'"),
        ({"queue_size": 100}, "a queue of 100 rows must hold a whole batch.*Received: 256 rows"),
        ({"micro_batch_size": 7}, "must divide the replica's batch of 128. Received: 7"),
        ({"dataset": "cifar1000"}, "dataset is unknown"),
        ({"dataset": "folder:/nowhere", "data_dir": ""}, "folder data set not found"),
        ({"method": "npairs", "num_views": 3}, r"method npairs: embeddings must be \[B, 2, D\]"),
        ({"method_args": {"positives_cap": 3}}, "positives_cap must be a multiple of the 2 views"),
        ({"schedule": "step", "decay_epochs": "1.01,1.02"}, "optimizer sgd: decay_steps must be"),
        ({"method_args": {"margin": 1.0}}, "margin needs denominator_mode"),
        ({"method": "simclr", "method_args": {"margin": 1.0}}, "no argument 'margin'"),
        ({"method": "cacr", "method_args": {"t_negative": -1}}, "t_negative must be at least 0"),
        ({"method": "comatch", "method_args": {"unlabelled_ratio": 0}}, "must be an int >= 1"),
    ],
)
def test_one_failing_check_is_one_problem(changes, message, planned):
    problems = planned(**changes).problems
    assert len(problems) == 1
    with pytest.raises(UserError, match=message):
        raise UserError(problems[0])


def test_the_run_directory_is_checked(planned, finished_run, tmp_path):
    assert "already holds a pretrain stage" in planned(run_dir=str(finished_run)).problems[0]
    assert planned(run_dir=str(finished_run), resume=True).problems == ()
    changed = planned(run_dir=str(finished_run), resume=True, seed=1).problems
    assert "holds a different configuration: seed was 0" in changed[0]
    (tmp_path / "file").write_text("")
    under = planned(run_dir=str(tmp_path / "file/run")).problems
    assert "file is not a folder" in under[0]
    assert len(under) == 1


def test_resuming_with_changed_data_is_found(planned, small_config, image_folder, tmp_path):
    changes = {"dataset": f"folder:{image_folder}", "data_dir": "", "image_size_px": 8}
    changes |= {"batch_size": 8}
    config = PretrainConfig(**{**small_config, **changes, "run_dir": str(tmp_path / "run")})
    dataset = supcon_tf.open_dataset(config.dataset, image_size_px=8)
    RunDirectory(config.run_dir).begin("pretrain", config, dataset.describe())
    assert planned(**changes, resume=True).problems == ()
    shutil.copy(image_folder / "dark/000.png", image_folder / "dark/new.png")
    assert "split 'train' of folder:" in planned(**changes, resume=True).problems[0]


def test_a_full_disk_is_found(planned, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    found = planned(keep_checkpoints=3, checkpoint_steps=4, best_metric="loss")
    assert "has 1.0 MiB free" in found.problems[0]
    one, encoder = found.numbers["checkpoint_bytes"], 4 * found.numbers["encoder_parameters"]
    # Three, the best, and the one being written.
    assert found.numbers["disk_bytes"] == 5 * one + encoder
    assert found.numbers["kept_bytes"] == 4 * one
    assert planned(epochs=2, warmup_epochs=0).numbers["disk_bytes"] == 2 * one + encoder


def test_nothing_is_written_and_what_follows_is_as_before(small_config, tmp_path, capsys):
    import random

    config = PretrainConfig(run_dir=str(tmp_path / "run"), dry_run=True, **small_config)
    state = random.getstate()
    assert supcon_tf.pretrain(config) == {}
    assert random.getstate() == state
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out.splitlines()[-1] == "nothing written; ready"
    with pytest.raises(UserError, match="^nothing written; 2 checks would fail$"):
        print_plan(config.replace(encoder="vgg", augmentation="rand"))
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out.count("would fail: ") == 2


@pytest.mark.slow
def test_the_script_prints_only_the_plan(scripts, data_dir, tmp_path):
    flags = ["--dry_run", f"--data_dir={data_dir}", f"--run_dir={tmp_path / 'run'}"]
    ready, failing = scripts(
        [["pretrain", *flags], ["pretrain", *flags, "--encoder=vgg", "--batch_size=2000"]]
    )
    status, output, error = ready
    assert status == 0
    assert error == ""
    lines = output.splitlines()
    assert lines[0].startswith("data set ")
    assert lines[-1] == "nothing written; ready"
    status, output, error = failing
    assert status == 2
    assert error == "pretrain.py: nothing written; 2 checks would fail\n"
    assert "would fail: encoder must be one of" in output
    assert "would fail: method supcon_out: batch_size must be at most 1347" in output
    assert list(tmp_path.iterdir()) == []
