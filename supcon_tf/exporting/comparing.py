"""Comparison of exports with the model they were made of, in a process without this package."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from supcon_tf.core.errors import UserError
from supcon_tf.data.splits import Split
from supcon_tf.exporting.layout import tflite_file
from supcon_tf.exporting.tflite import PRECISIONS
from supcon_tf.stages.scores import top_k_accuracy

_RELOAD = Path(__file__).with_name("reload_export.py")


def compare_exports(
    bundle: Path, split: Split, limit: int, expected: np.ndarray, labels: np.ndarray
) -> dict:
    """Runs a bundle in a fresh process, and compares it with the model it was made of.

    Args:
        bundle: folder of the SavedModel, with tflite/ in it.
        split: images to compare on, as encoded bytes, so that preprocessing is compared too.
        limit: at most so many of them, as `Split.sample` draws them.
        expected: probabilities float [N, C] that the model gives them.
        labels: int [N].

    Returns:
        By export: `top1`, `model_top1`, `max_difference` (of probabilities), `bytes` and `ms`, the
        median time of one image of the size that the encoder takes; and `images` compared.

    Raises:
        RuntimeError: if the process fails.
    """
    outputs = _run_elsewhere(bundle, split, limit)
    files = {"saved_model": [bundle / "saved_model.pb", *(bundle / "variables").iterdir()]}
    for precision in PRECISIONS:
        if f"tflite_{precision}" in outputs:
            files[f"tflite_{precision}"] = [tflite_file(bundle, precision)]
    scores = {
        name: {
            "top1": float(np.mean(outputs[name].argmax(axis=1) == labels)),
            "model_top1": top_k_accuracy(expected, labels, 1),
            "max_difference": float(np.abs(outputs[name] - expected).max()),
            "bytes": sum(path.stat().st_size for path in paths),
            "ms": float(outputs[f"ms/{name}"]),
        }
        for name, paths in files.items()
    }
    return {"images": len(labels), **scores}


def _run_elsewhere(bundle, split, limit):
    with tempfile.TemporaryDirectory() as folder:
        records, found = Path(folder) / "images.tfrecord", Path(folder) / "found.npz"
        with tf.io.TFRecordWriter(str(records)) as writer:
            for encoded, _ in split.sample(limit).as_numpy_iterator():
                writer.write(encoded)
        command = [sys.executable, "-I", str(_RELOAD), str(bundle), str(records), str(found)]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
        finished = subprocess.run(command, env=environment, capture_output=True, text=True)
        if finished.returncode:
            raise RuntimeError(f"the exported bundle could not be run:\n{finished.stderr}")
        with np.load(found) as arrays:
            return dict(arrays)


def check_exports(bundle: Path, scores: dict, max_difference: float, max_loss: float) -> None:
    """Refuses float32 exports that differ, and removes smaller TFLite models that lose too much.

    Args:
        bundle: folder of the SavedModel.
        scores: `compare_exports`'s result; what is removed is marked `left_out`.
        max_difference: largest probability difference of the SavedModel and the float32 model.
        max_loss: largest loss of top-1, as a share, of the other TFLite models.

    Raises:
        UserError: if a float32 export differs by more.
    """
    for name in ("saved_model", "tflite_float32"):
        difference = scores[name]["max_difference"]
        if not difference <= max_difference:  # Also where it is NaN.
            raise UserError(
                f"the reloaded {name} differs from its model by {difference:.2e}, above "
                f"max_difference={max_difference:.0e}; nothing was exported."
            )
    for precision in PRECISIONS[1:]:
        found = scores.get(f"tflite_{precision}")
        loss = found["model_top1"] - found["top1"] if found else 0.0
        if loss <= max_loss:
            continue
        tflite_file(bundle, precision).unlink()
        found["left_out"] = True
        print(
            f"left out the {precision} model: it loses {loss:.3f} of top-1, above max_tflite_loss="
            f"{max_loss}. Train longer, calibrate it on more --representative_images, or allow it.",
            file=sys.stderr,
        )
