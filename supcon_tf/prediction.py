"""Classes of image files, from an exported bundle alone."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import tensorflow as tf

from supcon_tf.config import PredictConfig
from supcon_tf.data.images import EXTENSIONS, is_readable
from supcon_tf.errors import UserError


def find_bundle(model: str) -> Path:
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
    numbered = [path for path in folder.glob("[0-9]*") if re.fullmatch("[0-9]+", path.name)]
    found = [path for path in numbered if (path / "saved_model.pb").is_file()]
    if not found:
        raise UserError(
            f"model holds no exported SavedModel. Received: {model!r}. Give a directory that "
            "export.py wrote, such as saved_models/NAME."
        )
    return max(found, key=lambda path: int(path.name))


def predict(config: PredictConfig, images: Sequence[str]) -> Iterator[dict]:
    """Classifies image files. All files are found and the model is loaded before the first result.

    Args:
        config: the settings.
        images: paths of image files, or of folders, whose images at any depth are taken.

    Returns:
        An iterator of `{"image": path, "classes": [name, ...], "probabilities": [float, ...]}`, the
        most probable class first.

    Raises:
        UserError: if the model or a file cannot be read.
    """
    paths = [path for image in images for path in _image_files(Path(image))]
    bundle = find_bundle(config.model)
    try:
        model = tf.saved_model.load(str(bundle))
        serve = model.signatures["serving_bytes"]
        names = (bundle / "labels.txt").read_text("utf-8").removesuffix("\n").split("\n")
    except Exception as error:  # A damaged bundle fails in many ways inside TensorFlow.
        raise UserError(
            f"model {bundle} is damaged ({type(error).__name__}). Export it again."
        ) from error
    if len(names) != serve.structured_outputs["probabilities"].shape[1]:
        raise UserError(f"model {bundle} is damaged (labels.txt). Export it again.")
    return _results(model, serve, names, paths, config)


def _image_files(path: Path) -> list[Path]:
    if str(path) == "." and not path.name:
        raise UserError("an image's path is empty, or the current folder. Name files or folders.")
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS)
        if not found:
            raise UserError(f"folder has no image ({', '.join(EXTENSIONS)}). Received: {path}.")
        return found
    if not path.is_file():
        raise UserError(f"image not found. Received: {str(path)!r}. Check the path.")
    return [path]


def _results(model, serve, names, paths, config):
    # `model` is an argument so that its variables live as long as this generator does.
    for start in range(0, len(paths), config.batch_size):
        batch = paths[start : start + config.batch_size]
        encoded = tf.constant([_read(path) for path in batch])
        probabilities = serve(encoded=encoded)["probabilities"]
        top = tf.math.top_k(probabilities, min(config.top_k, len(names)))
        for path, indices, values in zip(
            batch, top.indices.numpy(), top.values.numpy(), strict=True
        ):
            classes = [names[index] for index in indices]
            yield {"image": str(path), "classes": classes, "probabilities": values.tolist()}


def _read(path: Path) -> bytes:
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read image {path}: {error.strerror}.") from error
    if not is_readable(encoded):
        raise UserError(f"cannot read image {path}. Remove or replace it.")
    return encoded
