"""Which version is served as the folder of a model changes."""

import asyncio
import gc
import os
import shutil
import time
import weakref

import pytest
from serving.fakes import FakeBundle

from supcon_tf.core.errors import UserError
from supcon_tf.serving import metrics
from supcon_tf.serving.versions import Versions


class Folder:
    """A model's folder whose versions are small files, and what was told about them."""

    def __init__(self, path):
        self.path, self.lines, self.loads = path, [], []
        path.mkdir()
        self.versions = Versions(path, self.load, self.lines.append, patience_seconds=0.2)

    def load(self, path):
        self.loads.append(int(path.name))
        content = (path / "content").read_text()
        if content == "gone":
            raise FileNotFoundError(path)
        if content == "broken":
            raise UserError(f"bundle {path} is damaged.\nExport it again.")
        return FakeBundle(int(path.name), content)

    def write(self, version, content="digits", sums=True):
        path = self.path / str(version)
        path.mkdir(exist_ok=True)
        (path / "content").write_text(content)
        if sums:
            (path / "SHA256SUMS").write_text("")

    def remove(self, version):
        shutil.rmtree(self.path / str(version))

    def look(self):
        """Looks once, and serves what was found: as `watch` does."""
        loaded = self.versions.look()
        if loaded is not None:
            self.versions._serve(*loaded)
        return self.versions.served.version


@pytest.fixture
def folder(tmp_path):
    folder = Folder(tmp_path / "digits")
    yield folder
    folder.versions.close()


def test_the_newest_valid_version_is_served_from_the_start(folder):
    for version, content in ((1, "digits"), (9, "digits"), (10, "broken")):
        folder.write(version, content)
    folder.write("011")
    folder.write("latest")
    folder.versions.start()
    assert folder.versions.served.version == 9
    assert folder.lines == [
        f"version 10 is refused: bundle {folder.path}/10 is damaged. Export it again."
    ]
    assert folder.look() == 9
    assert folder.loads == [10, 9]


def test_nothing_valid_is_told(folder):
    with pytest.raises(UserError, match="has no version of a model"):
        folder.versions.start()
    folder.write(2, "broken")
    with pytest.raises(UserError, match="no version in .* is valid; the newest: .*damaged"):
        folder.versions.start()


def test_a_version_directory_is_told_apart(folder):
    (folder.path / "saved_model.pb").write_text("")
    with pytest.raises(UserError, match=r"is one version.*Pass --model_dir="):
        folder.versions.start()


@pytest.fixture
def serving_3(folder):
    folder.write(2)
    folder.write(3)
    folder.versions.start()
    return folder


def test_a_new_version_is_served_at_the_next_look(serving_3):
    serving_3.write(4)
    assert serving_3.look() == 4
    assert serving_3.lines == ["serving digits version 4 instead of 3"]
    assert metrics.VERSION.labels(model_name="digits")._value.get() == 4


def test_a_broken_version_is_reported_once_until_its_files_change(serving_3):
    serving_3.write(4, "broken")
    assert serving_3.look() == 3
    assert serving_3.lines == []  # It may be a copy under way.
    for _ in range(3):
        assert serving_3.look() == 3
    assert serving_3.lines == [
        f"version 4 is refused; version 3 stays in service: bundle {serving_3.path}/4 is damaged. "
        "Export it again."
    ]
    assert serving_3.loads == [3, 4]
    assert list(serving_3.versions.refused) == [4]
    assert metrics.REFUSED._value.get() == 1
    serving_3.write(4, "digits")
    assert serving_3.look() == 4
    assert serving_3.versions.refused == {}
    assert metrics.REFUSED._value.get() == 0


def test_a_copy_under_way_is_not_reported(serving_3):
    serving_3.write(4, "broken", sums=False)
    for _ in range(3):
        assert serving_3.look() == 3
    assert serving_3.loads == [3]
    serving_3.write(4, "broken")  # The sums came before the rest.
    assert serving_3.look() == 3
    serving_3.write(4, "digits")
    assert serving_3.look() == 4
    assert [line for line in serving_3.lines if "refused" in line] == []


def test_a_version_that_never_gets_its_sums_is_reported_once(serving_3):
    serving_3.write(4, sums=False)
    for _ in range(2):
        assert serving_3.look() == 3
        time.sleep(0.15)
        os.utime(serving_3.path / "4/content", (1, 1))  # It is still written to.
    assert serving_3.lines == []
    for _ in range(3):
        assert serving_3.look() == 3
        time.sleep(0.25)
    assert serving_3.lines == [
        "version 4 is refused; version 3 stays in service: it has no SHA256SUMS, and no more files "
        "are arriving. Copy the whole folder."
    ]
    assert list(serving_3.versions.refused) == [4]
    assert metrics.REFUSED._value.get() == 1
    serving_3.write(4)
    assert serving_3.look() == 4
    assert serving_3.versions.refused == {}


def test_a_version_that_is_replaced_by_another_broken_one_is_reported_again(serving_3):
    for seconds in (1, 2):
        serving_3.write(4, "broken")
        os.utime(serving_3.path / "4/content", (seconds, seconds))
        for _ in range(3):
            serving_3.look()
    assert len([line for line in serving_3.lines if "refused" in line]) == 2


def test_clients_are_not_told_where_the_files_are(serving_3):
    serving_3.write(4, "broken")
    serving_3.look()
    serving_3.look()
    assert serving_3.versions.refused == {4: "bundle 4 is damaged. Export it again."}


def test_hidden_folders_and_links_are_passed_over(serving_3, tmp_path):
    serving_3.write(".writing-7-4")
    os.symlink(serving_3.path / "3", serving_3.path / "5")
    assert serving_3.look() == 3


def test_what_is_deleted_is_no_longer_served(serving_3):
    serving_3.remove(3)
    assert serving_3.look() == 2
    serving_3.remove(2)
    assert serving_3.look() == 2  # It is still served from memory.
    serving_3.write(1)
    assert serving_3.look() == 1
    shutil.rmtree(serving_3.path)
    assert serving_3.look() == 1


def test_a_refused_version_that_is_deleted_is_forgotten(serving_3):
    serving_3.write(4, "broken")
    serving_3.look()
    serving_3.look()
    serving_3.remove(4)
    serving_3.look()
    assert serving_3.versions.refused == {}


def test_a_rewritten_version_is_loaded_again(serving_3):
    served = serving_3.versions.served
    serving_3.write(3, "digits")
    os.utime(serving_3.path / "3/content", (1, 1))
    assert serving_3.look() == 3
    assert serving_3.versions.served is not served
    served = serving_3.versions.served
    serving_3.write(3, "broken")
    serving_3.look()
    serving_3.look()
    assert serving_3.versions.served is served
    assert list(serving_3.versions.refused) == [3]


def test_a_file_that_goes_while_it_is_read_is_no_end(serving_3):
    serving_3.write(4, "gone")
    assert serving_3.look() == 3
    assert serving_3.look() == 3
    assert "FileNotFoundError: " in serving_3.lines[-1]


def test_a_version_of_another_model_is_refused(serving_3):
    serving_3.write(4, "letters")
    serving_3.look()
    serving_3.look()
    assert "belongs to the model 'letters', but this server serves 'digits'" in serving_3.lines[-1]


def test_a_version_under_a_wrong_number_is_refused(serving_3):
    serving_3.versions._load = lambda path: FakeBundle(7)
    serving_3.write(4)
    serving_3.look()
    serving_3.look()
    assert "says that it is version 7" in serving_3.lines[-1]


def test_the_watch_goes_on_and_frees_what_is_replaced(serving_3):
    old = weakref.ref(serving_3.versions.served)
    old().itself = old()  # A cycle, as TensorFlow makes them.

    async def test():
        watching = asyncio.create_task(serving_3.versions.watch(0.01))
        for version in (4, 5):
            serving_3.write(version)
            for _ in range(500):
                await asyncio.sleep(0.01)
                if serving_3.versions.served.version == version:
                    break
        await asyncio.sleep(0.1)
        watching.cancel()

    gc.collect()
    asyncio.run(test())
    assert serving_3.versions.served.version == 5
    assert old() is None
