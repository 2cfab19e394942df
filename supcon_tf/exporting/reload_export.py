"""An exported bundle, run without this package: TensorFlow, LiteRT and ONNX Runtime alone.

    python -I reload_export.py BUNDLE FORMAT ...

Reads two lines from the standard input, the names of a TFRecord file of encoded images and of the
NPZ file to write, so that it can be started before they exist. Writes, for each format
(`saved_model`, `tflite_<precision>`, `onnx`), the probabilities float32 [N, C] and the median time
for one image in milliseconds. The package may import this file; this file may not import the
package, and in the process above it cannot.
"""

import functools
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
    """An interpreter; TensorFlow's own if the model has operators that LiteRT lacks."""
    try:
        interpreter = Interpreter(model_path=str(path), num_threads=os.cpu_count())
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError):
        warnings.filterwarnings("ignore", "(?s).*tf.lite.Interpreter is deprecated")
        interpreter = tf.lite.Interpreter(model_path=str(path), num_threads=os.cpu_count())
    return interpreter


def run_tflite(run, images):
    """Runs the signature `classify` of a TFLite model, whether in floats or in 8 bits.

    Args:
        run: the signature's runner.
        images: float32 [B, S, S, 3] in [0, 1].

    Returns:
        float32 `probabilities` [B, C] and `embeddings` [B, F].
    """
    if run.get_input_details()["images"]["dtype"] == np.uint8:
        images = np.rint(images * 255).astype(np.uint8)
    found = run(images=images)
    for name, details in run.get_output_details().items():
        if details["dtype"] == np.uint8:
            scale, zero_point = details["quantization"]
            found[name] = (found[name].astype(np.float32) - zero_point) * np.float32(scale)
    return found


def open_models(bundle, formats):
    """By name of each format but the SavedModel, a function of images, as `run_tflite`."""
    models = {}
    for name in formats:
        if name == "onnx":
            import onnxruntime

            run = onnxruntime.InferenceSession(str(bundle / "model.onnx")).run
            models[name] = functools.partial(run_onnx, run)
        elif name != "saved_model":
            path = bundle / "tflite" / f"{name.removeprefix('tflite_')}.tflite"
            runner = open_tflite(path).get_signature_runner("classify")
            models[name] = functools.partial(run_tflite, runner)
    return models


def run_onnx(run, images):
    """As `run_tflite`, for an ONNX model.

    Args:
        run: `run` of its session.
        images: float32 [B, S, S, 3] in [0, 1].
    """
    names = ["probabilities", "embeddings"]
    return dict(zip(names, run(names, {"images": images}), strict=True))


def median_ms(function, argument):
    """Median time of a call, after one that is not counted."""
    seconds = []
    for _ in range(TIMED + 1):
        started = time.perf_counter()
        function(argument)
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[1:])


def main(bundle, *formats):
    """Runs the exports on every image."""
    sys.modules["supcon_tf"] = None  # Importing it now fails.
    records, output = sys.stdin.read().splitlines()
    signatures = tf.saved_model.load(bundle).signatures
    models = open_models(Path(bundle), formats)
    found = {name: [] for name in formats}
    for encoded in tf.data.TFRecordDataset(records).batch(BATCH):
        if "saved_model" in found:
            served = signatures["serving_bytes"](encoded=encoded)["probabilities"].numpy()
            found["saved_model"].append(served)
        images = signatures["preprocess"](encoded=encoded)["images"].numpy()
        for name, model in models.items():
            found[name].append(model(images)["probabilities"])

    def classify(one):
        return signatures["classify"](images=tf.constant(one))["probabilities"].numpy()

    timed = {"saved_model": classify, **models}
    milliseconds = {f"ms/{name}": median_ms(timed[name], images[:1]) for name in found}
    probabilities = {name: np.concatenate(batches) for name, batches in found.items()}
    np.savez(output, **probabilities, **milliseconds)


if __name__ == "__main__":
    main(*sys.argv[1:])
