"""Checkpoints: whole or not there, the newest sound one counts."""

import json
import os
import resource
import shutil

import keras
import numpy as np
import pytest
from conftest import forbid
from engine.models import dense

from supcon_tf import MomentumSGD, UserError
from supcon_tf.core.errors import StorageError
from supcon_tf.engine import checkpoints
from supcon_tf.engine.checkpoints import State


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_are_kept_and_everything_is_restored(tmp_path):
    first = dense()
    for step in (1, 2, 3):
        first.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
        state = State(step, {"loss": list(range(step))}, seconds=1.5)
        checkpoints.save(tmp_path, state, first)
    assert names(tmp_path) == ["000000002", "000000003"]
    second = dense()
    assert checkpoints.restore(tmp_path, checkpoints.newest(tmp_path).step, second) == state
    for left, right in zip(first.optimizer.variables, second.optimizer.variables, strict=True):
        np.testing.assert_array_equal(left, right)
    for left, right in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(left, right)


def test_as_many_are_kept_as_asked_and_a_protected_one(tmp_path):
    for step in range(1, 7):
        checkpoints.save(tmp_path, State(step), dense(), keep=3, protect=2)
    assert names(tmp_path) == ["000000002", "000000004", "000000005", "000000006"]


def test_a_corrupted_newer_one_does_not_count_as_kept(tmp_path):
    for step in (1, 2, 3):
        checkpoints.save(tmp_path, State(step), dense())
    _damage(tmp_path / "000000003", "flip")
    checkpoints.save(tmp_path, State(2), dense(), keep=1)
    assert names(tmp_path) == ["000000002"]


def test_only_the_chief_writes(tmp_path):
    checkpoints.save(tmp_path, State(1), dense(), chief=False)
    assert names(tmp_path) == []


def test_a_full_disk_stops_before_a_checkpoint_is_half_written(tmp_path, monkeypatch):
    checkpoints.save(tmp_path, State(1), dense())
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(UserError, match="full: 1000 bytes free, a checkpoint takes 1.0 MiB"):
            checkpoints.save(tmp_path, State(2), dense())
    assert checkpoints.newest(tmp_path) == State(1)
    assert names(tmp_path) == ["000000001"]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="nothing is reserved")
def test_the_largest_file_that_may_be_stops_before_hdf5_writes(tmp_path, monkeypatch):
    """HDF5 ends the process where a file may not grow: by a quota, or by `ulimit -f`."""
    checkpoints.save(tmp_path, State(1), dense())
    monkeypatch.setattr(keras.Model, "save_weights", forbid)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(StorageError, match="cannot write checkpoint .*000000002: .*too large"):
            checkpoints.save(tmp_path, State(2), dense())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == ["000000001"]


def test_a_disk_that_fills_while_writing_leaves_the_ones_before(tmp_path, monkeypatch):
    checkpoints.save(tmp_path, State(1), dense())

    def fill(self, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "save_weights", fill)
        with pytest.raises(UserError, match="cannot write checkpoint .*No space left.* are kept"):
            checkpoints.save(tmp_path, State(2), dense())
    assert names(tmp_path) == ["000000001"]
    assert checkpoints.newest(tmp_path) == State(1)


@pytest.mark.parametrize("damage", ["truncate", "flip", "state", "schema", "nested"])
def test_a_corrupted_checkpoint_is_passed_over(tmp_path, capsys, damage):
    for step in (1, 2):
        checkpoints.save(tmp_path, State(step), dense())
    _damage(tmp_path / "000000002", damage)
    assert checkpoints.newest(tmp_path) == State(1)
    assert "000000002 is damaged; skipping it" in capsys.readouterr().err
    _damage(tmp_path / "000000001", damage)
    with pytest.raises(UserError, match="no sound checkpoint among 2 in .*--overwrite"):
        checkpoints.newest(tmp_path)
    with pytest.raises(UserError, match="000000001 is missing or damaged"):
        checkpoints.restore(tmp_path, 1, dense())
    checkpoints.save(tmp_path, State(2), dense())
    assert checkpoints.newest(tmp_path) == State(2)


def _damage(checkpoint, damage):
    if damage == "schema":
        (checkpoint / "state.json").write_text('{"step": "2"}')
        return
    if damage == "nested":
        (checkpoint / "state.json").write_text("[" * 100_000)
        return
    file = checkpoint / ("state.json" if damage == "state" else "model.weights.h5")
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-100] ^= 1
    file.write_bytes(content[: len(content) // 2] if damage != "flip" else content)


@pytest.mark.parametrize(
    "change",
    [
        {"step": 10**6},
        {"step": True},
        {"step": 3.0},
        {"step": -1},
        {"history": {"loss": "abc"}},
        {"history": {"loss": [1.0], "accuracy": []}},
        {"history": {"loss": 1}},
        {"seconds": "x"},
        {"seconds": -1.0},
    ],
    ids=str,
)
def test_an_absurd_state_is_passed_over(tmp_path, change):
    for step in (2, 3):
        checkpoints.save(tmp_path, State(step), dense())
    file = tmp_path / "000000003/state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert checkpoints.newest(tmp_path) == State(2)


@pytest.mark.parametrize("name", ["state.json", "model.weights.h5", "rest.npz"])
def test_a_checkpoint_that_may_not_be_read_is_not_passed_over(tmp_path, monkeypatch, name):
    """It would be replaced. Root may read every file, so the refusal is played."""
    for step in (1, 2):
        checkpoints.save(tmp_path, State(step), dense())
    forbid(monkeypatch, tmp_path / "000000002" / name)
    with pytest.raises(StorageError, match="000000002 cannot be read: Permission denied"):
        checkpoints.newest(tmp_path)


def test_what_is_no_checkpoint_is_left_alone(tmp_path):
    checkpoints.save(tmp_path, State(2), dense())
    (tmp_path / "9x").mkdir()
    (tmp_path / "notes.txt").write_text("")
    checkpoints.save(tmp_path, State(3), dense(), keep=1)
    assert names(tmp_path) == ["000000003", "9x", "notes.txt"]


def test_no_checkpoint_starts_at_the_beginning(tmp_path):
    assert checkpoints.newest(tmp_path) is None
    assert checkpoints.restore(tmp_path, 0, dense()) == State()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    checkpoints.save(tmp_path, State(1), dense())
    other = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)])
    other.compile(optimizer=MomentumSGD(0.1), loss="mse")
    with pytest.raises(
        UserError, match="belongs to a different model. Start again with --overwrite"
    ):
        checkpoints.restore(tmp_path, 1, other)
