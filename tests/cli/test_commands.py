"""`supcon-tf COMMAND`: commands, packaged recipes, refusals before TensorFlow is loaded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from supcon_tf import AUGMENTATIONS, UserError
from supcon_tf.cli import known, main, recipes
from supcon_tf.methods import METHODS

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
