"""Bundles that `export` wrote: checked, loaded, ready to classify images."""

import csv
import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from supcon_tf.config import ExportConfig
from supcon_tf.core.errors import UserError
from supcon_tf.core.files import read_json
from supcon_tf.data.images import InvalidImage, invalid_images, refuse_unsupported
from supcon_tf.exporting.card import model_card
from supcon_tf.exporting.finite import ANOTHER_FORMAT, check_finite
from supcon_tf.exporting.graphs import check_graph
from supcon_tf.exporting.layout import (
    INDEX_IMAGES,
    THUMBNAILS,
    check_sums,
    newest_bundle,
    read_class_names,
    tflite_file,
)
from supcon_tf.exporting.tflite import TfliteModel
from supcon_tf.stages.label_scores import class_texts

_NEEDED = {"name", "version", "class_names", "settings", "training", "preprocessing", "export"}
_MAX_THUMBNAIL_BYTES, _MAX_SYMBOL_PX = 2**20, 32


def load_bundle(path: str | Path, runtime: str = "saved_model") -> "Bundle":
    """Checks a bundle's checksums and its graph, and loads it.

    Args:
        path: `saved_models/NAME`, whose newest version is taken, or one of its versions.
        runtime: one of `config.RUNTIMES`: what computes `Bundle.classify`.

    Raises:
        UserError: if anything about it is wrong.
    """
    path = newest_bundle(path)
    check_sums(path)
    check_graph(path)
    try:
        return Bundle(path, runtime)
    except InvalidImage as error:
        fault = f"bundle {path} is damaged: it cannot decode images. Export it again."
        raise UserError(fault) from error
    except UserError:
        raise
    except Exception as error:  # A bundle that is not ours fails in many ways inside TensorFlow.
        raise UserError(
            f"bundle {path} cannot be loaded ({type(error).__name__}). Export it again."
        ) from error


def _has_all_parts(metadata: Any, metrics: Any) -> bool:
    """Whether JSON content has all the parts of a bundle's files."""
    described = isinstance(metadata, dict) and set(metadata) >= _NEEDED
    described = described and isinstance(metadata.get("added", []), list)
    return described and isinstance(metrics, dict) and isinstance(metrics.get("export"), dict)


class Bundle:
    """A loaded bundle; it never changes, and any thread may call it.

    Attributes:
        path: version directory.
        name, version: as in its metadata.
        class_names: C names.
        multi_label: whether an image may have any number of classes.
        image_size_px: side S of the images that the encoder takes.
        num_neighbors: k of `nearest`; 0 without an index.
        metadata, metrics: content of the JSON files.
        runtime: what computes `classify`.
        model: the loaded SavedModel.
    """

    def __init__(self, path: Path, runtime: str):
        self.path, self.runtime = path, runtime
        self.metadata = read_json(path / "metadata.json")
        self.metrics = read_json(path / "metrics.json")
        if not _has_all_parts(self.metadata, self.metrics):
            raise self._damaged("its JSON files lack parts")
        self.name, self.version = str(self.metadata["name"]), int(self.metadata["version"])
        self.model = tf.saved_model.load(str(path))
        self._signatures = self.model.signatures
        images = self._signatures["classify"].structured_input_signature[1]["images"]
        self.image_size_px = int(images.shape[1])
        self.class_names = self._read_class_names()
        self.multi_label = self.metadata.get("multi_label") is True
        self._index_names = self.metadata.get("label_sets") or self.class_names
        self.num_neighbors = 0
        if "nearest" in self._signatures:
            found = self._signatures["nearest"].structured_outputs
            self.num_neighbors = int(found["neighbor_ids"].shape[1])
        has_thumbnails = (path / THUMBNAILS).exists()
        self._thumbnails = zipfile.ZipFile(path / THUMBNAILS) if has_thumbnails else None
        self._tflite = None if runtime == "saved_model" else self._open_tflite()
        self.decode(tf.io.encode_png(np.zeros((1, 1, 3), np.uint8)).numpy())  # Raises if it cannot.

    @property
    def of_symbols(self) -> bool:
        """Whether it was trained on small symbols such as digits, which people can draw.

        Judged by the size of the images, and by the augmentation, which for symbols mirrors and
        recolours nothing.
        """
        augmentation = self.metadata["settings"].get("pretrain", {}).get("augmentation", "")
        return "symbols" in augmentation and self.image_size_px <= _MAX_SYMBOL_PX

    def _damaged(self, fault: str) -> UserError:
        return UserError(f"bundle {self.path} is damaged: {fault}. Export it again.")

    def _read_class_names(self) -> tuple[str, ...]:
        names = read_class_names(self.path)
        outputs = self._signatures["classify"].structured_outputs
        if outputs["probabilities"].shape[1] != len(names) or self.metadata["class_names"] != names:
            raise self._damaged("labels.txt does not match")
        return tuple(names)

    def _open_tflite(self) -> TfliteModel:
        file = tflite_file(self.path, self.runtime)
        if not file.is_file():
            there = sorted(found.stem for found in file.parent.glob("*.tflite"))
            raise UserError(
                f"bundle {self.path} has no {self.runtime} model. Received: runtime="
                f"{self.runtime!r}. It has {', '.join(['saved_model', *there])}."
            )
        model = TfliteModel(file, file.read_bytes())
        if model.image_size_px != self.image_size_px:
            raise self._damaged(f"{self.runtime} takes images of a different size")
        return model

    def export_settings(self) -> ExportConfig:
        """The settings of its export.

        Raises:
            UserError: if its JSON files lack anything that a model card says.
        """
        try:
            model_card(self.metadata, self.metrics)
            return ExportConfig.from_dict(self.metadata["settings"]["export"])
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            fault = f"its JSON files lack parts ({type(error).__name__}: {error})"
            raise self._damaged(fault) from error

    def _call(self, signature: str, **inputs: np.ndarray) -> dict[str, Any]:
        """NumPy arrays that a signature of the SavedModel gives."""
        inputs = {name: tf.constant(value) for name, value in inputs.items()}
        found = {name: out.numpy() for name, out in self._signatures[signature](**inputs).items()}
        check_finite(found, ANOTHER_FORMAT)
        return found

    def decode(self, encoded: bytes) -> np.ndarray:
        """Decodes and preprocesses an image.

        Args:
            encoded: JPEG, PNG, BMP, GIF or WebP.

        Returns:
            float32 [S, S, 3] in [0, 1].

        Raises:
            InvalidImage: if the bytes are no such image.
        """
        refuse_unsupported(encoded)
        with invalid_images():
            return self.model.preprocess_one(tf.constant(encoded)).numpy()

    def scale(self, pixels: np.ndarray) -> np.ndarray:
        """Preprocesses pixels.

        Args:
            pixels: [H, W, 3], uint8 or float in [0, 255].

        Returns:
            float32 [S, S, 3] in [0, 1].
        """
        return self._call("scale", images=np.asarray(pixels, np.float32)[None])["images"][0]

    def classify(self, images: np.ndarray) -> dict[str, Any]:
        """Classifies preprocessed images.

        Args:
            images: float32 [B, S, S, 3] in [0, 1].

        Returns:
            `class_id` int32 [B], `class_name` (B names), as in `servable.Servable.outputs`,
            `probabilities` float32 [B, C] and `embeddings` float32 [B, F], unit norm.

        Raises:
            NotFiniteError: if the model gives NaN or an infinity for some of them.
        """
        found = self._tflite(images) if self._tflite else self._call("classify", images=images)
        class_id = found["probabilities"].argmax(axis=1).astype(np.int32)
        names = class_texts(found["probabilities"], self.class_names, self.multi_label)
        return {"class_id": class_id, "class_name": names, **found}

    def nearest(self, embeddings: np.ndarray) -> dict[str, Any]:
        """The nearest images of the index, as `servable.Servable.nearest` gives them.

        Args:
            embeddings: float32 [B, F], unit norm.

        Returns:
            NumPy arrays; `neighbor_class_names` are lists of k names.

        Raises:
            UserError: if the bundle has no index.
        """
        if not self.num_neighbors:
            raise UserError(f"model {self.name} has no index of neighbours.")
        found = self._call("nearest", embeddings=embeddings)
        labels = found["neighbor_labels"]
        found["neighbor_class_names"] = [[self._index_names[at] for at in row] for row in labels]
        return found

    def thumbnail(self, row: int) -> bytes | None:
        """The picture of a row of the index, a JPEG; None if there is none.

        Pictures are read from the disk when they are requested. One whose bytes have changed since
        the bundle was loaded counts as missing.
        """
        if self._thumbnails is None:
            return None
        try:
            entry = self._thumbnails.getinfo(f"{row}.jpg")
            return self._thumbnails.read(entry) if entry.file_size <= _MAX_THUMBNAIL_BYTES else None
        except (KeyError, zipfile.BadZipFile, zlib.error, EOFError, OSError):
            return None

    def index_images(self) -> list[dict[str, str]]:
        """`id` and `class` of each row of the index; empty without one."""
        path = self.path / INDEX_IMAGES
        if not path.exists():
            return []
        text = path.read_text("utf-8", errors="replace")
        return list(csv.DictReader(io.StringIO(text, newline="")))
