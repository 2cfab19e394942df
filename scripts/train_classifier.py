"""Trains a linear classifier on the frozen encoder of a run.

python scripts/train_classifier.py --run_dir=runs/digits
"""

from supcon_tf.cli import flags
from supcon_tf.config import ClassifierConfig


def main(config):
    """Trains the head, and says what comes next."""
    from supcon_tf.stages.classification import train_classifier

    metrics = train_classifier(config)
    print(f"loss {metrics['loss']:.4f}, training top-1 {100 * metrics['train_top1']:.1f} %")
    print(f"next: python scripts/evaluate.py --run_dir={config.run_dir}")


if __name__ == "__main__":
    flags.run(main, ClassifierConfig, __doc__)
