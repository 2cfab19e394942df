r"""Draws training images and their views, as the network sees them, into a PNG file.

    supcon-tf show-views --recipe=digits --output_file=views.png

All flags of `supcon-tf pretrain` (its --help lists them) are taken too: they set the data and
the augmentation. A row is an image; its first column shows the image as it is.
"""

from supcon_tf.cli import flags
from supcon_tf.config import PretrainConfig, ShowViewsConfig
from supcon_tf.config.search import PLACEMENT


def main(config, pretraining):
    """Draws, and says what."""
    from supcon_tf.stages.view_sheets import show_views

    height, width = show_views(config, pretraining)
    print(f"wrote {config.output_file}, {width} x {height} pixels")


def program():
    """Runs the command."""
    flags.run(main, ShowViewsConfig, __doc__, base=PretrainConfig, base_without=PLACEMENT)
