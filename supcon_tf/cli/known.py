"""Names of methods, encoders, ..., checked without importing TensorFlow, which takes seconds."""

import ast
from pathlib import Path

from supcon_tf.config.dataset_names import own_data, own_data_advice
from supcon_tf.core.errors import UserError, suggestion

_PACKAGE = Path(__file__).parents[1]
# The setting, the file, and the dictionary in it whose keys are the names.
_DICTIONARIES = {
    "method": ("methods/__init__.py", "METHODS"),
    "augmentation": ("data/augment.py", "AUGMENTATIONS"),
}
# The same for settings that take other values too.
_ENCODERS = (("networks/resnet.py", "ENCODERS"), ("networks/wide_resnet.py", "WIDE_ENCODERS"))
_LONG_TAILED = ("data/tfds.py", "LONG_TAILED")


def names_of(setting: str) -> tuple[str, ...]:
    """The names that a setting takes; none where they are no fixed list."""
    return _keys(*_DICTIONARIES[setting]) if setting in _DICTIONARIES else ()


def _keys(file, name):
    """The keys of a dictionary, read from the source of the file."""
    for node in ast.parse((_PACKAGE / file).read_text(encoding="utf-8")).body:
        targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
        if any(isinstance(one, ast.Name) and one.id == name for one in targets):
            return tuple(key.value for key in node.value.keys)
    raise LookupError(f"{name} is not in {file}")


def check_names(config) -> None:
    """Raises `UserError` where a setting of a configuration is not one of its names."""
    for setting in _DICTIONARIES:
        value = getattr(config, setting, None)
        if value is not None:
            _require(setting, value, names_of(setting))
    encoder = getattr(config, "encoder", "")
    if getattr(config, "dry_run", False):
        return  # The plan names every fault, and not the first alone.
    if encoder and ":" not in encoder and not encoder.endswith(".keras"):
        other = ", applications:NAME, keras_hub:PRESET, or the path of a .keras file"
        _require("encoder", encoder, sum((_keys(*place) for place in _ENCODERS), ()), other)
    if getattr(config, "dataset", ""):
        _check_dataset(config.dataset, config.data_dir)


def _require(setting, value, known, other=""):
    if value not in known:
        raise UserError(
            f"{setting} must be one of {', '.join(known)}{other}. Received: {value!r}."
            f"{suggestion(value, known)}"
        )


def _check_dataset(dataset, data_dir):
    own = {"digits", *_keys(*_LONG_TAILED)}
    # A colon separates the name of a community, or a version.
    if own_data(dataset) or ":" in dataset or dataset in own:
        return
    import tensorflow_datasets as tfds  # It does not import TensorFlow.
    from tensorflow_datasets.core.utils import file_utils

    name = dataset.partition("/")[0]
    known = tfds.list_builders(with_community_datasets=False)
    places = map(Path, file_utils.list_data_dirs(data_dir or None))
    if name not in known and not any((place.expanduser() / name).exists() for place in places):
        advice = own_data_advice(dataset) or suggestion(dataset, [*own, *known]).strip()
        raise UserError(
            f"dataset is unknown. Received: {dataset!r}. "
            f"{advice or 'Give digits, cifar10, folder:PATH, ...'}"
        )
