"""Fashion-MNIST from IDX files: reading, preparation without a download, what is refused."""

import gzip
import struct

import numpy as np
import pytest
import tensorflow_datasets as tfds

from supcon_tf import UserError, open_dataset
from supcon_tf.data import fashion_mnist
from supcon_tf.data.idx import read_idx, read_split
from supcon_tf.data.images import decode

RNG = np.random.default_rng(0)
IMAGES = {"train": RNG.integers(0, 256, [40, 28, 28]), "t10k": RNG.integers(0, 256, [20, 28, 28])}
LABELS = {name: np.arange(len(images)) % 10 for name, images in IMAGES.items()}


def write_idx(path, array):
    head = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


@pytest.fixture
def idx_dir(tmp_path, monkeypatch):
    """A folder of small IDX files, where nothing is installed."""
    monkeypatch.setattr(fashion_mnist, "INSTALLED", tmp_path / "not installed")
    folder = tmp_path / "idx"
    folder.mkdir()
    for name in IMAGES:
        write_idx(folder / f"{name}-images-idx3-ubyte.gz", IMAGES[name])
        write_idx(folder / f"{name}-labels-idx1-ubyte.gz", LABELS[name])
    return folder


def content(split):
    return sorted((int(label), decode(image).numpy().tobytes()) for image, label in split.records())


def expected(name):
    return sorted(
        (int(label), np.repeat(image[..., None], 3, axis=-1).astype(np.uint8).tobytes())
        for image, label in zip(IMAGES[name], LABELS[name], strict=True)
    )


def test_files_in_data_dir_are_prepared_there(idx_dir, capsys):
    dataset = open_dataset("fashion_mnist", str(idx_dir), validation_fraction=0.25)
    assert (
        capsys.readouterr().err
        == f"preparing Fashion-MNIST from {idx_dir}; this is done only once\n"
    )
    assert (dataset.native_size_px, dataset.image_size_px) == (28, 28)
    assert dataset.class_names[0] == "T-shirt/top"
    assert len(dataset.class_names) == 10
    assert sorted(content(dataset.train) + content(dataset.validation)) == expected("train")
    assert content(dataset.test) == expected("t10k")


def test_installed_files_need_no_setting_and_are_read_once(idx_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "INSTALLED", idx_dir)
    first = open_dataset("fashion_mnist", str(tmp_path / "tfds"))
    monkeypatch.setattr(fashion_mnist, "INSTALLED", tmp_path / "gone")
    again = open_dataset("fashion_mnist", str(tmp_path / "tfds"))
    assert content(first.test) == content(again.test) == expected("t10k")
    assert first.train.fingerprint == again.train.fingerprint


def test_the_default_directory_takes_them_too(idx_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "INSTALLED", idx_dir)
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "default"))
    assert content(open_dataset("fashion_mnist").test) == expected("t10k")
    assert (tmp_path / "default").exists()


def test_without_files_one_line_says_what_to_do(tmp_path, monkeypatch):
    """TensorFlow Datasets' own download is tried, and fails here."""
    monkeypatch.setattr(fashion_mnist, "INSTALLED", tmp_path / "not installed")

    def fail(self, *args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(UserError, match=r"no network.*package dataset-fashion-mnist, or pass"):
        open_dataset("fashion_mnist", str(tmp_path))


def test_damaged_files_are_named(idx_dir):
    write_idx(idx_dir / "train-labels-idx1-ubyte.gz", LABELS["train"][:-1])
    message = "the train files in .* do not match each other.*40.*39"
    with pytest.raises(UserError, match=message):
        read_split(idx_dir, "train")
    with pytest.raises(UserError, match=message):
        open_dataset("fashion_mnist", str(idx_dir))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no gzip",
        gzip.compress(b""),
        gzip.compress(b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0"),
        gzip.compress(b"\0\0\x08\x01\0\0\0\x05ab"),
        gzip.compress(b"\0\0\x08\x01\0\0\0\x05abcde")[:-9],
    ],
    ids=["empty", "no gzip", "nothing in it", "of float32", "values missing", "cut off"],
)
def test_a_file_that_is_no_idx_file_is_named(content, tmp_path):
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(UserError, match="a.gz is not a readable IDX file"):
        read_idx(tmp_path / "a.gz")


def test_values_are_read_in_their_order(tmp_path):
    array = np.arange(24).reshape(2, 3, 4)
    write_idx(tmp_path / "a.gz", array)
    np.testing.assert_array_equal(read_idx(tmp_path / "a.gz"), array)
