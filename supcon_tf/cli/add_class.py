"""Adds classes to an exported model from a few images each, without training.

supcon-tf add-class --model=saved_models/digits --images=new_classes
"""

from supcon_tf.cli import flags
from supcon_tf.config import AddClassConfig


def main(config):
    """Writes the next version and prints what old and new classes score."""
    from supcon_tf.exporting.adding import add_class
    from supcon_tf.exporting.card import added_table

    scores = add_class(config)
    print(added_table(scores))
    print(f"bundle: {scores['path']}")


def program():
    """Runs the command."""
    flags.run(main, AddClassConfig, __doc__)
