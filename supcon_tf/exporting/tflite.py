"""TFLite models: converted from a bundle's SavedModel, and run with LiteRT."""

import hashlib
import io
import json
import os
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from supcon_tf.config import RUNTIMES
from supcon_tf.core.errors import UserError
from supcon_tf.core.files import parse_json
from supcon_tf.exporting.finite import ANOTHER_FORMAT, check_finite
from supcon_tf.exporting.layout import tflite_file
from supcon_tf.exporting.reload_export import run_tflite

PRECISIONS = RUNTIMES[1:]
SIGNATURE = "classify"
_PREFIX = "tflite_"
_METADATA = "supcon_tf.json"
# The preprocessing left to the caller.
FLOAT_INPUT = "cropped and resized, float32 from 0 to 1: pixels divided by 255"
_INT8_INPUT = "cropped and resized, uint8 from 0 to 255: pixels as they are, not divided"
_MAX_METADATA_BYTES = 2**24
# The entries of a file's own metadata, taken from its bundle's.
_KEPT = (
    "name",
    "version",
    "class_names",
    "multi_label",
    "image_size_px",
    "preprocessing",
    "temperature",
)


def kept(metadata: Mapping) -> dict:
    """The entries of a bundle's metadata that describe a model by itself."""
    return {name: metadata[name] for name in _KEPT if name in metadata}


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
        select_ops: whether TensorFlow's own operators are allowed, beyond the built-in ones.

    Raises:
        UserError: if an operator is not among those allowed.
    """
    converter = _converter(bundle, precision, representative, select_ops)
    try:
        with warnings.catch_warnings():
            # The converter's own calibration uses the interpreter that it tells others not to use.
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


def write_all(
    bundle: Path,
    metadata: Mapping,
    formats: Iterable[str],
    *,
    select_ops: bool,
    representative: Callable[[], Iterable[np.ndarray]] | None = None,
) -> None:
    """Converts a bundle's SavedModel to `tflite/<precision>.tflite`.

    A zip archive at the end of each file, as TFLite's associated files are, describes the model
    and holds the SHA-256 of everything before it.

    Args:
        bundle: the folder that is being written, with the SavedModel in it.
        metadata: content of its metadata.json, of which each model keeps what describes it.
        formats: of `config.FORMATS`; those that are not TFLite models are skipped.
        select_ops: as in `convert`.
        representative: as in `convert`.

    Raises:
        UserError: as `convert`.
    """
    precisions = [name.removeprefix(_PREFIX) for name in formats if name.startswith(_PREFIX)]
    if precisions:
        (bundle / "tflite").mkdir()
    for precision in precisions:
        model = convert(bundle, precision, representative, select_ops=select_ops)
        prepared = _INT8_INPUT if precision == "int8" else FLOAT_INPUT
        described = {**kept(metadata), "precision": precision, "input": prepared}
        described["model_sha256"] = hashlib.sha256(model).hexdigest()
        associated = {
            _METADATA: json.dumps(described, indent=2),
            "labels.txt": "\n".join(metadata["class_names"]) + "\n",
        }
        file = tflite_file(bundle, precision)
        file.write_bytes(model)
        with zipfile.ZipFile(file, "a") as archive:
            for name, text in associated.items():
                archive.writestr(zipfile.ZipInfo(name), text)  # At a fixed date.


def read_metadata(path: Path, content: bytes) -> dict:
    """The metadata of a model that `write_all` wrote.

    Args:
        path: the file, for messages.
        content: its bytes.

    Raises:
        UserError: if there is none.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if archive.getinfo(_METADATA).file_size > _MAX_METADATA_BYTES:
                raise ValueError(_METADATA)
            metadata = parse_json(archive.read(_METADATA))
        names, size = metadata["class_names"], metadata["image_size_px"]
        if type(size) is not int or type(names) is not list or {*map(type, names)} != {str}:
            raise TypeError(_METADATA)
    except Exception as error:  # A broken file fails in many ways inside zipfile.
        raise UserError(
            f"{path} is damaged, or is not a TFLite model of a bundle: it holds no class names. "
            "Give a file that supcon-tf export wrote."
        ) from error
    return metadata


def check_digest(path: Path, content: bytes, metadata: Mapping) -> None:
    """Compares a model that lies outside its bundle with the SHA-256 in its metadata.

    Args:
        path: the file, for messages.
        content: its bytes.
        metadata: as `read_metadata` gives it.

    Raises:
        UserError: if they differ, or there is no SHA-256.
    """
    expected = metadata.get("model_sha256")
    if expected is None:
        raise UserError(
            f"{path} holds no SHA-256 of its model; files of earlier versions have none. Leave it "
            "in its bundle, whose checksums are verified, or export it again."
        )
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        start = min(entry.header_offset for entry in archive.infolist())
    if hashlib.sha256(content[:start]).hexdigest() != expected:
        raise UserError(
            f"{path} is damaged: the SHA-256 of its model does not match. Copy it again, or "
            "export it again."
        )


class TfliteModel:
    """A TFLite model of a bundle; may be called from several threads, one at a time.

    Args:
        path: the .tflite file, for messages.
        content: its bytes; given the path, LiteRT would see later changes.

    Attributes:
        image_size_px: side of the images that it takes.
        num_classes: how many probabilities it gives.

    Raises:
        UserError: if LiteRT cannot run it.
    """

    def __init__(self, path: Path, content: bytes):
        self._lock = threading.Lock()
        try:
            interpreter = Interpreter(model_content=content, num_threads=os.cpu_count())
            self._runner = interpreter.get_signature_runner(SIGNATURE)
            self.image_size_px = int(self._runner.get_input_details()["images"]["shape"][1])
            nothing = np.zeros((1, self.image_size_px, self.image_size_px, 3), np.float32)
            self.num_classes = self(nothing)["probabilities"].shape[1]
        except (ValueError, RuntimeError, OSError, KeyError, IndexError) as error:
            raise UserError(
                f"{path} is damaged, or needs operators that LiteRT lacks. Export it again, or use "
                "another format."
            ) from error

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Float32 `probabilities` [B, C] and `embeddings` [B, F].

        Args:
            images: float32 [B, S, S, 3] in [0, 1].

        Raises:
            NotFiniteError: if it gives NaN or an infinity.
        """
        with self._lock:
            found = run_tflite(self._runner, images)
        check_finite(found, ANOTHER_FORMAT)
        return found
