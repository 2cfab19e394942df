"""Fashion-MNIST from IDX files on this machine, as a TensorFlow Datasets builder."""

import sys
from pathlib import Path

import tensorflow_datasets as tfds

from supcon_tf.data.embedded import grey_images, prepare
from supcon_tf.data.idx import holds_idx, read_split

# Where Debian's package dataset-fashion-mnist puts the files.
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
ADVICE = (
    "Install Debian's package dataset-fashion-mnist, or pass the folder of the four files "
    "train-images-idx3-ubyte.gz, ... as --data_dir."
)
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


class FashionMnistIdx(tfds.core.GeneratorBasedBuilder):
    """70,000 grey images of clothes of 28 x 28 pixels; 60,000 to train on and 10,000 held out.

    Args:
        idx_dir: folder of the IDX files; not needed once the builder is prepared.
        **kwargs: as every builder takes them.

    Reference:
        Xiao, Rasul and Vollgraf 2017, "Fashion-MNIST: a Novel Image Dataset for Benchmarking
        Machine Learning Algorithms" (MIT license).
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, idx_dir: Path | None = None, **kwargs):
        self._idx_dir = idx_dir
        super().__init__(**kwargs)

    def _info(self):
        return grey_images(
            self,
            28,
            CLASS_NAMES,
            description="Clothes of 28 x 28 pixels, from IDX files.",
            homepage="https://github.com/zalandoresearch/fashion-mnist",
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # Nothing is downloaded.
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, split):
        images, labels = read_split(self._idx_dir, split)
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": image[..., None], "label": int(label)}


def find(data_dir: str | None) -> tfds.core.DatasetBuilder | None:
    """The builder, its files written to TensorFlow Datasets' directory on first use.

    Args:
        data_dir: that directory, which may hold the IDX files too; None for its default.

    Returns:
        None if it is not prepared there and there are no IDX files, in that directory or
        installed.

    Raises:
        UserError: if the files are damaged, or nothing can be written there.
    """
    folders = [*map(Path, filter(None, [data_dir])), INSTALLED]
    folder = next(filter(holds_idx, folders), None)
    builder = FashionMnistIdx(data_dir=data_dir, idx_dir=folder)
    if builder.is_prepared():
        return builder
    if folder is None:
        return None
    print(f"preparing Fashion-MNIST from {folder}; this is done only once", file=sys.stderr)
    return prepare(builder, "Fashion-MNIST")
