"""Runs an exported bundle as a stranger would: TensorFlow and LiteRT only.

    python -I reload_export.py BUNDLE IMAGES_TFRECORD OUTPUT_NPZ

The TFRecord holds encoded images. Writes, for the SavedModel and each TFLite model, the
probabilities float32 [N, C] and the median time for one image in milliseconds. Importing the
package that made the bundle is an error here.
"""

import os
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

BATCH, TIMED = 64, 50


def open_tflite(path):
    """An interpreter; TensorFlow's own where the model has operators that LiteRT lacks."""
    try:
        interpreter = Interpreter(model_path=str(path), num_threads=os.cpu_count())
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError):
        warnings.filterwarnings("ignore", "(?s).*tf.lite.Interpreter is deprecated")
        interpreter = tf.lite.Interpreter(model_path=str(path), num_threads=os.cpu_count())
    return interpreter


def run_tflite(interpreter, images):
    """Probabilities float32 [B, C] for images float32 [B, S, S, 3] in [0, 1]."""
    run = interpreter.get_signature_runner("classify")
    if run.get_input_details()["images"]["dtype"] == np.uint8:
        images = np.rint(images * 255).astype(np.uint8)
    outputs = run(images=images)["probabilities"]
    if outputs.dtype == np.uint8:
        scale, zero_point = run.get_output_details()["probabilities"]["quantization"]
        outputs = (outputs.astype(np.float32) - zero_point) * scale
    return outputs


def median_ms(function, argument):
    """Median time of a call, after one that is not counted."""
    seconds = []
    for _ in range(TIMED + 1):
        started = time.perf_counter()
        function(argument)
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[1:])


def main(bundle, records, output):
    """Runs every export on every image."""
    sys.modules["supcon_tf"] = None  # Importing it now fails.
    signatures = tf.saved_model.load(bundle).signatures
    models = {
        f"tflite_{path.stem}": open_tflite(path)
        for path in sorted((Path(bundle) / "tflite").iterdir())
    }
    found = {}
    for encoded in tf.data.TFRecordDataset(records).batch(BATCH):
        served = signatures["serving_bytes"](encoded=encoded)["probabilities"].numpy()
        found.setdefault("saved_model", []).append(served)
        images = signatures["preprocess"](encoded=encoded)["images"].numpy()
        for name, model in models.items():
            found.setdefault(name, []).append(run_tflite(model, images))
    found = {name: np.concatenate(batches) for name, batches in found.items()}

    def classify(one):
        return signatures["classify"](images=tf.constant(one))["probabilities"].numpy()

    found["ms/saved_model"] = median_ms(classify, images[:1])
    for name, model in models.items():
        found[f"ms/{name}"] = median_ms(lambda one, model=model: run_tflite(model, one), images[:1])
    np.savez(output, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
