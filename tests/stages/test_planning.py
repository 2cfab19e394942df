"""The plan: its numbers against enumeration and against what is built, and all that would fail."""

import itertools
import math
import shutil
from fractions import Fraction

import keras
import numpy as np
import pytest
from conftest import write_images

import supcon_tf
from supcon_tf import PretrainConfig, SupConLoss, TripletLoss, UserError
from supcon_tf.losses.blocks import BLOCK_ELEMENTS
from supcon_tf.stages import building
from supcon_tf.stages.estimates import (
    activation_bytes,
    block_bytes,
    chance_alone,
    expected_positives,
    format_bytes,
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


def enumerated(counts, batch_size, num_views):
    """For an anchor of each class: mean positives, and the share of batches that hold no other."""
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    expected, alone = [], []
    for label in range(len(counts)):
        others = list(labels)
        others.remove(label)
        batches = list(itertools.combinations(others, batch_size - 1))
        same = [batch.count(label) for batch in batches]
        positives = [num_views - 1 + num_views * count for count in same]
        expected.append(Fraction(sum(positives), len(batches)))
        alone.append(Fraction(same.count(0), len(batches)))
    return expected, alone


@pytest.mark.parametrize("num_views", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("counts", [(3, 4, 1), (1, 1, 1, 1, 4), (8,), (2, 6)])
def test_positives_are_those_of_all_batches(counts, batch_size, num_views):
    expected, alone = enumerated(counts, batch_size, num_views)
    found = expected_positives(counts, batch_size, num_views)
    np.testing.assert_allclose(found, np.array(expected, float), rtol=1e-12)
    np.testing.assert_allclose(chance_alone(counts, batch_size), np.array(alone, float), atol=1e-14)


def test_the_mean_over_anchors_is_that_of_drawn_batches():
    """Over whole batches, each image an anchor: no anchor is singled out in advance."""
    counts, batch_size, views = (4, 3, 1), 4, 2
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    positives, alone = [], []
    for batch in itertools.combinations(labels, batch_size):
        others = [batch.count(label) - 1 for label in batch]
        positives += [views - 1 + views * count for count in others]
        alone += [count == 0 for count in others]
    expected = expected_positives(counts, batch_size, views)
    np.testing.assert_allclose(np.average(expected, weights=counts), np.mean(positives))
    chance = chance_alone(counts, batch_size)
    np.testing.assert_allclose(np.average(chance, weights=counts), np.mean(alone))


def test_the_chance_is_exact_for_large_data_sets():
    counts, batch_size = (1_200_000, 50_000, 700, 1), 4096
    total = sum(counts)
    exact = [
        Fraction(math.comb(total - n, batch_size - 1), math.comb(total - 1, batch_size - 1))
        for n in counts
    ]
    found = chance_alone(counts, batch_size)
    # lgamma of a million has nine digits behind the point.
    np.testing.assert_allclose(found, np.array([float(one) for one in exact]), rtol=1e-6)
    assert found[3] == 1.0


def test_wrong_counts_are_refused():
    for call, message in [
        (lambda: expected_positives([3, 0], 2, 2), "counts must be images of each class"),
        (lambda: expected_positives([], 2, 2), "counts must be images of each class"),
        (lambda: expected_positives([3, 1], 2, 0), "num_views must be at least 1. Received: 0"),
        (lambda: chance_alone([3, 1], 5), "batch_size must be from 1 to 4. Received: 5"),
        (lambda: chance_alone([3, 1], 0), "batch_size must be from 1 to 4. Received: 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_activations_are_the_outputs_of_every_layer_call():
    images = keras.Input((8, 8, 3))
    convolution = keras.layers.Conv2D(4, 3, padding="same", dtype="mixed_bfloat16")
    inside = keras.Input((None, None, 4))
    block = keras.Model(inside, keras.layers.Conv2D(4, 1)(inside))
    tail = keras.Sequential([keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5)])
    x = block(block(convolution(images)))  # One layer called twice; sides unknown inside.
    encoder = keras.Model(images, tail(x))
    expected = 2 * (8 * 8 * 4) + 4 * 2 * (8 * 8 * 4) + 4 * (4 + 5)
    assert activation_bytes(encoder) == expected


def test_blocks_of_similarities():
    supcon, triplet = SupConLoss, TripletLoss
    assert block_bytes(supcon(), 64, 2, 0) == 4 * 128 * 128
    assert block_bytes(supcon(), 64, 2, 512) == 4 * 128 * 640
    assert block_bytes(supcon(), 4096, 2, 0) == 4 * BLOCK_ELEMENTS
    assert block_bytes(supcon(block_size=16), 4096, 2, 0) == 4 * 16 * 8192
    assert block_bytes(triplet(margin=None, mining="all"), 2048, 2, 0) == 4 * 4096 * 4096
    assert block_bytes(triplet(), 4096, 2, 0) == 4 * BLOCK_ELEMENTS


def test_sizes_are_readable():
    shown = {
        0: "0 bytes",
        1023: "1023 bytes",
        1536: "1.5 KiB",
        2**30: "1.0 GiB",
        2**50: "1024.0 TiB",
    }
    assert {number: format_bytes(number) for number in shown} == shown


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


def test_the_worst_class_is_named(planned, tmp_path):
    folder = write_images(tmp_path / "photos", ["common"], 40)
    write_images(folder, ["rare"], 5)
    found = planned(dataset=f"folder:{folder}", data_dir="", image_size_px=8, batch_size=8)
    shown = dict(found.rows)
    assert found.problems == ()
    assert "fewest in class 'rare'" in shown["positives per anchor"]
    assert "most in class 'rare'" in shown["  images alone of their class"]
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
        "at most the 1347 training images",
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
        ({"method_args": {"margin": 1.0}}, "no argument 'margin'"),
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
    assert "holds another configuration: seed was 0" in changed[0]
    (tmp_path / "file").write_text("")
    under = planned(run_dir=str(tmp_path / "file/run")).problems
    assert "file is no folder" in under[0]
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


def test_the_script_prints_only_the_plan(script, data_dir, tmp_path):
    flags = ["--dry_run", f"--data_dir={data_dir}", f"--run_dir={tmp_path / 'run'}"]
    ready = script("pretrain", *flags)
    assert ready.returncode == 0
    assert ready.stderr == ""
    lines = ready.stdout.splitlines()
    assert lines[0].startswith("data set ")
    assert lines[-1] == "nothing written; ready"
    failing = script("pretrain", *flags, "--encoder=vgg", "--batch_size=2000")
    assert failing.returncode == 2
    assert failing.stderr == "pretrain.py: nothing written; 2 checks would fail\n"
    assert "would fail: encoder must be one of" in failing.stdout
    assert "would fail: batch_size must be at most the 1347" in failing.stdout
    assert list(tmp_path.iterdir()) == []
