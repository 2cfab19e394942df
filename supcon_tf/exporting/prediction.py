"""Classes of image files, from an exported bundle, a TFLite file or a server.

Here a model is its class names and a function that gives a batch's probabilities; a batch is a
list of (path, content of the file). Batches are read one after the other.
"""

import functools
import glob
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from supcon_tf.config import PredictConfig
from supcon_tf.config.dataset_names import plain_path_advice
from supcon_tf.core.errors import UserError
from supcon_tf.core.files import check_readable
from supcon_tf.core.interrupts import check_interrupts
from supcon_tf.data.folder import ignored_in
from supcon_tf.data.image_files import (
    decodable,
    extensions,
    images_among,
    images_in,
    others_in,
)
from supcon_tf.data.images import InvalidImage, decode_checked, preprocess
from supcon_tf.exporting.bundle import load_bundle
from supcon_tf.exporting.finite import NotFiniteError
from supcon_tf.exporting.layout import SUMS, check_sums, newest_bundle
from supcon_tf.exporting.remote import RemoteModel
from supcon_tf.exporting.tflite import TfliteModel, check_digest, read_metadata

Batch = list[tuple[str, bytes]]
Model = tuple[Sequence[str], Callable[[Batch], np.ndarray]]

# A batch ends early where its files are larger together; in base64 they fit a server's request.
_MAX_BATCH_BYTES = 8_000_000


def predict(config: PredictConfig, images: Sequence[str]) -> Iterator[dict]:
    """Classifies image files. All files are found and the model is loaded before the first result.

    Args:
        config: the settings.
        images: as `find_images` takes them.

    Returns:
        An iterator of `{"image": path, "classes": [name, ...], "probabilities": [float, ...]}`, the
        most probable class first.

    Raises:
        UserError: if the model or a file cannot be read, or the server does not answer.
    """
    paths = find_images(images)
    return _results(_open_model(config.model), paths, config)


def find_images(images: Iterable[str]) -> list[str]:
    """Paths of image files, each file once, in the order given.

    Args:
        images: files; folders, whose images at any depth are taken, but for hidden ones; patterns
            such as `photos/**/*.png`, of whose matches the image files are taken.

    Raises:
        UserError: if one of them does not name an image.
    """
    resolved = functools.lru_cache(os.path.realpath)
    found = {}
    for image in images:
        for path in _image_files(os.fspath(image)):
            # The folder's links are followed, the file's are not: a link is a file of its own.
            found.setdefault((resolved(path.parent), path.name), str(path))
    return list(found.values())


def _image_files(image: str) -> list[Path]:
    path = Path(image)
    if str(path) == "." and not path.name:
        raise UserError("an image's path is empty, or the current folder. Name files or folders.")
    if path.is_dir():
        try:
            found = images_in(path)
        except OSError as error:
            raise UserError(f"cannot read folder {error.filename}: {error.strerror}.") from error
        if not found:
            kinds = ", ".join(extensions())
            fault = f"folder has no image ({kinds}). Received: {path}."
            raise UserError(f"{fault}{others_in(path)}")
        ignored = ignored_in(path, [file.relative_to(path) for file in found])
        if ignored:
            print(f"{path}: {ignored}", file=sys.stderr)
        return found
    if path.is_file():
        return [path]
    if not glob.has_magic(image):
        advice = plain_path_advice(image) or " Check the path."
        raise UserError(f"image not found. Received: {image!r}.{advice}")
    found = _images_among(map(Path, glob.iglob(image, recursive=True)))
    if not found:
        raise UserError(
            f"no image ({', '.join(extensions())}) matches the pattern. Received: {image!r}."
        )
    return found


def _images_among(paths: Iterable[Path]) -> list[Path]:
    return [path for path in images_among(paths) if path.is_file()]


def _results(model: Model, paths, config):
    class_names, classify = model
    for batch in _batches(paths, config.batch_size):
        probabilities = classify(batch)
        check_interrupts()
        # A stable order: of equal ones the first class.
        top = np.argsort(-probabilities, axis=1, kind="stable")[:, : config.top_k]
        for (path, _), row, indices in zip(batch, probabilities, top, strict=True):
            classes = [class_names[index] for index in indices]
            yield {"image": path, "classes": classes, "probabilities": row[indices].tolist()}


def _batches(paths, batch_size) -> Iterator[Batch]:
    batch, size = [], 0
    for path in paths:
        encoded = _read(path)
        if batch and (len(batch) == batch_size or size + len(encoded) > _MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((path, encoded))
        size += len(encoded)
    if batch:
        yield batch


def _read(path: str) -> bytes:
    try:
        return decodable(Path(path).read_bytes(), Path(path))
    except OSError as error:
        raise UserError(f"cannot read image {path}: {error.strerror}.") from error
    except InvalidImage as error:
        raise UserError(f"cannot read image {path}: {error}") from error


def _open_model(model: str) -> Model:
    if re.match("https?://", model):
        remote = RemoteModel(model)
        return remote.class_names, remote
    if model.endswith(".tflite"):
        return _open_tflite(Path(model))
    bundle = load_bundle(newest_bundle(model))
    return bundle.class_names, _local(bundle.decode, bundle.classify)


def _open_tflite(path: Path) -> Model:
    if not path.is_file():
        raise UserError(f"model not found. Received: {str(path)!r}. Check the path.")
    check_readable(path)
    content = path.read_bytes()
    metadata = read_metadata(path, content)
    folder = path.resolve().parent
    if folder.name == "tflite" and (folder.parent / SUMS).exists():
        check_sums(folder.parent)
    else:
        check_digest(path, content, metadata)
    size, names = metadata["image_size_px"], metadata["class_names"]
    model = TfliteModel(path, content)
    if (model.image_size_px, model.num_classes) != (size, len(names)):
        raise UserError(f"{path} is damaged: its metadata does not fit. Export it again.")

    def decode_one(encoded):
        return preprocess(decode_checked(encoded), size).numpy()

    return names, _local(decode_one, model)


def _local(decode_one, classify):
    """Probabilities float [B, C] of a batch, computed here; several images are decoded at once."""

    def decode_named(item):
        path, encoded = item
        try:
            return decode_one(encoded)
        except InvalidImage as error:
            raise UserError(f"cannot read image {path}: {error}") from error

    def probabilities(batch):
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            images = np.stack(list(pool.map(decode_named, batch)))  # [B, S, S, 3]
        try:
            return classify(images)["probabilities"]
        except NotFiniteError as error:
            raise UserError(f"cannot classify {batch[error.rows[0]][0]}: {error}") from error

    return probabilities
