"""Every recipe: the commands in its header, its plan, and one step on small synthetic images."""

import re
import shlex

import numpy as np
import pytest
from absl import flags
from conftest import write_images

import supcon_tf
from supcon_tf.cli import recipes
from supcon_tf.cli.flags import _config, _define
from supcon_tf.config.classifying import ClassifierConfig
from supcon_tf.data.datasets import from_config
from supcon_tf.networks.encoders import ENCODERS
from supcon_tf.stages.building import compiled_model, steps_per_epoch_of, stream_of
from supcon_tf.stages.checks import settings_checks

# The others take long: their networks are deep, or images are encoded many times.
FAST = {"digits"}


def parse(arguments, config_class=supcon_tf.PretrainConfig):
    known = flags.FlagValues()
    _define(config_class, known=known)
    rest = known(["", *recipes.with_files(arguments)])
    assert rest == [""]
    return _config(config_class, known=known)


def header(recipe):
    lines = (recipes.FOLDER / f"{recipe}.flags").read_text().splitlines()
    return "\n".join(line[1:].strip() for line in lines if line.startswith("#"))


def commands(recipe):
    joined = header(recipe).replace("\\\n", " ")
    return [shlex.split(line) for line in joined.splitlines() if line.startswith("supcon-tf ")]


@pytest.mark.parametrize("recipe", recipes.names())
def test_the_commands_of_a_header_are_valid(recipe):
    found = commands(recipe)
    assert found[0][1:3] == ["pretrain", f"--recipe={recipe}"]
    kinds = {
        "pretrain": supcon_tf.PretrainConfig,
        "classify": ClassifierConfig,
        "evaluate": supcon_tf.EvaluateConfig,
    }
    for _, command, *arguments in found:
        config = parse(arguments, kinds[command])
        if command == "pretrain":
            for check in settings_checks(config):
                check()


@pytest.mark.parametrize("recipe", ["cifar10", "cifar10_cross_entropy", "imagenet_supcon"])
def test_a_header_says_what_is_published_and_what_ran(recipe):
    text = header(recipe)
    assert re.search(r"Published top-1.*: \d\d\.\d", text)
    assert "Khosla et al. 2020" in text
    assert "Not run here" in text


def scaled(config, folder, run_dir):
    """The settings for a small folder, networks and batches; the schedule begins at once."""
    changes = {
        "dataset": f"folder:{folder}",
        "run_dir": run_dir,
        "data_dir": "",
        "imbalance_factor": None,
        "image_size_px": 8 if config.dataset == "digits" else 32,
        "batch_size": 8,
        "warmup_epochs": 0,
        "queue_size": min(config.queue_size, 64),
        "precision": "float32",
    }
    if config.encoder in ENCODERS:
        changes["width_multiplier"] = 0.1
    if config.classes_per_batch:
        changes |= {"classes_per_batch": 2, "images_per_class": 4}
    if config.labelled_fraction:
        changes["labelled_fraction"] = 0.25
    if "classes_per_batch" in config.method_args:
        changes["method_args"] = {**config.method_args, "classes_per_batch": 2}
    return config.replace(**changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("recipes") / "photos"
    return write_images(root, ["dark", "light"], 50, size=(32, 32))


@pytest.mark.parametrize(
    "recipe",
    [
        recipe if recipe in FAST else pytest.param(recipe, marks=pytest.mark.slow)
        for recipe in recipes.names()
    ],
)
def test_a_recipe_is_planned_and_takes_a_step(recipe, folder, tmp_path, capsys):
    config = scaled(parse([f"--recipe={recipe}"]), folder, str(tmp_path / "run"))
    supcon_tf.pretrain(config.replace(dry_run=True))
    assert f"{config.epochs:,} epochs of" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    dataset = from_config(config)
    model = compiled_model(config, dataset, steps_per_epoch_of(config, dataset), replicas=1)
    batch = next(iter(stream_of(config, dataset)()))
    before = [np.copy(weight) for weight in model.trainable_weights]
    logs = model.train_step(batch)
    assert np.isfinite([float(value) for value in logs.values()]).all(), logs
    after = [np.copy(weight) for weight in model.trainable_weights]
    assert np.isfinite(np.concatenate([weight.ravel() for weight in after])).all()
    changed = [not np.array_equal(a, b) for a, b in zip(after, before, strict=True)]
    assert np.mean(changed) > 0.5
