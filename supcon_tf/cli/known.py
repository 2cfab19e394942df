"""Names of methods, encoders, ..., checked without importing TensorFlow, which takes seconds."""

import ast
from pathlib import Path

from supcon_tf.config.dataset_names import own_data, own_data_advice
from supcon_tf.core.errors import UserError, suggestion
from supcon_tf.data.policies import AUGMENTATIONS, named_augmentation
from supcon_tf.networks.application_names import APPLICATION, application_name

_PACKAGE = Path(__file__).parents[1]
# Files that load TensorFlow, and the dictionary in each whose keys are the names.
_METHODS = ("methods/__init__.py", "METHODS")
_ENCODERS = (
    ("networks/resnet.py", "ENCODERS"),
    ("networks/wide_resnet.py", "WIDE_ENCODERS"),
    ("networks/airbench.py", "AIRBENCH_ENCODERS"),
)
_LONG_TAILED = ("data/tfds.py", "LONG_TAILED")


def names_of(setting: str) -> tuple[str, ...]:
    """The names that a setting takes; empty if there is no fixed list of them."""
    names = {"method": lambda: _keys(*_METHODS), "augmentation": lambda: tuple(AUGMENTATIONS)}
    return names.get(setting, tuple)()


def _keys(file, name):
    """The keys of a dictionary, read from the source of the file."""
    for node in ast.parse((_PACKAGE / file).read_text(encoding="utf-8")).body:
        targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
        if any(isinstance(one, ast.Name) and one.id == name for one in targets):
            return tuple(key.value for key in node.value.keys)
    raise LookupError(f"{name} is not in {file}")


def check_names(config) -> None:
    """Raises `UserError` if a setting of a configuration is not one of its known names."""
    method = getattr(config, "method", None)
    if method is not None:
        _require("method", method, names_of("method"))
    augmentation = getattr(config, "augmentation", None)
    if augmentation is not None and not augmentation.endswith(".keras"):
        named_augmentation(augmentation, getattr(config, "augmentation_args", None))
    encoder = getattr(config, "encoder", "")
    if getattr(config, "dry_run", False):
        return  # The plan names every fault, not only the first.
    if encoder.startswith(APPLICATION):
        application_name(encoder)
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
