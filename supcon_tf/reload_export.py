"""Runs an exported bundle as a stranger would: TensorFlow and LiteRT only.

    python -I reload_export.py BUNDLE IMAGES_TFRECORD OUTPUT_NPZ

The TFRecord holds encoded images. Writes the probabilities float32 [N, C] of each export. Importing
the package that made the bundle is an error here.
"""

import sys
from pathlib import Path

sys.modules["supcon_tf"] = None  # Importing it now fails.

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from ai_edge_litert.interpreter import Interpreter  # noqa: E402

BATCH = 64


def run_tflite(path, images):
    """Probabilities float32 [B, C] for images float32 [B, S, S, 3] in [0, 1]."""
    interpreter = Interpreter(model_path=str(path))
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    interpreter.resize_tensor_input(source["index"], images.shape)
    interpreter.allocate_tensors()
    if source["dtype"] == np.uint8:
        images = np.rint(images * 255).astype(np.uint8)
    interpreter.set_tensor(source["index"], images)
    interpreter.invoke()
    outputs = interpreter.get_tensor(target["index"])
    if target["dtype"] == np.uint8:
        scale, zero_point = target["quantization"]
        outputs = (outputs.astype(np.float32) - zero_point) * scale
    return outputs


def main(bundle, records, output):
    """Runs every export on every image."""
    signatures = tf.saved_model.load(bundle).signatures
    found = {}
    for encoded in tf.data.TFRecordDataset(records).batch(BATCH):
        served = signatures["serving_bytes"](encoded=encoded)["probabilities"].numpy()
        found.setdefault("saved_model", []).append(served)
        images = signatures["preprocess"](encoded=encoded)["images"].numpy()
        for path in sorted((Path(bundle) / "tflite").iterdir()):
            found.setdefault(f"tflite_{path.stem}", []).append(run_tflite(path, images))
    np.savez(output, **{name: np.concatenate(batches) for name, batches in found.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
