"""`supcon-tf COMMAND`: commands, packaged recipes, refusals before TensorFlow is loaded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from supcon_tf import AUGMENTATIONS, PretrainConfig, UserError
from supcon_tf.cli import known, main, recipes
from supcon_tf.methods import METHODS
from supcon_tf.networks.encoders import ENCODERS

# Runs a command, then says so if TensorFlow was loaded.
RUN = """
import sys
from supcon_tf.cli.main import main
try:
    main()
finally:
    if "tensorflow" in sys.modules:
        print("TensorFlow was loaded", file=sys.stderr)
"""


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, cwd=ROOT
    )


REFUSED = {
    "command": (["pretrian"], "Received: 'pretrian'. Did you mean 'pretrain'?"),
    "flag": (["pretrain", "--epoch=3"], "Unknown command line flag 'epoch'"),
    "recipe": (["pretrain", "--recipe=digit"], "Received: 'digit'. Did you mean 'digits'?"),
    "no recipe": (["pretrain", "--recipe"], "Received: ''."),
    "path as a recipe": (["pretrain", "--recipe=../recipes/digits"], "--flagfile=FILE"),
    "method": (["pretrain", "--method=supcon_outt"], "Did you mean 'supcon_out'?"),
    "augmentation": (["tune", "--space=digits", "--augmentation=cifer"], "Did you mean 'cifar'?"),
    "arm": (["compare", "--arms=supcon,simclrr"], "Received: 'simclrr'. Did you mean 'simclr'?"),
    "baseline": (
        ["evaluate", "--run_dir=tests", "--corruptions", "--baseline=none"],
        "baseline not found. Received: 'none'",
    ),
    "run": (["classify", "--run_dir=none"], "Run supcon-tf pretrain first."),
    "images": (["pretrain", "--dataset=folder:none"], "folder data set not found"),
    "weights": (["pretrain", "--encoder_weights=none.h5"], "encoder_weights not found"),
    "data set": (["pretrain", "--dataset=digit"], "Received: 'digit'. Did you mean 'digits'?"),
    "bare folder": (["evaluate", "--dataset=docs"], "Did you mean 'folder:docs'?"),
    "encoder": (["pretrain", "--encoder=resnet9"], "Received: 'resnet9'. Did you mean 'resnet"),
    "application": (
        ["pretrain", "--encoder=applications:MobileNetV9"],
        "did you mean applications:MobileNetV",
    ),
    "full folder": (["write-digits", "--output_dir=docs"], "must be new or empty"),
    "search without validation": (["tune", "--space=digits"], "Pass --validation_fraction=0.2."),
    "comparison without validation": (["compare"], "Pass --validation_fraction=0.2."),
    "grace": (
        ["tune", "--space=digits", "--validation_fraction=0.2", "--grace_epochs=1000"],
        "grace_epochs must be at most the ",
    ),
    "not a run": (["evaluate", "--run_dir=docs"], "Received: 'docs'. Run supcon-tf pretrain"),
    "space": (["tune", "--space=none.json"], "space not found. Received: 'none.json'"),
    "image": (["predict", "--model=docs", "none.png"], "'none.png': image not found."),
    "no model": (["add-class", "--images=docs"], "no model given. Pass --model"),
    "not a model": (["predict", "--model=docs", "README.md"], "model holds no exported SavedModel"),
    "augmentation file": (
        ["pretrain", "--augmentation=none.keras"],
        "augmentation not found. Received: ",
    ),
    "sheet": (["show-views", "--output_file=a.jpg"], "output_file must be a .png file"),
    "views": (
        ["show-views", "--output_file=a.png", "--augmentation_args=cutuot=1"],
        "Did you mean 'cutout'?",
    ),
    "model": (["predict", "--model=none", "README.md"], "model not found. Received: 'none'"),
    "served model": (["serve", "--model_dir=none"], "model not found. Received: 'none'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_misspelt_names_and_paths_are_refused_before_tensorflow_is_loaded(case):
    arguments, message = REFUSED[case]
    finished = run(*arguments)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert message in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_the_overview_names_every_command(arguments):
    finished = run(*arguments)
    assert finished.returncode == 0
    assert all(f"\n  {name} " in finished.stdout for name in main.COMMANDS)
    assert finished.stderr == ""


def test_the_version():
    assert run("--version").stdout.startswith("supcon_tf 0.")


def test_a_packaged_recipe_runs_from_anywhere(tmp_path):
    command = [sys.executable, "-m", "supcon_tf.cli", "write-digits", "--output_dir=photos"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert len(list((tmp_path / "photos").rglob("*.png"))) == 1797


def test_names_of_recipes_become_their_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digits = f"--flagfile={recipes.FOLDER / 'digits.flags'}"
    assert recipes.with_files(["--recipe=digits", "-x"]) == [digits, "-x"]
    assert recipes.with_files(["--recipe", "digits", "--epochs=3"]) == [digits, "--epochs=3"]
    space = f"--space={recipes.FOLDER / 'digits.space.json'}"
    assert recipes.with_files(["--space=digits"]) == [space]
    Path("digits").write_text(json.dumps({}))
    assert recipes.with_files(["--space=digits"]) == ["--space=digits"]
    assert recipes.with_files(["--space=my.json", "recipe=a"]) == ["--space=my.json", "recipe=a"]
    with pytest.raises(UserError, match="recipe must be one of cifar10, .*Received: 'other'"):
        recipes.with_files(["--recipe=other"])


def test_names_read_from_the_source_are_those_of_the_package():
    assert known.names_of("method") == tuple(METHODS)
    assert known.names_of("augmentation") == tuple(AUGMENTATIONS)
    assert known.names_of("epochs") == ()
    for encoder in (*ENCODERS, "applications:VGG16", "own.keras"):
        known.check_names(PretrainConfig(encoder=encoder))


def test_data_sets_that_may_exist_are_left_to_the_stage(tmp_path):
    (tmp_path / "prepared").mkdir()
    for name in ("cifar10_lt", "mnist", "mnist/3.0.1", "huggingface:mine", "prepared"):
        known.check_names(PretrainConfig(dataset=name, data_dir=str(tmp_path)))
    with pytest.raises(UserError, match="dataset is unknown. Received: 'prepared'"):
        known.check_names(PretrainConfig(dataset="prepared", data_dir=str(tmp_path / "prepared")))
