"""Exports a run's classifier as SavedModel and TFLite, and compares each with Keras.

python scripts/export.py --run_dir=runs/digits
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
    print(f"next: python scripts/predict.py --model={model} IMAGE ...")
    print(f"or:   python scripts/serve.py --model_dir={model}")


if __name__ == "__main__":
    flags.run(main, ExportConfig, __doc__)
