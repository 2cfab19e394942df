"""The scripts as a user meets them: help, one clear line and status 2 for bad input, signals."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, write_images

import supcon_tf
from supcon_tf.search.space_file import read_space
from supcon_tf.stages.run_directory import RunDirectory

SCRIPTS = (
    "pretrain",
    "tune",
    "compare",
    "studies/stability",
    "train_classifier",
    "evaluate",
    "export",
    "add_class",
    "serve",
    "predict",
    "demo",
    "write_digits",
    "show_views",
)
_WITHOUT_RUN = (
    *("predict", "demo", "add_class", "serve", "tune", "compare", "show_views"),
    "studies/stability",
)

BAD_INPUT = {
    "unknown flag": (["pretrain", "--epoch=3"], "Unknown command line flag 'epoch'"),
    "stray argument": (["pretrain", "digits"], "unexpected argument. Received: 'digits'"),
    "flag of the wrong type": (["pretrain", "--epochs=many"], "flag --epochs=many"),
    "unknown recipe": (["pretrain", "--flagfile=supcon_tf/recipes/none.flags"], "none.flags"),
    "binary recipe": (
        ["pretrain", "--flagfile={inputs}/binary.flags"],
        "flagfile must be a text file. Received: /",
    ),
    "nested binary recipe": (
        ["evaluate", "--flagfile={inputs}/outer.flags"],
        "/outer.flags.",
    ),
    "folder without a path": (["pretrain", "--dataset=folder:"], "Received: 'folder:'"),
    "setting of a method of the wrong kind": (
        ["pretrain", "--method=triplet", '--method_args=margin="x"'],
        "margin must be a number. Received: 'x'",
    ),
    "unknown data set": (["pretrain", "--dataset=cifar1000"], "Received: 'cifar1000'"),
    "unknown encoder": (["pretrain", "--encoder=resnet9"], "Received: 'resnet9'"),
    "unknown method": (["pretrain", "--method=byol"], "Received: 'byol'"),
    "unknown method argument": (["pretrain", "--method_args=a=1"], "no argument 'a'"),
    "malformed method arguments": (["pretrain", "--method_args=a"], "must be name=value"),
    "temperature": (
        ["pretrain", "--temperature=0"],
        "at least 0.001 and at most 10000.0. Received: 0.0",
    ),
    "batch": (["pretrain", "--batch_size=0"], "at least 2 and at most 1048576. Received: 0"),
    "epochs": (["pretrain", "--epochs=-1"], "at least 1 and at most 1000000. Received: -1"),
    "learning rate": (["pretrain", "--learning_rate=nan"], "finite number. Received: nan"),
    "batch above the data set": (["pretrain", "--batch_size=2000"], "at most 1347, the number of"),
    "no such folder": (["pretrain", "--dataset=folder:nowhere"], "folder data set not found"),
    "empty folder": (["pretrain", "--dataset=folder:{inputs}/empty"], "no class subfolders"),
    "one class": (["pretrain", "--dataset=folder:{inputs}/one"], "has only the class 'a'"),
    "small class": (["pretrain", "--dataset=folder:{inputs}/small"], "class 'b' of folder"),
    "corrupted checkpoint": (
        ["pretrain", "--resume", "--run_dir={inputs}/run"],
        "no sound checkpoint among 1",
    ),
    "foreign demo directory": (["demo", "--output_dir={inputs}"], "that are not a demo's"),
    "empty image path": (["predict", "--model=README.md", ""], "path is empty"),
    "no search space": (["tune", "--validation_fraction=0.2"], "no search space given"),
    "no validation set": (["tune", "--space={inputs}/space.json"], "validation_fraction=0. Pass"),
    "bad search space": (
        ["tune", "--space={inputs}/bad.json", "--validation_fraction=0.2"],
        "'learning_rat'. Did you mean 'learning_rate'?",
    ),
    "no study": (["studies/stability"], "no study given. Pass --study=FILE.json"),
    "no recipe in the study": (
        ["studies/stability", "--study={inputs}/study.json"],
        "none.flags: Unable to open",
    ),
    "unknown arm": (
        ["compare", "--arms=cross_entropy,supcom"],
        "Received: 'supcom'. Did you mean 'supcon'?",
    ),
    "rates without validation images": (["compare"], "validation_fraction=0. Pass"),
    "seed of a comparison": (["compare", "--seed=1"], "Unknown command line flag 'seed'"),
    "baseline": (
        ["evaluate", "--run_dir={inputs}", "--corruptions", "--baseline=nowhere"],
        "Received: 'nowhere'",
    ),
    "flag of a run": (["tune", "--run_dir=runs/x"], "Unknown command line flag 'run_dir'"),
    "no encoder": (["train_classifier"], "has no pretrained encoder"),
    "nothing to evaluate": (["evaluate"], "has no pretrained encoder"),
    "nothing to export": (["export"], "has no pretrained encoder"),
    "no model": (
        ["predict", "--model=nowhere", "README.md"],
        "model not found. Received: 'nowhere'",
    ),
    "model not given": (["predict", "README.md"], "no model given. Pass --model"),
    "nothing to add to": (["add_class", "--model=nowhere"], "model not found"),
    "nothing to serve": (
        ["serve", "--model_dir=nowhere"],
        "model not found. Received: 'nowhere'",
    ),
    "no model to serve": (["serve"], "no model given. Pass --model_dir"),
    "port of another kind": (["serve", "--model_dir=x", "--http_port=99999"], "at most 65535"),
    "no image": (["predict", "--model=README.md"], "no image given"),
    "no such image": (["predict", "--model=README.md", "none.png"], "image not found"),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, data_dir):
    """Folders that are no data sets, and a run whose only checkpoint is broken."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "empty").mkdir()
    (folder / "binary.flags").write_bytes(b"--epochs=3\n\xff\xfe")
    (folder / "outer.flags").write_text(f"--flagfile={folder}/binary.flags")
    write_images(folder / "one", ["a"], 5)
    (folder / "space.json").write_text('{"momentum": {"choices": [0.8, 0.9]}}')
    (folder / "bad.json").write_text('{"learning_rat": {"choices": [0.8, 0.9]}}')
    study = {"recipes": {"a": "none.flags"}, "factors": {"b": {"changes": [{"momentum": 0.5}]}}}
    (folder / "study.json").write_text(json.dumps(study))
    write_images(folder / "small", ["a"], 5)
    write_images(folder / "small", ["b"], 2, seed=1)
    config = supcon_tf.PretrainConfig(run_dir=str(folder / "run"), data_dir=data_dir)
    described = supcon_tf.open_dataset("digits", data_dir).describe()
    RunDirectory(config.run_dir).begin("pretrain", config, described)
    checkpoint = folder / "run/checkpoints/pretrain/000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text("{")
    return folder


@pytest.fixture(scope="module")
def bad_input_results(scripts, data_dir, inputs, tmp_path_factory):
    """Of each case its exit status, output and error; and a folder that none may write to."""
    folder = tmp_path_factory.mktemp("bad")

    def command(arguments):
        name, *flags = (argument.format(inputs=inputs) for argument in arguments)
        if name not in _WITHOUT_RUN and not any("--run_dir" in flag for flag in flags):
            flags += [f"--run_dir={folder / 'run'}"]
        if name == "pretrain" and not any("folder:" in flag for flag in flags):
            flags += [f"--data_dir={data_dir}"]
        return [name, *flags]

    commands = [command(arguments) for arguments, _ in BAD_INPUT.values()]
    return dict(zip(BAD_INPUT, scripts(commands), strict=True)), folder


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_clear_line_and_status_2(case, bad_input_results):
    results, folder = bad_input_results
    status, output, error = results[case]
    check_one_clear_line(case, status, output, error)
    assert list(folder.iterdir()) == []


def check_one_clear_line(case, status, output, error):
    assert status == 2, error
    assert output == ""
    lines = error.splitlines()
    if case == "corrupted checkpoint":
        assert "is damaged; skipping it" in lines.pop(0)
    assert len(lines) == 1, error
    assert lines[0].startswith(f"{Path(BAD_INPUT[case][0][0]).name}.py: ")
    assert BAD_INPUT[case][1] in lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["stray argument", "unknown data set", "no model"])
def test_so_it_is_in_a_process_of_its_own(case, script):
    finished = script(*BAD_INPUT[case][0])
    check_one_clear_line(case, finished.returncode, finished.stdout, finished.stderr)


@pytest.mark.parametrize("closed", [pytest.param(">&-", marks=pytest.mark.slow), "<&- >&- 2>&-"])
def test_closed_streams_are_no_obstacle(closed, tmp_path):
    """And no file of the program takes their place."""
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "scripts/write_digits.py"]
    finished = subprocess.run([*command, f"--output_dir={tmp_path / 'photos'}"], cwd=ROOT)
    assert finished.returncode == 0
    assert len(list((tmp_path / "photos").rglob("*.png"))) == 1797


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_is_short_and_readable(name, script):
    finished = script(name, "--help")
    assert finished.returncode == 0
    assert finished.stderr == ""
    lines = finished.stdout.splitlines()
    command = name.replace("train_classifier", "classify").replace("_", "-")
    shown = f"python scripts/{name}.py" if "/" in name else f"supcon-tf {command}"
    assert shown in finished.stdout
    assert len(lines) < 100
    assert max(map(len, lines)) <= 100


@pytest.fixture(scope="module")
def read_recipe():
    """How the scripts read a recipe file."""
    from supcon_tf.cli.flags import read_recipe

    return read_recipe


@pytest.mark.parametrize(
    "recipe", sorted(path.name for path in (ROOT / "supcon_tf/recipes").glob("*.flags"))
)
def test_recipes_hold_valid_settings(recipe, read_recipe):
    path = ROOT / "supcon_tf/recipes" / recipe
    assert path.read_text().startswith("# ")
    assert isinstance(read_recipe(path), supcon_tf.PretrainConfig)


def test_a_recipe_is_read_with_all_its_settings(read_recipe, tmp_path):
    path = tmp_path / "mine.flags"
    path.write_text("# mine\n--nesterov\n--epochs=7\n--method_args=margin=0.5,mining=hard\n")
    assert read_recipe(path) == supcon_tf.PretrainConfig(
        nesterov=True, epochs=7, method_args={"margin": 0.5, "mining": "hard"}
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "none.flags"),
        ("--epocs=7", "Unknown command line flag 'epocs'"),
        ("--epochs=many", "flag --epochs=many"),
        ("epochs=7", "a line must begin with --. Received: 'epochs=7'"),
        ("--epochs=0", "epochs must be at least 1"),
        ("\xff", "it is not a text file"),
    ],
)
def test_a_wrong_recipe_is_named(text, message, read_recipe, tmp_path):
    path = tmp_path / "none.flags"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(supcon_tf.UserError, match=f"recipe .*none.flags: .*({message})"):
        read_recipe(path)


@pytest.mark.parametrize("method", ["digits", "digits_cross_entropy"])
def test_spaces_hold_their_recipe(method, read_recipe):
    base = read_recipe(ROOT / f"supcon_tf/recipes/{method}.flags")
    space = read_space(str(ROOT / f"supcon_tf/recipes/{method}.space.json"), "random")
    assert space.values_of(base)["learning_rate"] == base.learning_rate


def test_digits_recipe_is_the_default():
    """The settings that are None by default stand for the recipe's values."""
    text = (ROOT / "supcon_tf/recipes/digits.flags").read_text()
    config = supcon_tf.PretrainConfig()
    meant = {
        "temperature": supcon_tf.SupConLoss().options.temperature,
        "projection_hidden_dim": 128,
    }
    for name, value in re.findall(r"^--(\w+)=(.+)$", text, re.MULTILINE):
        default = meant.get(name, getattr(config, name))
        assert type(default)(value) == default, name


def test_public_names_exist_and_have_docstrings():
    for name in supcon_tf.__all__:
        assert getattr(supcon_tf, name).__doc__ or isinstance(getattr(supcon_tf, name), dict), name
    with pytest.raises(AttributeError, match="no attribute 'SupConLos'"):
        _ = supcon_tf.SupConLos


def test_importing_the_package_does_not_import_tensorflow():
    code = "import sys, supcon_tf, supcon_tf.config; print('tensorflow' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    finished = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert finished.stdout.strip() == "False"
