"""The embedded default data set: scikit-learn's digits as a TensorFlow Datasets builder."""

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from supcon_tf.core.files import new_folder, writing
from supcon_tf.data.embedded import grey_images, prepare

NUM_TEST = 450


def load_images() -> tuple[np.ndarray, np.ndarray]:
    """All images, uint8 [1797, 8, 8, 1], and labels, int [1797]."""
    images, labels = load_digits(return_X_y=True)
    # 17 grey levels, 0 to 16, to uint8.
    return np.rint(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8), labels


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 handwritten digits of 8 x 8 pixels; 1,347 to train on and 450 held out.

    The images come with scikit-learn, so nothing is downloaded. The held-out split is stratified
    and always the same.

    Reference:
        E. Alpaydin and C. Kaynak 1998, Optical Recognition of Handwritten Digits, UCI repository.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return grey_images(
            self,
            8,
            [str(digit) for digit in range(10)],
            description="Handwritten digits of 8 x 8 pixels, from scikit-learn.",
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # Nothing is downloaded.
        images, labels = load_images()
        train, test = train_test_split(
            np.arange(len(labels)), test_size=NUM_TEST, stratify=labels, random_state=0
        )
        return {
            "train": self._generate_examples(images, labels, train),
            "test": self._generate_examples(images, labels, test),
        }

    def _generate_examples(self, images, labels, indices):
        for index in indices:
            yield int(index), {"image": images[index], "label": int(labels[index])}


def find(data_dir: str | None) -> tfds.core.DatasetBuilder:
    """Returns the builder, its files written to TensorFlow Datasets' directory on first use.

    Args:
        data_dir: that directory; None for its default.

    Raises:
        UserError: if it cannot be written.
    """
    return prepare(Digits(data_dir=data_dir), "the digits")


def write_digits(output_dir: str) -> int:
    """Writes all digits as PNG files, one subfolder per class.

    Args:
        output_dir: folder to write, new or empty.

    Returns:
        How many images were written.

    Raises:
        UserError: if the folder holds anything.
    """
    folder = new_folder(output_dir)
    images, labels = load_images()
    with writing(folder) as temporary:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            file = temporary / str(label) / f"{index:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(tf.io.encode_png(image).numpy())
    return len(labels)
