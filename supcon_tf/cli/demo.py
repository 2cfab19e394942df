"""The whole workflow on the embedded digits: SupCon against cross entropy, then export.

    supcon-tf demo

Replaces the runs of an earlier demo; the bundle becomes a new version.
"""

import sys

from supcon_tf.cli import flags
from supcon_tf.config import (
    ClassifierConfig,
    DemoConfig,
    EvaluateConfig,
    ExportConfig,
    PretrainConfig,
)
from supcon_tf.core.errors import UserError


def main(config):
    """Runs every stage and prints the tables."""
    from pathlib import Path

    from supcon_tf.core.files import write_json
    from supcon_tf.exporting.card import export_table
    from supcon_tf.exporting.evaluation import evaluate
    from supcon_tf.exporting.export import export
    from supcon_tf.stages.classification import train_classifier
    from supcon_tf.stages.pretraining import pretrain
    from supcon_tf.stages.run_directory import RunDirectory
    from supcon_tf.stages.tables import comparison_table

    output = Path(config.output_dir)
    marker = output / ".demo"
    if any(output.glob("*")) and not marker.exists():
        raise UserError(
            f"output_dir holds files that are not a demo's. Received: {output}. Give another."
        )
    output.mkdir(parents=True, exist_ok=True)
    marker.touch()
    methods = {"supcon_out": "SupCon, linear head", "cross_entropy": "cross entropy"}
    runs = {title: RunDirectory(str(output / method)) for method, title in methods.items()}
    shared = {"seed": config.seed, "overwrite": True}
    for (method, title), run in zip(methods.items(), runs.values(), strict=True):
        run_dir = str(run.path)
        print(f"training: {title}", file=sys.stderr)
        pretrain(PretrainConfig(run_dir=run_dir, method=method, epochs=config.epochs, **shared))
        if not run.has_finished("classifier"):  # Cross entropy comes with one.
            train_classifier(ClassifierConfig(run_dir=run_dir, **shared))
        evaluate(EvaluateConfig(run_dir=run_dir))
    exported = export(
        ExportConfig(
            run_dir=str(output / "supcon_out"),
            saved_models_dir=config.saved_models_dir,
            name="digits",
        )
    )
    write_json(output / "metrics.json", {title: run.metrics() for title, run in runs.items()})
    print(f"\n{comparison_table(runs)}\n\n{export_table(exported)}\n")
    _say_what_comes_next(output, runs.values(), Path(exported["path"]))


def _say_what_comes_next(output, runs, bundle):
    print(f"scores: {output}/metrics.json    bundle: {bundle}")
    for run in runs:
        print(f"look at: {run.pictures}/*.png")
    print(f"next: supcon-tf serve --model_dir={bundle.parent}, and draw a digit")
    print("or, on images of your own: supcon-tf pretrain --recipe=folder --dataset=folder:PHOTOS")


def program():
    """Runs the command."""
    flags.run(main, DemoConfig, __doc__)
