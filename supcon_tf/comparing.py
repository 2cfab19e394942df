"""Exports against Keras, in a process that has neither this package nor Keras models."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from supcon_tf.data.datasets import Split
from supcon_tf.evaluation import top_k_accuracy
from supcon_tf.tflite import PRECISIONS

_RELOAD = Path(__file__).with_name("reload_export.py")


def compare_exports(
    bundle: Path, split: Split, limit: int, expected: np.ndarray, labels: np.ndarray
) -> dict:
    """Runs a bundle in a process that cannot import this package, and compares it with Keras.

    Args:
        bundle: folder of the SavedModel, with tflite/ in it.
        split: images to compare on, as encoded bytes, so that preprocessing is compared too.
        limit: at most so many of them, as `Split.sample` draws them.
        expected: probabilities float [N, C] that Keras gives them.
        labels: int [N].

    Returns:
        By export: `top1`, `keras_top1`, `max_difference` (of probabilities), `bytes` and `ms`, the
        median time of one image of the size that the encoder takes; and `images` compared.

    Raises:
        RuntimeError: if the process fails.
    """
    outputs = _run_elsewhere(bundle, split, limit)
    files = {"saved_model": [bundle / "saved_model.pb", *(bundle / "variables").iterdir()]}
    for precision in PRECISIONS:
        path = bundle / "tflite" / f"{precision}.tflite"
        files |= {f"tflite_{precision}": [path]} if path.exists() else {}
    scores = {
        name: {
            "top1": float(np.mean(outputs[name].argmax(axis=1) == labels)),
            "keras_top1": top_k_accuracy(expected, labels, 1),
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
