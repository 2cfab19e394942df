import contextlib
import json
import os
import socket
import subprocess
import sys

import pytest
from engine.models import dense
from run_contents import lock_elsewhere

from supcon_tf import ClassifierConfig, PretrainConfig, UserError
from supcon_tf.core.files import write_json, writing
from supcon_tf.stages.run_directory import RunDirectory

DATASET = {"name": "d", "train": {"examples": 8}, "test": {"examples": 2}}


def begun(tmp_path, **changes):
    config = PretrainConfig(run_dir=str(tmp_path / "run"), **changes)
    run = RunDirectory(config.run_dir)
    run.check("pretrain", config)
    run.begin("pretrain", config, DATASET)
    return run, config


def test_writing_is_all_or_nothing(tmp_path):
    file = tmp_path / "folder" / "a.json"
    write_json(file, {"a": 1})

    def fail():
        with writing(file) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert json.loads(file.read_text()) == {"a": 1}
    assert [path.name for path in file.parent.iterdir()] == ["a.json"]
    new = tmp_path / "one" / "two" / "b.json"
    with pytest.raises(RuntimeError), writing(new):
        raise RuntimeError
    assert not (tmp_path / "one").exists()


def test_manifest_says_how_to_repeat_the_run(tmp_path):
    run, _ = begun(tmp_path, seed=3)
    manifest = json.loads((run.path / "manifest.json").read_text())["pretrain"]
    assert manifest["seed"] == 3
    assert manifest["dataset"] == DATASET
    assert {"python", "tensorflow", "keras", "supcon_tf"} <= set(manifest["versions"])
    assert manifest["hardware"]["cpus"] >= 1
    assert manifest["command_line"]
    assert "git_commit" in manifest


def test_a_second_run_needs_resume_or_overwrite(tmp_path):
    run, config = begun(tmp_path)
    with pytest.raises(UserError, match="already holds a pretrain stage. Pass --resume"):
        run.check("pretrain", config)
    run.check("pretrain", config.replace(resume=True))
    run.check("pretrain", config.replace(overwrite=True))


def test_resuming_with_other_settings_names_the_first(tmp_path):
    run, config = begun(tmp_path)
    with pytest.raises(UserError, match="a different configuration: epochs was 80. Received: 90"):
        run.check("pretrain", config.replace(resume=True, epochs=90))


def test_resuming_keeps_the_manifest_and_refuses_other_data(tmp_path):
    run, config = begun(tmp_path)
    started = json.loads((run.path / "manifest.json").read_text())["pretrain"]["started"]
    config = config.replace(resume=True)
    run.begin("pretrain", config, DATASET)
    entry = json.loads((run.path / "manifest.json").read_text())["pretrain"]
    assert entry["started"] == started
    assert len(entry["resumed"]) == 1
    assert entry["resumed"][0]["command_line"]
    for changed, now in (({"examples": 9}, "9 now"), ({"x": ""}, "8 now, not all the same")):
        data = {**DATASET, "train": {**DATASET["train"], **changed}}
        with pytest.raises(UserError, match=f"'train' of d changed .*8 images then, {now}\\. "):
            run.begin("pretrain", config, data)


def test_overwriting_pretraining_removes_what_depends_on_it_and_nothing_else(tmp_path):
    run, config = begun(tmp_path)
    (run.path / "classifier.keras").write_text("old")
    (run.path / "notes.txt").write_text("mine")
    run.begin("pretrain", config.replace(overwrite=True, epochs=9), DATASET)
    assert not (run.path / "classifier.keras").exists()
    assert (run.path / "notes.txt").read_text() == "mine"
    assert run.stages()["pretrain"]["epochs"] == 9


def test_overwriting_the_classifier_keeps_the_encoder(tmp_path):
    run, config = begun(tmp_path)
    for name in ("encoder.keras", "classifier.keras"):
        (run.path / name).write_text("old")
    run.record("test", {"top1": 0.5})
    run.record("pretrain", {"loss": 1.0})
    classifier = ClassifierConfig(run_dir=config.run_dir, overwrite=True)
    run.begin("classifier", classifier, DATASET)
    assert (run.path / "encoder.keras").exists()
    assert not (run.path / "classifier.keras").exists()
    assert run.metrics() == {"pretrain": {"loss": 1.0}}


def test_a_classifier_that_came_with_the_encoder_is_not_replaced_silently(tmp_path):
    run, config = begun(tmp_path)
    (run.path / "classifier.keras").write_text("of cross entropy")
    with pytest.raises(UserError, match="already holds a classifier"):
        run.check("classifier", ClassifierConfig(run_dir=config.run_dir))
    with pytest.raises(UserError, match="already holds a classifier"):
        run.check("classifier", ClassifierConfig(run_dir=config.run_dir, resume=True))


def test_a_failed_overwrite_gives_everything_back(tmp_path, monkeypatch):
    run, config = begun(tmp_path)
    (run.path / "encoder.keras").write_text("old")
    (run.path / "checkpoints/pretrain").mkdir(parents=True)
    before = (run.path / "config.json").read_text()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("supcon_tf.stages.run_directory.write_json", full)
    with pytest.raises(UserError, match="cannot write to run_dir .*No space left"):
        run.begin("pretrain", config.replace(overwrite=True, epochs=9), DATASET)
    assert (run.path / "encoder.keras").read_text() == "old"
    assert (run.path / "checkpoints/pretrain").is_dir()
    assert (run.path / "config.json").read_text() == before


def test_a_second_process_cannot_write_into_the_run(tmp_path, monkeypatch):
    run, config = begun(tmp_path)
    config = config.replace(resume=True)
    RunDirectory(config.run_dir).begin("pretrain", config, DATASET)  # The same process may.
    assert "BlockingIOError" in lock_elsewhere(run)
    monkeypatch.setattr("supcon_tf.core.files._locks", {})  # As in another process.
    with pytest.raises(UserError, match="another process is writing to run_dir"):
        RunDirectory(config.run_dir).begin("pretrain", config, DATASET)


@pytest.mark.parametrize("fails", [False, True])
def test_a_lock_ends_with_its_stage_though_the_process_lives_on(fails, tmp_path):
    run, config = begun(tmp_path)
    run.release()
    with contextlib.suppress(UserError), RunDirectory(config.run_dir) as again:
        again.begin("pretrain", config.replace(resume=True), DATASET)
        if fails:
            raise UserError("as a training does")
    assert lock_elsewhere(run) == ""


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path):
    file = tmp_path / "a"
    leftover = tmp_path / f".writing-{socket.gethostname()}@{os.getpid()}-a"
    leftover.mkdir()
    (leftover / "half").write_text("half")
    with writing(file) as temporary:
        temporary.write_text("whole")
    assert file.read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_never_touches_a_directory_that_is_no_run(tmp_path, overwrite):
    (tmp_path / "thesis.tex").write_text("years of work")
    config = PretrainConfig(run_dir=str(tmp_path), overwrite=overwrite)
    with pytest.raises(UserError, match="holds files but no run"):
        RunDirectory(config.run_dir).check("pretrain", config)
    file = PretrainConfig(run_dir=str(tmp_path / "thesis.tex"))
    with pytest.raises(UserError, match="run_dir is a file"):
        RunDirectory(file.run_dir).check("pretrain", file)


@pytest.mark.parametrize("content", ['{"model_type": "bert"}', "[1]", '{"pretrain": 3}'])
def test_a_foreign_config_is_no_run(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    config = PretrainConfig(run_dir=str(tmp_path), overwrite=True)
    with pytest.raises(UserError, match="config.json does not belong to a run"):
        RunDirectory(config.run_dir).check("pretrain", config)
    assert (tmp_path / "config.json").read_text() == content


def test_a_damaged_manifest_is_named(tmp_path):
    run, _ = begun(tmp_path)
    (run.path / "encoder.keras").write_text("")
    for content in ("{}", '{"pretrain": {"dataset": {"train": 1}}}'):
        (run.path / "manifest.json").write_text(content)
        with pytest.raises(UserError, match="manifest.json is damaged"):
            run.open_dataset()


def test_stages_after_pretraining_need_its_encoder(tmp_path):
    with pytest.raises(UserError, match="has no pretrained encoder"):
        RunDirectory(str(tmp_path)).pretrain_config()
    run, _ = begun(tmp_path)
    with pytest.raises(UserError, match="is not finished. Run supcon-tf pretrain with --resume"):
        run.pretrain_config()


def test_a_corrupted_model_or_config_is_named(tmp_path):
    run, _ = begun(tmp_path)
    (run.path / "encoder.keras").write_bytes(b"half a file")
    with pytest.raises(UserError, match=r"encoder.keras is damaged"):
        run.load_model("encoder")
    with pytest.raises(UserError, match=r"classifier.keras not found. Run supcon-tf classify"):
        run.load_model("classifier")
    dense().save(run.path / "classifier.keras")
    with pytest.raises(UserError, match=r"classifier.keras holds a different kind of model"):
        run.load_model("classifier")
    (run.path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot read .*config.json"):
        run.stages()


# Overwrites the run in a process of its own for each line of input, which says before how many
# renames that process dies; writes their exit statuses.
_OVERWRITES = """
import os, pathlib, sys
from supcon_tf import PretrainConfig
from supcon_tf.stages.run_directory import RunDirectory

def overwrite(deadly):
    config = PretrainConfig(run_dir=sys.argv[1], overwrite=True, seed=5)
    run = RunDirectory(config.run_dir)
    renames, rename = [], pathlib.Path.rename

    def dying(self, target):
        if len(renames) == deadly:
            os._exit(9)
        renames.append(self)
        return rename(self, target)

    pathlib.Path.rename = dying
    run.begin("pretrain", config, {"name": "d", "train": {"examples": 8}, "test": {"examples": 2}})
    os._exit(0)

for line in sys.stdin:
    process = os.fork()
    if process == 0:
        try:
            overwrite(int(line))
        finally:
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


def test_an_overwrite_that_was_killed_is_undone(tmp_path):
    """Wherever the kill fell: everything of the old run is where it was."""
    run, config = begun(tmp_path)
    (run.path / "encoder.keras").write_text("encoder")
    for stage in ("pretrain", "classifier"):
        (run.path / "checkpoints" / stage).mkdir(parents=True)
        (run.path / "checkpoints" / stage / "file").write_text(stage)

    def content():
        files = [path for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"]
        return {str(path.relative_to(run.path)): path.read_bytes() for path in files}

    before = content()
    run.release()
    command = [sys.executable, "-W", "ignore", "-c", _OVERWRITES, run.path]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, bufsize=1, **pipes) as process:
        for place in range(20):
            process.stdin.write(f"{place}\n")
            status = int(process.stdout.readline())
            if status == 0:
                break
            assert status == 9
            run.check("pretrain", config.replace(resume=True))
            assert content() == before
            run.release()
        process.stdin.close()
    assert place >= 3
    assert run.stages()["pretrain"]["seed"] == 5
    assert set(content()) == {"config.json", "manifest.json"}


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    run, config = begun(tmp_path)
    left = run.path / "checkpoints/pretrain/.writing-123-000000001"
    left.mkdir(parents=True)
    run.begin("pretrain", config.replace(resume=True), DATASET)
    assert not left.exists()


def test_what_another_process_began_in_between_is_not_taken_over(tmp_path):
    late = PretrainConfig(run_dir=str(tmp_path / "run"), seed=2)
    run = RunDirectory(late.run_dir)
    run.check("pretrain", late)
    begun(tmp_path, seed=1)
    with pytest.raises(UserError, match="already holds a pretrain stage"):
        run.begin("pretrain", late, DATASET)
    assert run.stages()["pretrain"]["seed"] == 1
