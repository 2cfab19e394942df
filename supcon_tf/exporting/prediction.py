"""Classes of image files, from an exported bundle, a TFLite or ONNX file or a server.

Here a model is its class names, whether an image may have any number of them, and a function from
the files of a batch to their answers: the probabilities of each, or the reason why it has none.
Batches are read one after the other.
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
from supcon_tf.exporting.layout import ONNX, SUMS, check_sums
from supcon_tf.exporting.onnx_model import OnnxModel
from supcon_tf.exporting.remote import RemoteModel
from supcon_tf.exporting.tflite import TfliteModel, check_digest, read_metadata
from supcon_tf.stages.class_scores import THRESHOLD

Answers = list[np.ndarray | str]  # Per image: float32 [C], or a sentence saying why there is none.
Model = tuple[Sequence[str], bool, Callable[[list[bytes]], Answers]]

# A batch ends before its files exceed this in all; in base64 they fit a server's request.
_MAX_BATCH_BYTES = 8_000_000


def predict(config: PredictConfig, images: Sequence[str]) -> Iterator[dict]:
    """Classifies image files. All files are found and the model is loaded before the first result.

    Args:
        config: the settings.
        images: as `find_images` takes them.

    Returns:
        An iterator of `{"image": path, "classes": [name, ...], "probabilities": [float, ...]}`, the
        most probable class first; `{"image": path, "error": reason}` for what cannot be classified,
        such as a file that is missing or not an image. There are `top_k` classes; if images have
        several, all with a probability of 0.5 or more, at least `top_k`, and `"multi_label": True`.

    Raises:
        UserError: if the model cannot be read, the server does not answer, or there is no image.
    """
    found = find_images(images)
    return _results(_open_model(config.model), found, config)


def find_images(images: Iterable[str]) -> dict[str, str]:
    """Image files, each once, in the order given.

    Args:
        images: files; folders, whose images at any depth are taken, except for hidden ones;
            patterns such as `photos/**/*.png`, of which the matching image files are taken.

    Returns:
        A dict: '' for the path of each image; for each name without an image, the reason, a
        sentence.

    Raises:
        UserError: if none of them names an image.
    """
    resolved = functools.lru_cache(os.path.realpath)
    found = {}
    for image in map(os.fspath, images):
        try:
            for path in _image_files(image):
                # Links in the folder's path are followed; a link to a file is a file of its own.
                found.setdefault((resolved(path.parent), path.name), (str(path), ""))
        except UserError as error:
            found.setdefault(image, (image, str(error)))
    reasons = dict(found.values())
    if all(reasons.values()):
        raise UserError(" ".join(f"{image!r}: {reason}" for image, reason in reasons.items()))
    return reasons


def _image_files(image: str) -> list[Path]:
    path = Path(image)
    if str(path) == "." and not path.name:
        raise UserError("the path is empty, or the current folder. Name files or folders.")
    if path.is_dir():
        try:
            found = images_in(path)
        except OSError as error:
            raise UserError(f"cannot read folder {error.filename}: {error.strerror}.") from error
        if not found:
            kinds = ", ".join(extensions())
            raise UserError(f"the folder has no images ({kinds}).{others_in(path)}")
        ignored = ignored_in(path, [file.relative_to(path) for file in found])
        if ignored:
            print(f"{path}: {ignored}", file=sys.stderr)
        return found
    if path.is_file():
        return [path]
    if not glob.has_magic(image):
        raise UserError(f"image not found.{plain_path_advice(image) or ' Check the path.'}")
    found = _images_among(map(Path, glob.iglob(image, recursive=True)))
    if not found:
        raise UserError(f"no image ({', '.join(extensions())}) matches the pattern.")
    return found


def _images_among(paths: Iterable[Path]) -> list[Path]:
    return [path for path in images_among(paths) if path.is_file()]


def _results(model: Model, found, config):
    class_names, multi_label, classify = model
    for batch in _batches(found, config.batch_size):
        readable = [content for _, content in batch if isinstance(content, bytes)]
        answers = iter(classify(readable) if readable else [])
        check_interrupts()
        for path, content in batch:
            answer = next(answers) if isinstance(content, bytes) else content
            if isinstance(answer, str):
                yield {"image": path, "error": answer}
                continue
            # Stable: of equally probable classes the first comes first.
            several = {"multi_label": True} if multi_label else {}
            wanted = max(config.top_k, np.sum(answer >= THRESHOLD)) if several else config.top_k
            top = np.argsort(-answer, kind="stable")[:wanted]
            classes = [class_names[index] for index in top]
            shares = answer[top].tolist()
            yield {"image": path, "classes": classes, "probabilities": shares, **several}


def _batches(found, batch_size) -> Iterator[list[tuple[str, bytes | str]]]:
    """Pairs of a path and the content of the file, or the reason why it cannot be read."""
    batch, size = [], 0
    for path, reason in found.items():
        content = reason or _read(path)
        if batch and (len(batch) == batch_size or size + len(content) > _MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((path, content))
        size += len(content)
    if batch:
        yield batch


def _read(path: str) -> bytes | str:
    try:
        return decodable(Path(path).read_bytes(), Path(path))
    except OSError as error:
        return f"{error.strerror}."
    except InvalidImage as error:
        return str(error)


def _open_model(model: str) -> Model:
    if re.match("https?://", model):
        remote = RemoteModel(model)
        return remote.class_names, remote.multi_label, remote
    if model.endswith(".tflite"):
        return _open_tflite(Path(model))
    if model.endswith(".onnx"):
        return _open_onnx(Path(model))
    bundle = load_bundle(model)
    return bundle.class_names, bundle.multi_label, _local(bundle.decode, bundle.classify)


def _read_model(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"model not found. Received: {str(path)!r}. Check the path.")
    check_readable(path)
    return path.read_bytes()


def _open_onnx(path: Path) -> Model:
    content = _read_model(path)
    folder = path.resolve().parent
    if in_bundle := path.name == ONNX and (folder / SUMS).exists():
        check_sums(folder)
    model = OnnxModel(path, content, checked=in_bundle)
    return model.class_names, model.multi_label, _preprocessing(model.image_size_px, model)


def _open_tflite(path: Path) -> Model:
    content = _read_model(path)
    metadata = read_metadata(path, content)
    folder = path.resolve().parent
    if folder.name == "tflite" and (folder.parent / SUMS).exists():
        check_sums(folder.parent)
    else:
        check_digest(path, content, metadata)
    size, names = metadata["image_size_px"], metadata["class_names"]
    model = TfliteModel(path, content)
    if (model.image_size_px, model.num_classes) != (size, len(names)):
        raise UserError(f"{path} is damaged: its metadata does not match. Export it again.")
    return names, metadata.get("multi_label") is True, _preprocessing(size, model)


def _preprocessing(size: int, classify):
    """As `_local`, for a model that takes images of one size."""

    def decode_one(encoded):
        return preprocess(decode_checked(encoded), size).numpy()

    return _local(decode_one, classify)


def _local(decode_one, classify):
    """A function that computes the answers to a batch here, decoding several images at once."""

    def decode(encoded):
        try:
            return decode_one(encoded)
        except InvalidImage as error:
            return str(error)

    def answers(batch):
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            found = list(pool.map(decode, batch))  # [S, S, 3] each, or a reason.
        sound = [at for at, image in enumerate(found) if not isinstance(image, str)]
        if sound:
            classified = _classify(classify, np.stack([found[at] for at in sound]))
            for at, answer in zip(sound, classified, strict=True):
                found[at] = answer
        return found

    return answers


def _classify(classify, images: np.ndarray) -> Answers:
    """The answers to images [B, S, S, 3]; those for which the model gives NaN are set aside."""
    try:
        return list(classify(images)["probabilities"])
    except NotFiniteError as error:
        answers = [str(error)] * len(images)
        finite = np.setdiff1d(np.arange(len(images)), error.rows)
        if len(finite):
            for at, answer in zip(finite, _classify(classify, images[finite]), strict=True):
                answers[at] = answer
        return answers
