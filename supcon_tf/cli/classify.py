"""Trains a classifier for a run: linear on the frozen encoder, or with the encoder.

supcon-tf classify --run_dir=runs/digits
supcon-tf classify --run_dir=runs/digits --fine_tune=all
"""

from supcon_tf.cli import flags
from supcon_tf.config import ClassifierConfig


def main(config):
    """Trains the head, and says what comes next."""
    from supcon_tf.stages.classification import train_classifier

    metrics = train_classifier(config)
    several = "train_map" in metrics
    key, name = ("map", "average precision") if several else ("top1", "top-1")
    print(f"loss {metrics['loss']:.4f}, training {name} {100 * metrics[f'train_{key}']:.1f} %")
    if "best_epoch" in metrics:
        score = 100 * metrics[f"validation_{key}"]
        print(f"kept: epoch {metrics['best_epoch']}, validation {name} {score:.1f} %")
    print(f"next: supcon-tf evaluate --run_dir={config.run_dir}")


def program():
    """Runs the command."""
    flags.run(main, ClassifierConfig, __doc__)
