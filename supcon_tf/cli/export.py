"""Exports a run's classifier as SavedModel, TFLite and ONNX, and compares each with Keras.

supcon-tf export --run_dir=runs/digits
"""

from supcon_tf.cli import flags
from supcon_tf.config import ExportConfig


def main(config):
    """Exports and prints the comparison."""
    from pathlib import Path

    from supcon_tf.exporting.card import export_table
    from supcon_tf.exporting.export import export

    scores = export(config)
    print(export_table(scores))
    print(f"bundle: {scores['path']}")
    model = Path(scores["path"]).parent
    print(f"next: supcon-tf predict --model={model} IMAGE ...")
    print(f"or:   supcon-tf serve --model_dir={model}")


def program():
    """Runs the command."""
    flags.run(main, ExportConfig, __doc__)
