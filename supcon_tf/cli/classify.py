"""Trains a linear classifier on the frozen encoder of a run.

supcon-tf classify --run_dir=runs/digits
"""

from supcon_tf.cli import flags
from supcon_tf.config import ClassifierConfig


def main(config):
    """Trains the head, and says what comes next."""
    from supcon_tf.stages.classification import train_classifier

    metrics = train_classifier(config)
    print(f"loss {metrics['loss']:.4f}, training top-1 {100 * metrics['train_top1']:.1f} %")
    print(f"next: supcon-tf evaluate --run_dir={config.run_dir}")


def program():
    """Runs the command."""
    flags.run(main, ClassifierConfig, __doc__)
