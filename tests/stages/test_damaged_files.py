"""JSON files of a run that are damaged: one line names them; nothing else is lost."""

import contextlib
import copy
import json
import shutil

import pytest
from conftest import forbid, write_images

from supcon_tf import PretrainConfig, UserError
from supcon_tf.data.datasets import from_config
from supcon_tf.stages.run_directory import RunDirectory

FILES = ("config.json", "manifest.json", "metrics.json", "history.json")


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run on a folder of images that was begun, and its settings."""
    folder = tmp_path_factory.mktemp("begun")
    write_images(folder / "photos", ["dark", "light"], 5)
    config = PretrainConfig(
        dataset=f"folder:{folder / 'photos'}",
        run_dir=str(folder / "run"),
        method_args={"anchors_without_positives": "zero"},
        skip_bad_images=True,
    )
    run = RunDirectory(config.run_dir)
    (folder / "photos/dark/bad.png").write_text("no image")
    shutil.copy(folder / "photos/light/000.png", folder / "photos/light/copy.png")
    run.begin("pretrain", config, from_config(config).describe())
    run.record("pretrain", {"loss": 1.0}, {"loss": [2.0, None, 1.0], "seconds": [1.0, 1.0, 1.0]})
    return run, config.replace(resume=True)


def read_everything(run, config):
    """All that later stages read of a run, each by itself."""
    described = RunDirectory(str(run.path)).open_dataset(unfinished=True).describe
    for read in (
        lambda: run.check("pretrain", config),
        run.stages,
        run.metrics,
        run.history,
        lambda: run.open_dataset(unfinished=True),
        lambda: run.check_same_data("pretrain", described()),
    ):
        read()


def places(content, place=()):
    """The place of every value in JSON, from the outermost."""
    yield place
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items if isinstance(content, dict | list) else ():
        yield from (
            places(value, (*place, key)) if isinstance(value, dict | list) else [(*place, key)]
        )


def replaced(content, place, value):
    """JSON with another value in one place."""
    if not place:
        return value
    content = copy.deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return content


@pytest.mark.parametrize("name", FILES)
def test_a_value_of_another_kind_is_one_line_or_harmless(begun, name):
    run, config = begun
    file = run.path / name
    sound = file.read_text()
    read_everything(run, config)
    try:
        for place in places(json.loads(sound)):
            for value in (5, -0.5, "x", None, True, [], {}, [5], [None], {"x": 5}, 10**400):
                file.write_text(json.dumps(replaced(json.loads(sound), place, value)))
                with contextlib.suppress(UserError):
                    read_everything(run, config)
    finally:
        file.write_text(sound)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"a":' * 100_000, "\0", b"\xff\xfe", "", "nul"]
)
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_json_is_named(begun, name, content):
    run, config = begun
    file = run.path / name
    sound = file.read_bytes()
    try:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UserError, match=f"cannot read .*{name}: "):
            run.check("pretrain", config)
    finally:
        file.write_bytes(sound)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_may_not_be_read_is_named(begun, name, monkeypatch):
    run, config = begun
    forbid(monkeypatch, run.path / name)
    with pytest.raises(UserError, match=f"cannot read .*{name}: Permission denied"):
        run.check("pretrain", config)


@pytest.mark.parametrize("name", ["encoder", "classifier"])
def test_a_model_that_may_not_be_read_is_not_corrupted(begun, name, monkeypatch):
    run, _ = begun
    with monkeypatch.context() as patch:
        file = run.path / f"{name}.keras"
        file.touch()
        forbid(patch, file)
        with pytest.raises(UserError, match=f"{name}.keras cannot be read: Permission denied"):
            run.load_model(name)
        file.unlink()


def test_images_that_were_left_out_are_a_list_of_names(begun):
    run, _ = begun
    file = run.path / "manifest.json"
    sound = file.read_text()
    content = json.loads(sound)
    assert content["pretrain"]["dataset"]["bad_images"] == ["dark/bad.png"]
    try:
        for wrong in (5, "dark/bad.png", [5], None):
            content["pretrain"]["dataset"]["bad_images"] = wrong
            file.write_text(json.dumps(content))
            with pytest.raises(UserError, match="manifest.json is damaged"):
                run.open_dataset(unfinished=True)
    finally:
        file.write_text(sound)
