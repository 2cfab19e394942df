"""Export: a bundle that TensorFlow Serving, LiteRT and `serve.py` read without this package.

saved_models/<name>/<version>/
    saved_model.pb, variables/   SavedModel, its preprocessing inside the graph
    tflite/<precision>.tflite    float32, float16, dynamic and int8
    labels.txt                   one class a line
    index/                       the training images that neighbours are found among
    held_out.npz                 features and labels of the held-out images
    metadata.json, metrics.json  what it is, how it was made, how it scores
    MODEL_CARD.md                the same, for people
    SHA256SUMS                   of every file above
"""

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from scipy.special import softmax

from supcon_tf import tflite
from supcon_tf.bundles import check_name, find_versions, write_sums
from supcon_tf.calibration import calibration_scores, fit_temperature
from supcon_tf.cards import model_card
from supcon_tf.comparing import compare_exports
from supcon_tf.config import ExportConfig
from supcon_tf.data.datasets import ImageDataset
from supcon_tf.errors import UserError
from supcon_tf.evaluation import extract_features, inference_function, unit_rows
from supcon_tf.files import read_json, write_json, writing
from supcon_tf.indexing import build_index, write_index_images
from supcon_tf.manifest import manifest
from supcon_tf.reload_export import median_ms
from supcon_tf.runs import RunDirectory
from supcon_tf.servable import Head, Index, of_keras

PREPROCESSING = {
    "decoding": "JPEG (turned upright by its EXIF orientation), PNG, BMP, GIF (first frame); three "
    "channels, grey repeated, alpha dropped, the upper 8 of 16 bits",
    "crop": "the centre square",
    "resize": "bilinear with antialiasing, to image_size_px",
    "scale": "divided by 255",
}


def export(config: ExportConfig) -> dict:
    """Exports a run's classifier, reloads every export in a fresh process and compares it.

    Writes `<saved_models_dir>/<name>/<version>/` in one step, once everything in it has been
    compared with Keras on the held-out split, and adds the scores to the run's metrics.json.

    Args:
        config: the settings.

    Returns:
        `path`; `calibration`, `index` and, for `saved_model` and each `tflite_<precision>`, what
        `compare_exports` gives.

    Raises:
        UserError: if the run has no classifier, the version exists, the encoder has operators that
            TFLite lacks, or a reloaded float32 export differs from Keras by more than
            `config.max_difference`. A smaller TFLite model that loses more than `max_int8_loss` is
            left out, and said so.
    """
    run = RunDirectory(config.run_dir)
    run.pretrain_config()
    target = next_version(config.saved_models_dir, config.name or run.path.resolve().name, config)
    dataset = run.open_dataset()
    model = run.load_model("classifier")
    expected = (dataset.image_size_px, len(dataset.class_names))
    if (model.input_shape[1], model.output["logits"].shape[1]) != expected:
        raise UserError(f"{run.path}/classifier.keras is not of this run. Train it again.")
    with writing(target) as temporary:
        print(f"exporting to {target}", file=sys.stderr)
        temporary.mkdir(parents=True)
        scores = _write_bundle(temporary, target, run, dataset, model, config)
    scores = {"path": str(target), **scores}
    run.record("export", scores)
    return scores


def next_version(saved_models_dir: str, name: str, config) -> Path:
    """Where the new version goes; `config.version` may name it."""
    folder = Path(saved_models_dir) / check_name(name)
    version = config.version or max(find_versions(folder), default=0) + 1
    if (folder / str(version)).exists():
        raise UserError(
            f"{folder / str(version)} exists; a version is never overwritten. Received: version="
            f"{version}. Leave it out, or give another."
        )
    return folder / str(version)


def _write_bundle(bundle, target, run, dataset, model, config):
    encoder = keras.Model(model.input, model.output["features"])
    features = _Features(encoder, model.get_layer("logits"), config.batch_size)
    held_out, labels = features(dataset.test, config.verify_images)
    head = _head(features, dataset)
    index, indexed = _index(features, dataset, config)
    of_keras(encoder, head, index, dataset.class_names).save(bundle)
    if index is not None:
        write_index_images(
            bundle, indexed, dataset.class_names, dataset.image_size_px, config.thumbnails
        )
    metadata = _metadata(run, dataset, config, target, head, index)
    _write_tflite(bundle, dataset, config, metadata)
    logits = features.logits(held_out)
    probabilities = softmax(logits / head.temperature, axis=1)
    compared = compare_exports(bundle, dataset.test, config.verify_images, probabilities, labels)
    check_scores(compared, config.max_difference)
    _leave_out_bad_models(compared, config, bundle)
    scores = {
        "keras_ms": features.milliseconds(),
        "calibration": {
            **calibration_scores(logits, labels, head.temperature),
            "fitted_on": "validation" if dataset.validation else None,
        },
        "index": _index_scores(index, held_out),
        **compared,
    }
    np.savez(bundle / "held_out.npz", features=held_out, labels=labels)
    finish_bundle(bundle, metadata, {**run.metrics(), "export": scores})
    return scores


class _Features:
    """Features of splits on the CPU, whose arithmetic is the same everywhere."""

    def __init__(self, encoder, logits_layer, batch_size):
        self.encoder, self.batch_size = encoder, batch_size
        self._logits, self._encode = logits_layer, inference_function(encoder)

    def __call__(self, split, limit=None, progress=""):
        with tf.device("CPU:0"):
            return extract_features(
                self.encoder,
                split,
                batch_size=self.batch_size,
                limit=limit,
                progress=progress,
                encode=self._encode,
            )

    def logits(self, features):
        with tf.device("CPU:0"):
            return self._logits(features).numpy()

    def weights(self):
        return [np.asarray(weight) for weight in self._logits.weights]

    def milliseconds(self):
        """Median time of one image in Keras."""
        image = np.zeros((1, *self.encoder.input_shape[1:]), np.float32)
        with tf.device("CPU:0"):
            return median_ms(lambda one: self.logits(self._encode(one)), image)


def _head(features: _Features, dataset: ImageDataset) -> Head:
    """The classifier, its temperature fitted on the validation images where there are any."""
    kernel, bias = features.weights()
    temperature = 1.0
    if dataset.validation is not None:
        unseen, labels = features(dataset.validation)
        temperature = fit_temperature(features.logits(unseen), labels)
    return Head(kernel, bias, temperature)


def _index(features: _Features, dataset: ImageDataset, config: ExportConfig):
    """The index and the split that it holds; neither with `index_images=0`."""
    if not config.index_images:
        return None, None
    indexed = dataset.train.spread(config.index_images)
    gallery, labels = features(indexed, progress="index")
    unseen = features(dataset.validation)[0] if dataset.validation is not None else None
    return build_index(gallery, labels, config.neighbors, unseen), indexed


def _index_scores(index: Index | None, held_out: np.ndarray) -> dict | None:
    """Images, and how many held-out ones seem to be of another distribution."""
    if index is None:
        return None
    k = min(index.neighbors, len(index.labels))
    cosines = unit_rows(held_out) @ index.embeddings.T
    distance = 1 - np.partition(cosines, -k, axis=1)[:, -k]
    rank = np.searchsorted(index.distances, distance) / len(index.distances)
    return {
        "images": len(index.labels),
        "held_out_above_0.95": float(np.mean(rank > 0.95)),
    }


def _write_tflite(bundle, dataset, config, metadata):
    """Every precision, calibrated on images spread over the training split."""
    calibration = dataset.train.spread(config.representative_images)

    def representative():
        for images, _ in calibration.images(dataset.image_size_px, 1):
            yield images

    (bundle / "tflite").mkdir()
    for precision in tflite.PRECISIONS:
        model = tflite.convert(
            bundle, precision, representative, select_ops=config.tflite_select_ops
        )
        described = {**tflite_metadata(metadata), "precision": precision}
        tflite.write(bundle / "tflite" / f"{precision}.tflite", model, described)


def tflite_metadata(metadata: dict) -> dict:
    """What a .tflite file says of itself, from its bundle's metadata."""
    kept = ("name", "version", "class_names", "image_size_px", "preprocessing", "temperature")
    return {name: metadata[name] for name in kept}


def check_scores(scores: dict, max_difference: float) -> None:
    """Refuses exports whose probabilities are not those of the model they were made of.

    Args:
        scores: `compare_exports`'s result.
        max_difference: largest difference of the SavedModel and of the float32 TFLite model.

    Raises:
        UserError: if it is exceeded.
    """
    for name in ("saved_model", "tflite_float32"):
        difference = scores[name]["max_difference"]
        if not difference <= max_difference:
            raise UserError(
                f"the reloaded {name} differs from Keras by {difference:.2e}, above max_difference="
                f"{max_difference:.0e}; nothing was exported."
            )


def _leave_out_bad_models(scores: dict, config: ExportConfig, bundle: Path) -> None:
    """Removes a smaller model that loses too much; the rest of the bundle is as good as Keras."""
    for precision in tflite.PRECISIONS[1:]:
        found = scores[f"tflite_{precision}"]
        loss = found["keras_top1"] - found["top1"]
        if loss <= config.max_int8_loss:
            continue
        (bundle / "tflite" / f"{precision}.tflite").unlink()
        found["left_out"] = True
        print(
            f"left out the {precision} model: it loses {loss:.3f} of top-1, above max_int8_loss="
            f"{config.max_int8_loss}. Train longer, calibrate it on more --representative_images, "
            "or allow it.",
            file=sys.stderr,
        )


def _metadata(run, dataset: ImageDataset, config, target, head: Head, index) -> dict:
    return {
        "name": target.parent.name,
        "version": int(target.name),
        "class_names": list(dataset.class_names),
        "image_size_px": dataset.image_size_px,
        "neighbors": min(index.neighbors, len(index.labels)) if index else 0,
        "temperature": head.temperature,
        "preprocessing": PREPROCESSING,
        "settings": {**run.stages(), "export": config.to_dict()},
        "training": read_json(run.path / "manifest.json"),
        "export": manifest(0, dataset.describe()),
    }


def finish_bundle(bundle: Path, metadata: dict, metrics: dict) -> None:
    """Writes what describes a bundle, and the sums over all of it.

    Args:
        bundle: the folder that is being written; the models and the index are there.
        metadata: content of metadata.json.
        metrics: content of metrics.json.
    """
    (bundle / "labels.txt").write_text("\n".join(metadata["class_names"]) + "\n", "utf-8")
    write_json(bundle / "metadata.json", metadata)
    write_json(bundle / "metrics.json", metrics)
    (bundle / "MODEL_CARD.md").write_text(model_card(metadata, metrics), "utf-8")
    write_sums(bundle)
