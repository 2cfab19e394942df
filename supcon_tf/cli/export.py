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
    found = scores["calibration"]
    if found["fitted_on"]:
        print(
            f"calibrated on the validation images: temperature {found['temperature']:.3g}; "
            f"negative log likelihood of the held-out images {found['nll']:.4g}, "
            f"{found['nll_uncalibrated']:.4g} before"
        )
    print(f"bundle: {scores['path']}")
    model = Path(scores["path"]).parent
    print(f"next: supcon-tf predict --model={model} IMAGE ...")
    print(f"or:   supcon-tf serve --model_dir={model}")


def program():
    """Runs the command."""
    flags.run(main, ExportConfig, __doc__)
