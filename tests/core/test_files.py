"""Files are whole or not there; what killed processes left is cleared away."""

import errno
import os
import socket
import subprocess
import sys

import pytest

from supcon_tf.core.errors import StorageError, UserError
from supcon_tf.core.files import TEMPORARY_PREFIX, writing


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


def test_a_folder_that_another_process_wrote_meanwhile_is_kept(tmp_path):
    def write():
        with writing(tmp_path / "1") as temporary:
            temporary.mkdir()
            (tmp_path / "1").mkdir()
            (tmp_path / "1" / "theirs").touch()

    with pytest.raises(UserError, match="was written by another process meanwhile"):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert (tmp_path / "1" / "theirs").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_with_the_file_and_the_room(tmp_path, number):
    def write():
        with writing(tmp_path / "new" / "a.csv") as temporary:
            temporary.write_bytes(bytes(3 * 2**20))
            raise OSError(number, os.strerror(number))  # Without a name, as write() gives it.

    message = "full: .*/new/a.csv takes more than the 3.0 MiB that were written; .* are free"
    with pytest.raises(StorageError, match=message):
        write()
    assert list(tmp_path.iterdir()) == []
