r"""Writes collages of Fashion-MNIST, images that show several classes each, with a table of labels.

    python scripts/studies/write_collages.py --idx_dir=/usr/share/datasets/fashion-mnist \
        --output_dir=runs/collages

A collage of 56 x 56 pixels has one to three garments in the quarters of its area, drawn at random;
its classes are theirs. The splits train and validation are made from different training images of
Fashion-MNIST, the split test from its test images: no garment is used twice.
labels.csv lists path, label (with | between) and split. The IDX files (gzip) are those of Debian's
package dataset-fashion-mnist.
"""

import dataclasses

from supcon_tf.cli import flags
from supcon_tf.config.settings import Config, setting
from supcon_tf.core.errors import UserError
from supcon_tf.data.idx import read_idx

NAMES = "T-shirt trouser pullover dress coat sandal shirt sneaker bag boot".split()  # noqa: SIM905
_SIDE, _MOST = 28, 3
# The split of Fashion-MNIST, by its files' names, that each split of collages is made from.
_PARTS = {"train": "train", "validation": "train", "test": "t10k"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollageConfig(Config):
    """Collages of Fashion-MNIST as PNG files and a table."""

    idx_dir: str = setting("/usr/share/datasets/fashion-mnist", "Folder of the IDX files.")
    output_dir: str = setting("", "Folder to write, new.")
    train_images: int = setting(2000, "Collages to train on.", at_least=10, at_most=15000)
    validation_images: int = setting(300, "Collages to watch it on.", at_least=10, at_most=5000)
    test_images: int = setting(1000, "Collages to score.", at_least=10, at_most=5000)
    seed: int = setting(0, "Seed of the collages.", at_least=0, below=2**31)

    def __post_init__(self):
        super().__post_init__()
        if not self.output_dir:
            raise UserError("no output_dir given. Pass --output_dir=FOLDER.")


def collages(images, labels, count, rng):
    """Collages and their classes.

    Args:
        images: uint8 [N, 28, 28], garments; each is used at most once.
        labels: int [N].
        count: number of collages, at most N / 3.
        rng: NumPy generator.

    Returns:
        uint8 [count, 56, 56], and a set of classes for each.
    """
    import numpy as np

    order, canvas = rng.permutation(len(images)), np.zeros((count, 2, _SIDE, 2, _SIDE), np.uint8)
    classes = []
    for number in range(count):
        size = rng.integers(1, _MOST + 1)
        chosen = order[number * _MOST :][:size]
        for garment, quarter in zip(chosen, rng.permutation(4), strict=False):
            canvas[number, quarter // 2, :, quarter % 2] = images[garment]
        classes.append({int(label) for label in labels[chosen]})
    return canvas.reshape(count, 2 * _SIDE, 2 * _SIDE), classes


def main(config):
    """Writes the images and the table."""
    import csv
    from pathlib import Path

    import numpy as np
    from PIL import Image

    from supcon_tf.core.files import writing

    source, output = Path(config.idx_dir), Path(config.output_dir)
    if output.exists():
        raise UserError(f"output_dir must be new. Received: {config.output_dir!r}.")
    rng, used, rows = np.random.default_rng(config.seed), {"train": 0, "t10k": 0}, []
    with writing(output) as folder:
        for split, prefix in _PARTS.items():
            count, first = getattr(config, f"{split}_images"), used[prefix]
            used[prefix] += _MOST * count
            images, labels = (
                read_idx(source / f"{prefix}-{kind}.gz")[first : used[prefix]]
                for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
            )
            (folder / split).mkdir(parents=True)
            for number, (image, shown) in enumerate(
                zip(*collages(images, labels, count, rng), strict=True)
            ):
                path = f"{split}/{number:05d}.png"
                Image.fromarray(image).save(folder / path)
                rows.append([path, "|".join(NAMES[label] for label in sorted(shown)), split])
        with open(folder / "labels.csv", "w", newline="") as file:
            csv.writer(file).writerows([["path", "label", "split"], *rows])
    print(f"wrote {config.output_dir}/labels.csv")


if __name__ == "__main__":
    flags.run(main, CollageConfig, __doc__)
