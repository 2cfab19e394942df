"""Export of a run to a bundle that TensorFlow Serving, LiteRT and `supcon-tf serve` can read."""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from supcon_tf.config import ExportConfig
from supcon_tf.core.errors import UserError
from supcon_tf.core.files import read_json, write_json, writing
from supcon_tf.core.interrupts import check_interrupts, noting_interrupts
from supcon_tf.core.provenance import manifest
from supcon_tf.data.datasets import naming_lost_images
from supcon_tf.data.splits import ImageDataset
from supcon_tf.exporting import onnx_model, tflite
from supcon_tf.exporting.calibration import calibration_scores, fit_temperature
from supcon_tf.exporting.card import model_card
from supcon_tf.exporting.comparing import check_exports, compare_exports, start_reload
from supcon_tf.exporting.finite import check_finite
from supcon_tf.exporting.graphs import check_graph
from supcon_tf.exporting.index import build_index, index_scores, write_index_images
from supcon_tf.exporting.layout import (
    HELD_OUT,
    check_name,
    find_versions,
    next_version,
    read_class_names,
    write_sums,
)
from supcon_tf.exporting.reload_export import median_ms
from supcon_tf.exporting.servable import Head, Index, of_keras
from supcon_tf.networks.heads import features_of
from supcon_tf.stages.features import encode_split, inference_function
from supcon_tf.stages.label_scores import class_probabilities, for_calibration
from supcon_tf.stages.run_directory import RunDirectory

PREPROCESSING = {
    "decoding": "JPEG (turned upright by its EXIF orientation), PNG, BMP, GIF (first frame), WebP; "
    "three channels, grey repeated, alpha dropped, the upper 8 of 16 bits",
    "crop": "the centre square",
    "resize": "bilinear with antialiasing, to image_size_px",
    "scale": "divided by 255",
}


@noting_interrupts()
def export(config: ExportConfig) -> dict:
    """Exports a run's classifier, reloads every export in a fresh process and compares it.

    Writes `<saved_models_dir>/<name>/<version>/` in one step, once everything in it has been
    compared with Keras on the held-out split, and adds the scores to the run's metrics.json.

    Args:
        config: the settings.

    Returns:
        `path`; `calibration` (as `calibration_scores`), `index` (as `index_scores`), `keras_ms`,
        and what `compare_exports` gives.

    Raises:
        UserError: if the run has no classifier, the version exists, the encoder has operators that
            TFLite or ONNX lacks, the reloaded SavedModel differs from Keras by more than
            `config.max_difference`, or a package that a format needs is missing. A TFLite or ONNX
            model that cannot be run is left out, and so is one in float32 if it differs by more,
            and a smaller one that loses more than `max_tflite_loss`; this is reported.
    """
    onnx_model.check_formats(config.format_names())
    run = RunDirectory(config.run_dir)
    run.pretrain_config().check_outside_data("saved_models_dir", config.saved_models_dir)
    folder = Path(config.saved_models_dir) / check_name(config.name or run.path.resolve().name)
    target = next_version(folder, config.version)
    dataset = run.open_dataset()
    model = run.load_model("classifier")
    expected = (dataset.image_size_px, len(dataset.class_names))
    if (model.input_shape[1], model.output["logits"].shape[1]) != expected:
        raise UserError(f"{run.path}/classifier.keras does not belong to this run. Train it again.")
    with writing(target) as temporary:
        print(f"exporting to {target}", file=sys.stderr)
        _warn_of_lost_classes(folder, dataset.class_names)
        temporary.mkdir(parents=True)
        reading = naming_lost_images(dataset.train, dataset.test)
        with start_reload(temporary, config.format_names()) as reload, reading:
            scores = _write_bundle(temporary, target, run, dataset, model, config, reload)
    scores = {"path": str(target), **scores}
    run.record("export", scores)
    return scores


def _warn_of_lost_classes(folder, class_names):
    """Says which classes of the newest version, added ones included, a new one will lack."""
    versions = find_versions(folder)
    try:
        names = read_class_names(folder / str(versions[-1])) if versions else []
    except (OSError, UnicodeDecodeError):
        return  # A damaged bundle names none.
    if lost := [repr(name) for name in names if name not in class_names]:
        more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
        print(
            f"the run lacks classes of version {versions[-1]}, which servers will then no longer "
            f"predict: {', '.join(lost[:5])}{more}. Add them again with supcon-tf add-class, or "
            "pass --name for another model.",
            file=sys.stderr,
        )


def _write_bundle(bundle, target, run, dataset, model, config, reload):
    encoder = features_of(model)
    features = _Features(encoder, model.get_layer("logits"), config.batch_size)
    held_out, labels = features(dataset.test, config.verify_images)
    unseen = features(dataset.validation) if dataset.validation is not None else None
    head = _head(features, unseen, dataset.multi_label)
    index = _write_index(bundle, features, dataset, config, unseen)
    of_keras(encoder, head, index, dataset.class_names).save(bundle)
    check_graph(bundle)
    metadata = _metadata(run, dataset, config, target, head, index)
    _write_tflite(bundle, dataset, config, metadata)
    if onnx_model.FORMAT in config.format_names():
        onnx_model.write(bundle, metadata)
    check_interrupts()
    logits = features.logits(held_out)
    expected = class_probabilities(logits / head.temperature, dataset.multi_label)
    compared = compare_exports(
        bundle, config.format_names(), dataset.test, config.verify_images, expected, labels, reload
    )
    check_exports(bundle, compared, config.max_difference, config.max_tflite_loss)
    if compared["failed"]:
        names = ", ".join(compared["failed"])
        print(f"leave {names} out of --formats to save time", file=sys.stderr)
    scores = {
        "keras_ms": features.milliseconds(),
        "calibration": {
            **calibration_scores(*for_calibration(logits, labels), head.temperature),
            "fitted_on": "validation" if dataset.validation else None,
        },
        "index": index_scores(index, held_out) if index is not None else None,
        **compared,
    }
    if (
        index is not None
    ):  # Otherwise no trace of single images; classes can be added only with an index.
        np.savez(bundle / HELD_OUT, features=held_out, labels=labels)
    finish_bundle(bundle, metadata, {**run.metrics(), "export": scores})
    return scores


class _Features:
    """Features of splits on the CPU, whose arithmetic is the same everywhere."""

    def __init__(self, encoder, logits_layer, batch_size):
        self.image_shape, self.batch_size = encoder.input_shape[1:], batch_size
        self._logits, self._encode = logits_layer, inference_function(encoder)

    def __call__(self, split, limit=None, progress=""):
        with tf.device("CPU:0"):
            features, labels = encode_split(
                self._encode,
                self.image_shape[0],
                split,
                batch_size=self.batch_size,
                limit=limit,
                progress=progress,
            )
        check_finite({"features": features})
        return features, labels

    def logits(self, features):
        with tf.device("CPU:0"):
            return self._logits(features).numpy()

    def weights(self):
        return [np.asarray(weight) for weight in self._logits.weights]

    def milliseconds(self):
        """Median time for one image in Keras."""
        image = np.zeros((1, *self.image_shape), np.float32)
        with tf.device("CPU:0"):
            return median_ms(lambda one: self.logits(self._encode(one)), image)


def _head(features: _Features, unseen, multi_label) -> Head:
    """The classifier, its temperature fitted on validation features if there are any."""
    kernel, bias = features.weights()
    temperature = 1.0
    if unseen is not None:
        temperature = fit_temperature(*for_calibration(features.logits(unseen[0]), unseen[1]))
    return Head(kernel, bias, temperature, multi_label=multi_label)


def _write_index(bundle, features: _Features, dataset, config, unseen) -> Index | None:
    """Writes names and thumbnails of the index and returns it; None with `index_images=0`."""
    if not config.index_images:
        return None
    indexed = dataset.train.spread(config.index_images)
    write_index_images(
        bundle, indexed, dataset.class_names, dataset.image_size_px, config.thumbnails
    )
    gallery, labels = features(indexed, progress="index")
    unseen = None if unseen is None else unseen[0]
    return build_index(gallery, labels, config.neighbors, unseen, dataset.class_names)


def _write_tflite(bundle, dataset, config, metadata):
    """Writes the precisions in `formats`, calibrated on images spread over the training split."""
    calibration = dataset.train.spread(config.representative_images)

    def representative():
        for images, _ in calibration.images(dataset.image_size_px, 1):
            yield images

    tflite.write_all(
        bundle,
        metadata,
        config.format_names(),
        select_ops=config.tflite_select_ops,
        representative=representative,
    )


def _metadata(run, dataset: ImageDataset, config, target, head: Head, index) -> dict:
    several = {"multi_label": True} if dataset.multi_label else {}
    if dataset.multi_label and index:
        several["label_sets"] = list(index.names)  # Names of the labels of the index.
    return {
        "name": target.parent.name,
        "version": int(target.name),
        "class_names": list(dataset.class_names),
        **several,
        "image_size_px": dataset.image_size_px,
        "neighbors": index.neighbors if index else 0,
        "temperature": head.temperature,
        "preprocessing": PREPROCESSING,
        "settings": {**run.stages(), "export": config.to_dict()},
        "training": read_json(run.path / "manifest.json"),
        "export": manifest(0, dataset.describe()),
    }


def finish_bundle(bundle: Path, metadata: dict, metrics: dict) -> None:
    """Writes the files that describe a bundle, and the checksums of all its files.

    Args:
        bundle: the folder that is being written, with the models and the index.
        metadata: content of metadata.json.
        metrics: content of metrics.json.
    """
    (bundle / "labels.txt").write_text("\n".join(metadata["class_names"]) + "\n", "utf-8")
    write_json(bundle / "metadata.json", metadata)
    write_json(bundle / "metrics.json", metrics)
    (bundle / "MODEL_CARD.md").write_text(model_card(metadata, metrics), "utf-8")
    write_sums(bundle)
