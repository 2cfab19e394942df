"""ONNX models: converted from a bundle's SavedModel, and run with ONNX Runtime."""

import hashlib
import importlib.util
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from supcon_tf.core.errors import UserError
from supcon_tf.core.files import parse_json
from supcon_tf.exporting.finite import ANOTHER_FORMAT, check_finite
from supcon_tf.exporting.layout import ONNX
from supcon_tf.exporting.reload_export import run_onnx
from supcon_tf.exporting.tflite import FLOAT_INPUT, SIGNATURE, kept

# The newest that tf2onnx is tested with.
_OPSET = 18
# Of the encoding of protobuf: a wire type, and the number of a field of ModelProto.
_LENGTH_DELIMITED, _METADATA_PROPS = 2, 14
FORMAT = "onnx"


def check_formats(formats: Iterable[str]) -> None:
    """Refuses the format `onnx` if a package that writes or runs it is missing.

    Args:
        formats: names of formats.

    Raises:
        UserError: naming the package.
    """
    if FORMAT in formats:
        _check_installed(f"the format {FORMAT}", "onnx", "onnxruntime", "tf2onnx")


def _check_installed(what: str, *packages: str) -> None:
    """Refuses work on ONNX models if a package is missing.

    Args:
        what: what needs them, for the message.
        *packages: names of modules.

    Raises:
        UserError: naming the first that is missing.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"{what} needs the package {package}, which is not installed. "
                "Run: pip install 'supcon_tf[onnx]'."
            )


def write(bundle: Path, metadata: Mapping) -> None:
    """Converts the signature `classify` of a SavedModel to `model.onnx`.

    The file's own metadata describes the model. Its last entry is the SHA-256 of all that comes
    before it.

    Args:
        bundle: the folder that is being written, with the SavedModel in it.
        metadata: content of its metadata.json; the model keeps the entries that describe it.

    Raises:
        UserError: if tf2onnx cannot convert it.
    """
    import onnx
    import tf2onnx

    loaded = tf.saved_model.load(str(bundle))
    classify = loaded.signatures[SIGNATURE]
    spec = classify.structured_input_signature[1]["images"]
    function = tf.function(
        lambda images: classify(images=images), input_signature=[spec], autograph=False
    )
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    try:
        model, _ = tf2onnx.convert.from_function(function, [spec], opset=_OPSET)
    except Exception as error:  # On an unknown operator it fails in many ways.
        raise UserError(
            f"the encoder cannot be converted to ONNX ({type(error).__name__}: {error}). Leave "
            "onnx out of --formats, or choose another encoder."
        ) from error
    described = {**kept(metadata), "input": FLOAT_INPUT}
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in described.items()
    }
    onnx.helper.set_model_props(model, texts)
    content = model.SerializeToString()
    (bundle / ONNX).write_bytes(content + _digest_entry(content))


def _digest_entry(content: bytes) -> bytes:
    """The bytes that add `model_sha256` to a serialized model's metadata.

    Two serialized protobuf messages, one after the other, are one message with the entries of both.
    Written by hand, so that reading a model does not need the package onnx.
    """
    key, value = b"model_sha256", hashlib.sha256(content).hexdigest().encode()
    entry = b"".join(
        bytes([_LENGTH_DELIMITED | number << 3, len(text)]) + text
        for number, text in ((1, key), (2, value))  # StringStringEntryProto.
    )
    return bytes([_LENGTH_DELIMITED | _METADATA_PROPS << 3, len(entry)]) + entry


class OnnxModel:
    """An ONNX model of a bundle; any thread may call it.

    Args:
        path: the .onnx file, for messages.
        content: its bytes.
        checked: whether they were compared with the sums of its bundle; otherwise they are compared
            with the SHA-256 at their end.

    Attributes:
        class_names: C names.
        multi_label: whether an image may have any number of them.
        image_size_px: side of the images that it takes.

    Raises:
        UserError: if ONNX Runtime is missing or cannot run it, or it is not a bundle's model.
    """

    def __init__(self, path: Path, content: bytes, checked: bool):
        _check_installed(str(path), "onnxruntime")
        import onnxruntime

        length = len(_digest_entry(b""))
        try:
            if not checked and content[-length:] != _digest_entry(content[:-length]):
                raise ValueError("model_sha256")
            self._session = onnxruntime.InferenceSession(content)
            described = self._session.get_modelmeta().custom_metadata_map
            self.class_names = parse_json(described["class_names"].encode())
            self.image_size_px = parse_json(described["image_size_px"].encode())
            self.multi_label = described.get("multi_label") == "true"
            nothing = np.zeros((1, self.image_size_px, self.image_size_px, 3), np.float32)
            if self(nothing)["probabilities"].shape != (1, len(self.class_names)):
                raise ValueError("class_names")
        except Exception as error:  # A file that is not ours fails in many ways.
            raise UserError(
                f"{path} is damaged, or is not an ONNX model of a bundle as this version writes "
                "it. Give a file that supcon-tf export wrote, or leave it in its bundle."
            ) from error

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Float32 `probabilities` [B, C] and `embeddings` [B, F].

        Args:
            images: float32 [B, S, S, 3] in [0, 1].

        Raises:
            NotFiniteError: if it gives NaN or an infinity.
        """
        found = run_onnx(self._session.run, images)
        check_finite(found, ANOTHER_FORMAT)
        return found
