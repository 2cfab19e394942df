"""Writes the embedded digits as a folder data set of PNG files, one subfolder per class.

supcon-tf write-digits --output_dir=photos
"""

from supcon_tf.cli import flags
from supcon_tf.config import WriteDigitsConfig


def main(config):
    """Writes the images and says how many."""
    from supcon_tf.data.digits import write_digits

    count = write_digits(config.output_dir)
    print(f"wrote {count} images to {config.output_dir}")


def program():
    """Runs the command."""
    flags.run(main, WriteDigitsConfig, __doc__)
