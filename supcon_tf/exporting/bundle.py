"""Reading bundles: what `export` wrote, checked before it is loaded."""

import base64
import csv
import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from supcon_tf.core.errors import UserError
from supcon_tf.core.files import read_json
from supcon_tf.data.images import InvalidImage, invalid_images, refuse_colour_palette
from supcon_tf.exporting.graphs import check_graph
from supcon_tf.exporting.sums import check_sums
from supcon_tf.exporting.tflite import TfliteModel

THUMBNAILS, INDEX_IMAGES = "index/thumbnails.zip", "index/images.csv"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VERSION = re.compile("[1-9][0-9]{0,9}")
_ONE_PIXEL = base64.b64decode(  # A PNG of one black pixel.
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC"
)
_MAX_THUMBNAIL_BYTES = 2**20


def check_name(name: str) -> str:
    """Returns a model's name.

    Raises:
        UserError: if it is not of letters, digits, dots, dashes and underscores.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f"name must be letters, digits, dots, dashes and underscores. Received: {name!r}. "
            "Pass --name."
        )
    return name


def find_versions(folder: Path) -> list[int]:
    """The versions of a model in `<saved_models>/<name>`, oldest first; links are passed over."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if _VERSION.fullmatch(path.name))
    return sorted(int(path.name) for path in found if path.is_dir() and not path.is_symlink())


def newest_bundle(model: str) -> Path:
    """The version directory to load.

    Args:
        model: a version directory, or `<saved_models>/<name>`, whose newest version is taken.

    Raises:
        UserError: if there is no SavedModel.
    """
    if not model:
        raise UserError("no model given. Pass --model=saved_models/NAME.")
    folder = Path(model)
    if (folder / "saved_model.pb").is_file():
        return folder
    found = [folder / str(version) for version in find_versions(folder)]
    found = [path for path in found if (path / "saved_model.pb").is_file()]
    if not found:
        fault = "holds no exported SavedModel" if folder.exists() else "not found"
        advice = "Give a directory that export.py wrote, such as saved_models/NAME"
        if re.fullmatch(r"[\w.-]+:[0-9]+", model):
            advice = f"For a server give http://{model}"
        raise UserError(f"model {fault}. Received: {model!r}. {advice}.")
    return found[-1]


def _check_described(path: Path, metadata: Any, metrics: Any) -> None:
    """Refuses JSON files that lack what a bundle's are made of."""
    needed = ("name", "version", "class_names", "settings", "training", "preprocessing", "export")
    if (
        not isinstance(metadata, dict)
        or not set(needed) <= set(metadata)
        or not isinstance(metadata.get("added", []), list)
        or not isinstance(metrics, dict)
        or not isinstance(metrics.get("export"), dict)
    ):
        raise UserError(f"bundle {path} is damaged: its JSON files lack parts. Export it again.")


class Bundle:
    """A loaded bundle; nothing of it changes, and any thread may call it.

    Attributes:
        path: version directory.
        name, version: as in its metadata.
        class_names: C names.
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
        _check_described(path, self.metadata, self.metrics)
        self.name, self.version = str(self.metadata["name"]), int(self.metadata["version"])
        names = (path / "labels.txt").read_text("utf-8").removesuffix("\n").split("\n")
        self.class_names = tuple(names)
        self.model = tf.saved_model.load(str(path))
        self._signatures = self.model.signatures
        images = self._signatures["classify"].structured_input_signature[1]["images"]
        self.image_size_px = int(images.shape[1])
        outputs = self._signatures["classify"].structured_outputs
        if outputs["probabilities"].shape[1] != len(names) or self.metadata["class_names"] != names:
            raise UserError(f"bundle {path} is damaged: labels.txt does not fit. Export it again.")
        self.num_neighbors = 0
        if "nearest" in self._signatures:
            found = self._signatures["nearest"].structured_outputs
            self.num_neighbors = int(found["neighbor_ids"].shape[1])
        thumbnails = path / THUMBNAILS
        self._thumbnails = zipfile.ZipFile(thumbnails) if thumbnails.exists() else None
        self._tflite = None
        if runtime != "saved_model":
            self._tflite = TfliteModel(_tflite_file(path, runtime))
            if self._tflite.image_size_px != self.image_size_px:
                raise UserError(
                    f"bundle {path} is damaged: {runtime} takes images of another size."
                )
        self.decode(_ONE_PIXEL)

    def decode(self, encoded: bytes) -> np.ndarray:
        """Decodes and preprocesses an image.

        Args:
            encoded: JPEG, PNG, BMP or GIF.

        Returns:
            float32 [S, S, 3] in [0, 1].

        Raises:
            InvalidImage: if the bytes are no such image.
        """
        refuse_colour_palette(encoded)
        with invalid_images():
            return self.model.preprocess_one(tf.constant(encoded)).numpy()

    def scale(self, pixels: np.ndarray) -> np.ndarray:
        """Preprocesses pixels.

        Args:
            pixels: [H, W, 3], uint8 or float in [0, 255].

        Returns:
            float32 [S, S, 3] in [0, 1].
        """
        images = tf.constant(np.asarray(pixels, np.float32)[None])
        return self._signatures["scale"](images=images)["images"].numpy()[0]

    def classify(self, images: np.ndarray) -> dict[str, Any]:
        """Classifies preprocessed images.

        Args:
            images: float32 [B, S, S, 3] in [0, 1].

        Returns:
            `class_id` int32 [B], `class_name` (B names), `probabilities` float32 [B, C] and
            `embeddings` float32 [B, F], unit norm.
        """
        if self._tflite is not None:
            found = self._tflite(images)
        else:
            found = self._signatures["classify"](images=tf.constant(images))
            found = {name: value.numpy() for name, value in found.items()}
        class_id = found["probabilities"].argmax(axis=1).astype(np.int32)
        names = [self.class_names[index] for index in class_id]
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
        found = self._signatures["nearest"](embeddings=tf.constant(embeddings))
        found = {name: value.numpy() for name, value in found.items()}
        labels = found["neighbor_labels"]
        found["neighbor_class_names"] = [[self.class_names[at] for at in row] for row in labels]
        return found

    def thumbnail(self, row: int) -> bytes | None:
        """The picture of a row of the index, a JPEG; None where there is none."""
        try:
            if self._thumbnails is None:
                return None
            entry = self._thumbnails.getinfo(f"{row}.jpg")
        except KeyError:
            return None
        return self._thumbnails.read(entry) if entry.file_size <= _MAX_THUMBNAIL_BYTES else None

    def index_images(self) -> list[dict[str, str]]:
        """`id` and `class` of each row of the index; empty without one."""
        path = self.path / INDEX_IMAGES
        if not path.exists():
            return []
        text = path.read_text("utf-8", errors="replace")
        return list(csv.DictReader(io.StringIO(text, newline="")))


def _tflite_file(path: Path, precision: str) -> Path:
    file = path / "tflite" / f"{precision}.tflite"
    if not file.is_file():
        there = sorted(found.stem for found in (path / "tflite").glob("*.tflite"))
        raise UserError(
            f"bundle {path} has no {precision} model. Received: runtime={precision!r}. It has "
            f"{', '.join(['saved_model', *there])}."
        )
    return file


def load_bundle(path: Path, runtime: str = "saved_model") -> Bundle:
    """Checks a bundle's sums and its graph, and loads it.

    Args:
        path: version directory.
        runtime: one of `config.RUNTIMES`: what computes `Bundle.classify`.

    Raises:
        UserError: if anything about it is wrong.
    """
    check_sums(path)
    check_graph(path)
    try:
        return Bundle(path, runtime)
    except InvalidImage as error:
        raise UserError(f"bundle {path} is damaged: it cannot decode. Export it again.") from error
    except UserError:
        raise
    except Exception as error:  # A bundle that is not ours fails in many ways inside TensorFlow.
        raise UserError(
            f"bundle {path} cannot be loaded ({type(error).__name__}). Export it again."
        ) from error
