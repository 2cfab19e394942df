"""Collages of garments: their classes are those of what they show, and nothing is used twice."""

import gzip

import numpy as np
import pytest
from PIL import Image

from supcon_tf import UserError, open_dataset


@pytest.fixture(scope="module")
def script(import_script):
    return import_script("studies/write_collages")


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def idx_dir(tmp_path):
    """Garments whose brightness tells the class and the split."""
    for prefix, first in (("train", 10), ("t10k", 130)):
        labels = np.arange(180, dtype=np.uint8) % 10
        images = np.broadcast_to(first + 10 * labels[:, None, None], (180, 28, 28)).astype(np.uint8)
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", labels)
    return tmp_path


def test_no_garment_is_used_twice(script):
    garments = np.arange(60, dtype=np.uint8)[:, None, None] + np.ones((1, 28, 28), np.uint8)
    found, _ = script.collages(garments, np.arange(60), 20, np.random.default_rng(0))
    corners = found.reshape(20, 2, 28, 2, 28)[:, :, 0, :, 0].reshape(20, 4)
    shown = corners[corners > 0]
    assert len(shown) == len(set(shown.tolist()))
    assert set((corners > 0).sum(axis=1)) == {1, 2, 3}


def test_the_table_lists_what_the_images_show(script, idx_dir, tmp_path):
    sizes = {"train_images": 30, "validation_images": 30, "test_images": 30}
    config = script.CollageConfig(idx_dir=str(idx_dir), output_dir=str(tmp_path / "out"), **sizes)
    script.main(config)
    rows = (tmp_path / "out/labels.csv").read_text().splitlines()[1:]
    for path, label, split in (row.split(",") for row in rows):
        pixels = np.asarray(Image.open(tmp_path / "out" / path))
        first = 130 if split == "test" else 10
        levels = sorted(set(pixels.ravel().tolist()) - {0})
        assert label == "|".join(script.NAMES[(level - first) // 10] for level in levels)
    assert open_dataset(f"csv:{tmp_path}/out/labels.csv").multi_label
    with pytest.raises(UserError, match="output_dir must be new"):
        script.main(config)
