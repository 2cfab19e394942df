"""Paths that a command needs, checked before TensorFlow is loaded, which takes seconds."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from supcon_tf.config import (
    AddClassConfig,
    ClassifierConfig,
    EvaluateConfig,
    ExportConfig,
    PredictConfig,
    WriteDigitsConfig,
)
from supcon_tf.config.dataset_names import own_data, plain_path_advice
from supcon_tf.config.settings import Config
from supcon_tf.core.errors import UserError
from supcon_tf.core.files import new_folder
from supcon_tf.exporting.layout import newest_bundle


def check_paths(config: Config) -> None:
    """Refuses a path that leads nowhere; the stage itself looks at it more closely.

    Raises:
        UserError: with the message of the stage.
    """
    advice = "Give the directory of a run that was scored with --corruptions"
    _check(getattr(config, "baseline", ""), "baseline not found", advice)
    model = getattr(config, "model", "")
    if isinstance(config, (PredictConfig, AddClassConfig)) or model:
        _check_model(model, has_files=isinstance(config, PredictConfig))
    elif isinstance(config, (ClassifierConfig, EvaluateConfig, ExportConfig)):
        advice = "Run supcon-tf pretrain first"
        _check(config.run_dir, "run_dir has no pretrained encoder", advice, holding="config.json")
    kind, path = own_data(getattr(config, "dataset", "")) or ("", "")
    _check(path, f"{kind} data set not found", "Check the path")
    for name in ("encoder", "augmentation"):
        value = getattr(config, name, None) or ""
        if value.endswith(".keras"):
            _check(value, f"{name} not found", "Check the path")
    for name in ("encoder_weights", "initial_run", "space"):
        value = getattr(config, name, "")
        if value != "imagenet":
            _check(value, f"{name} not found", "Check the path")
    advice = "Give a directory that supcon-tf export wrote, such as saved_models/NAME"
    _check(getattr(config, "model_dir", ""), "model not found", advice)
    if isinstance(config, WriteDigitsConfig):
        new_folder(config.output_dir)
    if isinstance(config, AddClassConfig):
        _check(config.images, "images not found", "Give a folder with a subfolder per new class")


def check_images(images: Sequence[str]) -> None:
    """Refuses the arguments of `supcon-tf predict` if there are none, or none of them exists.

    Raises:
        UserError: that says so.
    """
    if not images:
        raise UserError("no image given. Give image files or folders after the flags.")
    if not any(image and (glob.has_magic(image) or Path(image).exists()) for image in images):
        raise UserError(" ".join(f"{image!r}: {_missing(image)}" for image in images))


def _missing(image):
    if not image:
        return "the path is empty. Name files or folders."
    return f"image not found.{plain_path_advice(image) or ' Check the path.'}"


def _check_model(model, has_files):
    if has_files and re.match("https?://", model):
        return
    if has_files and model.endswith((".tflite", ".onnx")):
        _check(model, "model not found", "Check the path")
    else:
        newest_bundle(model)


def _check(path, fault, advice, holding=""):
    if path and not (Path(path) / holding).exists():
        raise UserError(f"{fault}. Received: {path!r}. {advice}.")
