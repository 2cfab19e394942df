"""TFLite models: conversion of a bundle's SavedModel, and running them with LiteRT."""

import json
import os
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from supcon_tf.config import RUNTIMES
from supcon_tf.core.errors import UserError

PRECISIONS = RUNTIMES[1:]
SIGNATURE = "classify"
_METADATA = "supcon_tf.json"
# What is left to do for whoever feeds a model; the SavedModel does all of it itself.
_INPUTS = {
    "": "cropped and resized, float32 from 0 to 1: pixels divided by 255",
    "int8": "cropped and resized, uint8 from 0 to 255: pixels as they are, not divided",
}
_MAX_METADATA_BYTES = 2**24
_KEPT = ("name", "version", "class_names", "image_size_px", "preprocessing", "temperature")


def convert(
    bundle: Path,
    precision: str,
    representative: Callable[[], Iterable[np.ndarray]] | None = None,
    *,
    select_ops: bool = False,
) -> bytes:
    """Converts the signature `classify` of a SavedModel.

    Args:
        bundle: folder of the SavedModel.
        precision: one of PRECISIONS: "float32"; "float16", weights in half precision; "dynamic",
            weights in 8 bits; or "int8", everything in 8 bits, with uint8 images and outputs.
        representative: for int8: gives images float32 [1, S, S, 3] in [0, 1] to calibrate it on.
        select_ops: whether TensorFlow's own operators are allowed beside the built-in ones.

    Raises:
        UserError: if an operator is not among those allowed.
    """
    converter = _converter(bundle, precision, representative, select_ops)
    try:
        with warnings.catch_warnings():
            # The converter's own calibration uses the interpreter that it tells others to leave.
            warnings.filterwarnings("ignore", "(?s).*tf.lite.Interpreter is deprecated")
            return converter.convert()
    except Exception as error:  # ConverterError is not public.
        if type(error).__name__ != "ConverterError":
            raise
        raise UserError(
            f"the encoder has operators that TFLite's built-in set lacks ({precision}): "
            f"{_missing_operators(str(error))}. Pass --tflite_select_ops to allow TensorFlow's "
            "own, which need a larger runtime, or choose another encoder."
        ) from error


def _converter(bundle, precision, representative, select_ops):
    converter = tf.lite.TFLiteConverter.from_saved_model(str(bundle), signature_keys=[SIGNATURE])
    ops = tf.lite.OpsSet
    allowed = [ops.TFLITE_BUILTINS_INT8 if precision == "int8" else ops.TFLITE_BUILTINS]
    converter.target_spec.supported_ops = allowed + [ops.SELECT_TF_OPS] * select_ops
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        converter.representative_dataset = lambda: ({"images": image} for image in representative())
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    return converter


def _missing_operators(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip().startswith("tf.")]
    return ", ".join(sorted({line.split("(")[0] for line in lines})) or "not named"


def write(path: Path, model: bytes, metadata: Mapping) -> None:
    """Writes a model with its metadata in a zip archive at its end, as TFLite's associated files.

    Args:
        path: the .tflite file.
        model: the flat buffer.
        metadata: ready for JSON; `class_names` also go into labels.txt.
    """
    path.write_bytes(model)
    contents = {
        _METADATA: json.dumps(metadata, indent=2),
        "labels.txt": "\n".join(metadata["class_names"]) + "\n",
    }
    with zipfile.ZipFile(path, "a") as archive:
        for name, text in contents.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # At a fixed date.


def write_all(
    bundle: Path,
    metadata: Mapping,
    precisions: Iterable[str],
    *,
    select_ops: bool,
    representative: Callable[[], Iterable[np.ndarray]] | None = None,
) -> None:
    """Converts a bundle's SavedModel to `tflite/<precision>.tflite`.

    Args:
        bundle: the folder that is being written; the SavedModel is there.
        metadata: content of its metadata.json, of which each model keeps what describes it.
        precisions: which models.
        select_ops: as in `convert`.
        representative: as in `convert`.

    Raises:
        UserError: as `convert`.
    """
    (bundle / "tflite").mkdir()
    kept = {name: metadata[name] for name in _KEPT}
    for precision in precisions:
        model = convert(bundle, precision, representative, select_ops=select_ops)
        described = {**kept, "precision": precision, "input": _INPUTS.get(precision, _INPUTS[""])}
        write(bundle / f"tflite/{precision}.tflite", model, described)


def read_metadata(path: Path) -> dict:
    """The metadata of a model that `write` wrote.

    Raises:
        UserError: if there is none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(_METADATA).file_size > _MAX_METADATA_BYTES:
                raise ValueError(_METADATA)
            metadata = json.loads(archive.read(_METADATA))
        names, size = metadata["class_names"], metadata["image_size_px"]
        if type(size) is not int or not isinstance(names, list) or not names:
            raise TypeError(_METADATA)
        if not all(isinstance(name, str) for name in names):
            raise TypeError(_METADATA)
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} is no TFLite model of a bundle: it holds no class names. Give a file that "
            "export.py wrote."
        ) from error
    return metadata


class TfliteModel:
    """A TFLite model of a bundle; may be called from several threads, one at a time.

    Args:
        path: the .tflite file.

    Attributes:
        image_size_px: side of the images that it takes.
        num_classes: how many probabilities it gives.

    Raises:
        UserError: if LiteRT cannot run it.
    """

    def __init__(self, path: Path):
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter = Interpreter(model_path=str(path), num_threads=os.cpu_count())
            self._run = self._interpreter.get_signature_runner(SIGNATURE)
            self._inputs = self._run.get_input_details()["images"]
            self._outputs = self._run.get_output_details()
            self._lock = threading.Lock()
            self.image_size_px = int(self._inputs["shape"][1])
            nothing = np.zeros((1, self.image_size_px, self.image_size_px, 3), np.float32)
            self.num_classes = self(nothing)["probabilities"].shape[1]
        except (ValueError, RuntimeError, OSError, KeyError, IndexError) as error:
            raise UserError(f"{path} is damaged, or needs operators LiteRT lacks.") from error

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Float32 `probabilities` [B, C] and `embeddings` [B, F].

        Args:
            images: float32 [B, S, S, 3] in [0, 1].
        """
        if self._inputs["dtype"] == np.uint8:
            images = quantize(images)
        with self._lock:
            found = self._run(images=images)
        return {name: self._dequantized(name, value) for name, value in found.items()}

    def _dequantized(self, name, value):
        if value.dtype != np.uint8:
            return value
        scale, zero_point = self._outputs[name]["quantization"]
        return (value.astype(np.float32) - zero_point) * np.float32(scale)


def quantize(images: np.ndarray) -> np.ndarray:
    """Images in [0, 1] as the uint8 pixels that int8 models take."""
    return np.rint(images * 255).astype(np.uint8)
