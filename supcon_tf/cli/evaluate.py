"""Scores a run on the held-out split, or with --split=validation on its validation set.

supcon-tf evaluate --run_dir=runs/digits

Other labelled images, with a run or an exported model; classes are matched by name:

supcon-tf evaluate --run_dir=runs/photos --dataset=folder:other
supcon-tf evaluate --model=saved_models/photos --dataset=folder:other

Corrupted images, also relative to another run that was scored in the same way:

supcon-tf evaluate --run_dir=runs/digits --corruptions --baseline=runs/cross_entropy
"""

from supcon_tf.cli import flags
from supcon_tf.config import EvaluateConfig

_SHARES = (
    "top1",
    "top5",
    "balanced_accuracy",
    "exact_match",
    "micro_f1",
    "macro_f1",
    "macro_recall",
    "macro_roc_auc",
    "mean_average_precision",
    "ece",
    "knn_top1",
    "knn_map",
    "soft_neighbors_top1",
)


def main(config):
    """Evaluates and prints the scores."""
    from supcon_tf.exporting.evaluation import evaluate
    from supcon_tf.stages.tables import class_table

    metrics = evaluate(config)
    print(f"images {metrics['images']:,}")
    for name in _SHARES:
        if metrics.get(name) is not None:
            print(f"{name} {100 * metrics[name]:.2f} %{_interval(metrics, name)}")
    if "nll" in metrics:
        print(f"nll {metrics['nll']:.4f} nats")
    if "classes" in metrics:
        print(class_table(metrics["classes"]))
    if "corruptions" in metrics:
        _print_robustness(metrics["corruptions"])
    _print_next(config, metrics)


def _interval(metrics, name):
    found = metrics.get("intervals", {}).get(name)
    return f" (95 % interval: {100 * found[0]:.2f} to {100 * found[1]:.2f})" if found else ""


def _print_robustness(found):
    print(
        f"{found['images']:,} images under 15 corruptions at 5 severities: mean error "
        f"{100 * found['mean_error']:.2f} % (clean {100 * found['clean']['error']:.2f} %), mean "
        f"ece {100 * found['mean_ece']:.2f} %"
    )
    for name, title in (("mce", "mCE"), ("relative_mce", "relative mCE")):
        if name in found:
            shown = "undefined" if found[name] is None else f"{found[name]:.4f}"
            print(f"{title} {shown} (1 is the baseline, {found['baseline']})")


def _print_next(config, metrics):
    if config.model:
        if config.output_dir:
            print(f"written to {config.output_dir}")
    elif "classes" not in metrics:
        print(f"no classifier yet: supcon-tf classify --run_dir={config.run_dir}")
    else:
        print(f"every image and its class: {config.run_dir}/evaluation")
        if not config.dataset:
            print(f"next: supcon-tf export --run_dir={config.run_dir}")


def program():
    """Runs the command."""
    flags.run(main, EvaluateConfig, __doc__)
