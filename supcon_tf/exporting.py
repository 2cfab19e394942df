"""Export: a bundle that TensorFlow Serving, LiteRT and `predict.py` read without this package.

saved_models/<name>/<version>/
    saved_model.pb, variables/   SavedModel, its preprocessing inside the graph
    tflite/float32.tflite        images float32 [B, S, S, 3] in [0, 1] -> probabilities
    tflite/int8.tflite           images uint8 [B, S, S, 3] -> probabilities uint8
    labels.txt                   one class a line
    metadata.json, metrics.json  what it is, how it was made, how it scores
"""

import os
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from supcon_tf.config import ExportConfig
from supcon_tf.data.datasets import ImageDataset, Split
from supcon_tf.data.images import decode, preprocess
from supcon_tf.errors import UserError
from supcon_tf.evaluation import inference_function, top_k_accuracy
from supcon_tf.files import read_json, write_json, writing
from supcon_tf.manifest import manifest
from supcon_tf.runs import RunDirectory

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RELOAD = Path(__file__).with_name("reload_export.py")


def versions(folder: Path) -> list[int]:
    """The versions of a model in `<saved_models>/<name>`, oldest first."""
    if not folder.is_dir():
        return []
    numbers = (path.name for path in folder.iterdir() if re.fullmatch("[0-9]+", path.name))
    return sorted(map(int, numbers))


def export(config: ExportConfig) -> dict:
    """Exports a run's classifier, reloads every export in a fresh process and compares it.

    Writes `<saved_models_dir>/<name>/<version>/` in one step, once everything in it has been
    compared with Keras on the held-out split, and adds the scores to the run's metrics.json.

    Args:
        config: the settings.

    Returns:
        `path` and, for `saved_model`, `tflite_float32` and `tflite_int8`: `top1`, `keras_top1`,
        `max_difference` (of probabilities) and `bytes`; `images` compared.

    Raises:
        UserError: if the run has no classifier, the version exists, or a reloaded export differs
            from Keras by more than `config.max_difference`. An int8 model that loses more than
            `max_int8_loss` is left out, and said so.
    """
    run = RunDirectory(config.run_dir)
    run.pretrain_config()
    target = _target(config, run)
    dataset = run.open_dataset()
    model = run.load_model("classifier")
    expected = (dataset.image_size_px, len(dataset.class_names))
    if (model.input_shape[1], model.output["logits"].shape[1]) != expected:
        raise UserError(f"{run.path}/classifier.keras is not of this run. Train it again.")
    with writing(target) as temporary:
        print(f"exporting to {target}", file=sys.stderr)
        temporary.mkdir(parents=True)
        save_saved_model(model, dataset.class_names, temporary)
        save_tflite(temporary, dataset, config.representative_images)
        (temporary / "labels.txt").write_text("\n".join(dataset.class_names) + "\n", "utf-8")
        scores = compare_exports(model, dataset.test, temporary, config)
        _check_scores(scores, config)
        _leave_out_bad_int8(scores, config, temporary)
        write_json(temporary / "metadata.json", _metadata(run, dataset, config, target))
        write_json(temporary / "metrics.json", {**run.metrics(), "export": scores})
    scores = {"path": str(target), **scores}
    run.record("export", scores)
    return scores


def _target(config: ExportConfig, run: RunDirectory) -> Path:
    name = config.name or run.path.resolve().name
    if not _NAME.fullmatch(name):
        raise UserError(
            f"name must be letters, digits, dots, dashes and underscores. Received: {name!r}. "
            "Pass --name."
        )
    folder = Path(config.saved_models_dir) / name
    version = config.version or max(versions(folder), default=0) + 1
    if (folder / str(version)).exists():
        raise UserError(
            f"{folder / str(version)} exists; a version is never overwritten. Received: version="
            f"{version}. Leave it out, or give another."
        )
    return folder / str(version)


def _check_scores(scores: dict, config: ExportConfig) -> None:
    for name in ("saved_model", "tflite_float32"):
        difference = scores[name]["max_difference"]
        if not difference <= config.max_difference:
            raise UserError(
                f"the reloaded {name} differs from Keras by {difference:.2e}, above max_difference="
                f"{config.max_difference:.0e}; nothing was exported."
            )


def _leave_out_bad_int8(scores: dict, config: ExportConfig, bundle: Path) -> None:
    """Removes an int8 model that loses too much; the rest of the bundle is as good as Keras."""
    loss = scores["tflite_int8"]["keras_top1"] - scores["tflite_int8"]["top1"]
    if loss <= config.max_int8_loss:
        return
    (bundle / "tflite" / "int8.tflite").unlink()
    scores["tflite_int8"]["left_out"] = True
    print(
        f"left out the int8 model: it loses {loss:.3f} of top-1, above max_int8_loss="
        f"{config.max_int8_loss}. Train longer, calibrate it on more --representative_images, or "
        "allow it.",
        file=sys.stderr,
    )


def _metadata(run, dataset: ImageDataset, config, target) -> dict:
    return {
        "name": target.parent.name,
        "version": int(target.name),
        "class_names": list(dataset.class_names),
        "image_size_px": dataset.image_size_px,
        "preprocessing": "centre square, resized with smoothing, divided by 255; three channels",
        "settings": {**run.stages(), "export": config.to_dict()},
        "training": read_json(run.path / "manifest.json"),
        "export": manifest(0, dataset.describe()),
    }


def save_saved_model(model: keras.Model, class_names, folder: Path) -> None:
    """Writes the SavedModel.

    Args:
        model: `build_classifier`'s result.
        class_names: C names.
        folder: where to write it.

    The signatures: `serving_default` takes `images` uint8 [B, H, W, 3], `serving_bytes` takes
    `encoded` string [B] (JPEG, PNG, BMP or GIF); both give `class_id` int32 [B], `class_name`
    string [B], `probabilities` float32 [B, C] and `features` float32 [B, F]. `preprocess` takes
    `encoded` and gives `images` float32 [B, S, S, 3] in [0, 1], which `classify` takes and gives
    `probabilities`; the TFLite models are that signature.
    """
    size = model.input_shape[1]
    names = tf.constant(list(class_names))

    def outputs(images):
        found = model(images, training=False)
        probabilities = tf.nn.softmax(found["logits"])
        class_id = tf.argmax(probabilities, axis=1, output_type=tf.int32)
        return {
            "class_id": class_id,
            "class_name": tf.gather(names, class_id),
            "probabilities": probabilities,
            "features": found["features"],
        }

    def decode_all(encoded):
        return tf.map_fn(
            lambda one: preprocess(decode(one), size),
            encoded,
            fn_output_signature=tf.TensorSpec([size, size, 3], tf.float32),
        )

    archive = keras.export.ExportArchive()
    archive.track(model)
    encoded = tf.TensorSpec([None], tf.string, name="encoded")
    archive.add_endpoint(
        "serving_default",
        lambda images: outputs(preprocess(images, size)),
        [tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")],
    )
    archive.add_endpoint("serving_bytes", lambda encoded: outputs(decode_all(encoded)), [encoded])
    archive.add_endpoint(
        "classify",
        lambda images: {"probabilities": tf.nn.softmax(model(images, training=False)["logits"])},
        [tf.TensorSpec([None, size, size, 3], tf.float32, name="images")],
    )
    archive.add_endpoint("preprocess", lambda encoded: {"images": decode_all(encoded)}, [encoded])
    archive.write_out(str(folder), verbose=False)


def save_tflite(bundle: Path, dataset: ImageDataset, representative_images: int) -> None:
    """Converts a bundle's SavedModel to tflite/float32.tflite and tflite/int8.tflite.

    Args:
        bundle: folder that `save_saved_model` has written.
        dataset: its training split calibrates the int8 model.
        representative_images: how many images calibrate it.
    """

    def converter():
        return tf.lite.TFLiteConverter.from_saved_model(str(bundle), signature_keys=["classify"])

    def representative():
        for image, _ in dataset.train.images(dataset.image_size_px, 1, representative_images):
            yield {"images": image}

    folder = bundle / "tflite"
    folder.mkdir()
    (folder / "float32.tflite").write_bytes(converter().convert())
    quantized = converter()
    quantized.optimizations = [tf.lite.Optimize.DEFAULT]
    quantized.representative_dataset = representative
    quantized.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    quantized.inference_input_type = quantized.inference_output_type = tf.uint8
    with warnings.catch_warnings():
        # The converter's own calibration uses the interpreter that it tells others to leave.
        warnings.filterwarnings("ignore", "(?s).*tf.lite.Interpreter is deprecated", UserWarning)
        (folder / "int8.tflite").write_bytes(quantized.convert())


def compare_exports(model: keras.Model, split: Split, bundle: Path, config: ExportConfig) -> dict:
    """Runs a bundle in a process that cannot import this package, and compares it with Keras.

    Args:
        model: `build_classifier`'s result.
        split: images to compare on, as encoded bytes, so that preprocessing is compared too.
        bundle: folder of the SavedModel, with tflite/ in it.
        config: `verify_images` and `batch_size`.

    Returns:
        Scores by export, and `images`, as `export` returns them.

    Raises:
        RuntimeError: if the process fails.
    """
    expected, labels = _keras_probabilities(model, split, config)
    with tempfile.TemporaryDirectory() as folder:
        records, found = Path(folder) / "images.tfrecord", Path(folder) / "found.npz"
        with tf.io.TFRecordWriter(str(records)) as writer:
            for encoded, _ in split.sample(config.verify_images).as_numpy_iterator():
                writer.write(encoded)
        command = [sys.executable, "-I", str(_RELOAD), str(bundle), str(records), str(found)]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
        finished = subprocess.run(command, env=environment, capture_output=True, text=True)
        if finished.returncode:
            raise RuntimeError(f"the exported bundle could not be run:\n{finished.stderr}")
        with np.load(found) as arrays:
            outputs = dict(arrays)
    files = {
        "saved_model": [bundle / "saved_model.pb", *(bundle / "variables").iterdir()],
        **{f"tflite_{path.stem}": [path] for path in (bundle / "tflite").iterdir()},
    }
    scores = {
        name: {
            "top1": float(np.mean(outputs[name].argmax(axis=1) == labels)),
            "keras_top1": top_k_accuracy(expected, labels, 1),
            "max_difference": float(np.abs(outputs[name] - expected).max()),
            "bytes": sum(path.stat().st_size for path in paths),
        }
        for name, paths in sorted(files.items())
    }
    return {"images": len(labels), **scores}


def _keras_probabilities(model, split, config):
    batches = split.images(model.input_shape[1], config.batch_size, config.verify_images)
    run = inference_function(model)
    # The exports are compared on the CPU, whose arithmetic is the same everywhere.
    with tf.device("CPU:0"):
        found = [
            (tf.nn.softmax(run(images)["logits"]).numpy(), labels.numpy())
            for images, labels in batches
        ]
    probabilities, labels = zip(*found, strict=True)
    return np.concatenate(probabilities), np.concatenate(labels)
