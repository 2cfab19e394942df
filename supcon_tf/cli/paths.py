"""Paths that a command needs, looked at before TensorFlow is loaded, which takes seconds."""

from pathlib import Path

from supcon_tf.config import ClassifierConfig, EvaluateConfig, ExportConfig
from supcon_tf.config.dataset_names import own_data
from supcon_tf.config.settings import Config
from supcon_tf.core.errors import UserError


def check_paths(config: Config) -> None:
    """Refuses a path that leads nowhere; the stage itself looks at it more closely.

    Raises:
        UserError: with the message of the stage.
    """
    of_run = isinstance(config, (ClassifierConfig, EvaluateConfig, ExportConfig))
    if of_run and not getattr(config, "model", ""):
        _check(config.run_dir, "run_dir has no pretrained encoder", "Run supcon-tf pretrain first")
    kind, path = own_data(getattr(config, "dataset", "")) or ("", "")
    _check(path, f"{kind} data set not found", "Check the path")
    encoder = getattr(config, "encoder", "")
    if encoder.endswith(".keras"):
        _check(encoder, "encoder not found", "Check the path")
    for name in ("encoder_weights", "initial_run"):
        value = getattr(config, name, "")
        if value != "imagenet":
            _check(value, f"{name} not found", "Check the path")
    advice = "Give the directory of a run that was scored with --corruptions"
    _check(getattr(config, "baseline", ""), "baseline not found", advice)
    for name in ("model", "model_dir"):
        value = getattr(config, name, "")
        if ":" not in value:  # Else it may be a server's address.
            advice = "Give a directory that supcon-tf export wrote, such as saved_models/NAME"
            _check(value, "model not found", advice)


def _check(path, fault, advice):
    if path and not Path(path).exists():
        raise UserError(f"{fault}. Received: {path!r}. {advice}.")
