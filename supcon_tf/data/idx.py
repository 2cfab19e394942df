"""IDX files under gzip, as MNIST and its kin are published."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from supcon_tf.core.errors import UserError

_FILES = {
    split: (f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz")
    for split, prefix in (("train", "train"), ("test", "t10k"))
}


def holds_idx(folder: Path) -> bool:
    """Whether the four files of a training and a test split are there."""
    return all((folder / file).is_file() for files in _FILES.values() for file in files)


def read_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The images uint8 [N, H, W] and labels uint8 [N] of "train" or "test".

    Args:
        folder: holds `train-images-idx3-ubyte.gz` and its kin.
        split: "train" or "test".

    Raises:
        UserError: if a file cannot be read, or images and labels differ in number.
    """
    images, labels = (read_idx(Path(folder) / file) for file in _FILES[split])
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise UserError(
            f"the {split} files in {folder} do not match each other. Received: images of shape "
            f"{images.shape}, labels of shape {labels.shape}. Install or copy them again."
        )
    return images, labels


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of one file.

    Raises:
        UserError: if it cannot be read, or is not such a file.

    Reference:
        Y. LeCun, C. Cortes and C. Burges, "The MNIST database", file formats: two zero bytes, the
        type (8 for uint8), the number of axes, their lengths (big-endian), the values.
    """
    try:
        content = gzip.decompress(path.read_bytes())
        if content[:3] != b"\0\0\x08":
            raise ValueError("it does not hold bytes in the IDX format")
        shape = np.frombuffer(content, ">i4", content[3], offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise UserError(
            f"{path} is not a readable IDX file: {error}. Install or copy it again."
        ) from error
