"""Files are whole or not there; what killed processes left is cleared away."""

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from supcon_tf.core.errors import StorageError, UserError
from supcon_tf.core.files import (
    TEMPORARY_PREFIX,
    has_lost_lock,
    lock,
    unlock,
    without_links,
    writing,
)


def test_what_a_dead_process_left_is_removed_and_a_living_ones_is_not(tmp_path):
    finished = subprocess.Popen([sys.executable, "-c", ""])
    finished.wait()
    here = f"{TEMPORARY_PREFIX}{socket.gethostname()}"
    dead = tmp_path / f"{here}@{finished.pid}-1"
    living = tmp_path / f"{here}@{os.getppid()}-1"
    other = tmp_path / f"{here}@{finished.pid}-2"
    elsewhere = tmp_path / f"{TEMPORARY_PREFIX}another-machine@{finished.pid}-1"
    # A host whose name begins with this one's.
    longer = tmp_path / f"{here}-{finished.pid}@{os.getppid()}-1"
    for folder in (dead, living, other, elsewhere, longer):
        (folder / "inside").mkdir(parents=True)
    with writing(tmp_path / "1") as temporary:
        temporary.mkdir()
    assert (tmp_path / "1").is_dir()
    assert not dead.exists()
    assert living.exists()
    assert other.exists()
    assert elsewhere.exists()
    assert longer.exists()


def test_a_lock_is_lost_where_a_link_takes_the_place_of_its_folder(tmp_path):
    for name in ("run", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "other/.lock").touch()
    assert lock(tmp_path / "run")
    assert not has_lost_lock(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "run").symlink_to("other")
    assert has_lost_lock(tmp_path / "run")
    unlock(tmp_path / "moved")


def test_a_link_that_is_changed_later_changes_nothing(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "current").symlink_to("run")
    monkeypatch.chdir(tmp_path)
    assert without_links("current") == tmp_path / "run"
    assert without_links("run") == Path("run")  # As it was given.


def test_a_folder_that_another_process_wrote_meanwhile_is_kept(tmp_path):
    def write():
        with writing(tmp_path / "1") as temporary:
            temporary.mkdir()
            (tmp_path / "1").mkdir()
            (tmp_path / "1" / "theirs").touch()

    with pytest.raises(UserError, match="was written by another process in the meantime"):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert (tmp_path / "1" / "theirs").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_named_with_the_file_and_the_room(tmp_path, number):
    def write():
        with writing(tmp_path / "new" / "a.csv") as temporary:
            temporary.write_bytes(bytes(3 * 2**20))
            raise OSError(number, os.strerror(number))  # Without a name, as write() gives it.

    message = (
        r"(full|reached): only 3.0 MiB of .*/new/a.csv could be written; .* of the disk is left"
    )
    with pytest.raises(StorageError, match=message):
        write()
    assert list(tmp_path.iterdir()) == []
