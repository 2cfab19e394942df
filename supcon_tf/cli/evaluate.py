"""Scores a run on the held-out split, or with --split=validation on its validation set.

supcon-tf evaluate --run_dir=runs/digits
"""

from supcon_tf.cli import flags
from supcon_tf.config import EvaluateConfig


def main(config):
    """Evaluates and prints the scores."""
    from supcon_tf.stages.evaluation import evaluate
    from supcon_tf.stages.tables import format_table

    metrics = evaluate(config)
    for name in ("top1", "top5", "knn_top1", "soft_neighbors_top1"):
        if name in metrics:
            print(f"{name} {100 * metrics[name]:.2f} %")
    if "nll" in metrics:
        print(f"nll {metrics['nll']:.4f} nats")
    rows = [
        [name, "no images" if share is None else f"{100 * share:.1f} %"]
        for name, share in metrics.get("per_class", {}).items()
    ]
    if rows:
        print(format_table(["class", "accuracy"], rows))
        print(f"next: supcon-tf export --run_dir={config.run_dir}")
    else:
        print(f"no classifier yet: supcon-tf classify --run_dir={config.run_dir}")


def program():
    """Runs the command."""
    flags.run(main, EvaluateConfig, __doc__)
