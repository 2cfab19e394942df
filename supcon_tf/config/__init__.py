"""Settings: one frozen dataclass per stage, from which the command-line flags are generated.

One field is one setting: its default, meaning and range are declared together. A configuration
that can be constructed is valid as far as that can be known without reading the data.
"""

from supcon_tf.config.classifying import ClassifierConfig
from supcon_tf.config.comparison import CompareConfig
from supcon_tf.config.deployment import (
    FORMATS,
    OPTIONAL_FORMATS,
    RUNTIMES,
    AddClassConfig,
    ExportConfig,
    PredictConfig,
    ServeConfig,
)
from supcon_tf.config.evaluation import EvaluateConfig
from supcon_tf.config.examples import DemoConfig, WriteDigitsConfig
from supcon_tf.config.runs import RunConfig
from supcon_tf.config.training import PretrainConfig
from supcon_tf.config.view_sheets import ShowViewsConfig

__all__ = [
    "FORMATS",
    "OPTIONAL_FORMATS",
    "RUNTIMES",
    "AddClassConfig",
    "ClassifierConfig",
    "CompareConfig",
    "DemoConfig",
    "EvaluateConfig",
    "ExportConfig",
    "PredictConfig",
    "PretrainConfig",
    "RunConfig",
    "ServeConfig",
    "ShowViewsConfig",
    "WriteDigitsConfig",
]
