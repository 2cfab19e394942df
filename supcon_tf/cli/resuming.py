"""Stages that are continued with the settings that they began with."""

from pathlib import Path

from absl import flags

from supcon_tf.config import ClassifierConfig, PretrainConfig, RunConfig
from supcon_tf.core.files import read_json

_STAGES = {PretrainConfig: "pretrain", ClassifierConfig: "classifier"}


def as_begun(config: RunConfig, given: flags.FlagValues) -> RunConfig:
    """The configuration, with the run's own settings where no flag gives a different one.

    Args:
        config: the settings of a stage that is resumed.
        given: the flags.

    Raises:
        UserError: if the run's config.json is damaged.
    """
    file = Path(config.run_dir) / "config.json"
    stages = read_json(file) if file.is_file() else {}
    kept = stages.get(_STAGES[type(config)]) if isinstance(stages, dict) else None
    if not isinstance(kept, dict):
        return config  # The stage has not begun; what is damaged is named when the run is opened.
    names = [name for name in config.to_dict() if name in kept and not given[name].present]
    return config.replace(**{name: kept[name] for name in names})
