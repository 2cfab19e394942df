"""Trains an encoder, contrastively or with cross entropy.

supcon-tf pretrain --recipe=digits --run_dir=runs/digits
"""

from supcon_tf.cli import flags
from supcon_tf.config import PretrainConfig


def main(config):
    """Pretrains, and says what comes next."""
    from supcon_tf.stages.pretraining import pretrain
    from supcon_tf.stages.run_directory import RunDirectory

    metrics = pretrain(config)
    if config.dry_run or not metrics:
        return  # One of several workers speaks.
    print(f"loss {metrics['loss']:.4f} after {metrics['seconds']:.0f} s of training")
    if "best_epoch" in metrics:
        name = config.best_metric
        print(f"kept: epoch {metrics['best_epoch']}, {name} {metrics[name]:.4f}")
    print(f"encoder: {config.run_dir}/encoder.keras    pictures: {config.run_dir}/pictures")
    # Some methods come with their classifier.
    has_classifier = RunDirectory(config.run_dir).has_finished("classifier")
    following = "evaluate" if has_classifier else "classify"
    print(f"next: supcon-tf {following} --run_dir={config.run_dir}")


def program():
    """Runs the command."""
    flags.run(main, PretrainConfig, __doc__)
