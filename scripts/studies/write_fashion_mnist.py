r"""Writes part of Fashion-MNIST as a folder data set of PNG files, train/ and test/.

    python scripts/studies/write_fashion_mnist.py --idx_dir=/usr/share/datasets/fashion-mnist \
        --output_dir=runs/fashion --images_per_class=500

The four IDX files (gzip) are those of Debian's package dataset-fashion-mnist.
"""

import dataclasses

from supcon_tf.cli import flags
from supcon_tf.config.settings import Config, setting
from supcon_tf.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class WriteConfig(Config):
    """Fashion-MNIST as PNG files."""

    idx_dir: str = setting("/usr/share/datasets/fashion-mnist", "Folder of the IDX files.")
    output_dir: str = setting("", "Folder to write, new.")
    images_per_class: int = setting(
        500, "First training images of each class; a fifth of it for the test.", at_least=5
    )
    imbalance: str = setting(
        "none",
        "linear: class i of 10 keeps (i + 1) / 10 of its training images; exponential: "
        "exp(i + 1) / exp(10), at least two.",
        choices=("none", "linear", "exponential"),
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.output_dir:
            raise UserError("no output_dir given. Pass --output_dir=FOLDER.")


def kept_share(imbalance, label):
    """The share of a class's training images that is kept."""
    import math

    shares = {"none": 1.0, "linear": (label + 1) / 10, "exponential": math.exp(label - 9)}
    return shares[imbalance]


def main(config):
    """Writes both splits."""
    from pathlib import Path

    import numpy as np
    from PIL import Image

    from supcon_tf.core.files import writing
    from supcon_tf.data.idx import read_split

    source, output = Path(config.idx_dir), Path(config.output_dir)
    if output.exists():
        raise UserError(f"output_dir must be new. Received: {config.output_dir!r}.")
    with writing(output) as folder:
        for split in ("train", "test"):
            images, labels = read_split(source, split)
            for label in range(10):
                count = config.images_per_class // (1 if split == "train" else 5)
                if split == "train":
                    count = max(2, round(kept_share(config.imbalance, label) * count))
                (folder / split / str(label)).mkdir(parents=True)
                for place in np.flatnonzero(labels == label)[:count]:
                    Image.fromarray(images[place]).save(
                        folder / split / str(label) / f"{place:05d}.png"
                    )
    print(f"wrote {config.output_dir}")


if __name__ == "__main__":
    flags.run(main, WriteConfig, __doc__)
