"""Settings of the demo and of the embedded digits as a folder."""

import dataclasses

from supcon_tf.config.settings import Config, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoConfig(Config):
    """The whole workflow on the embedded digits."""

    output_dir: str = setting("runs/demo", "Where the demo's runs are written.", identity=False)
    saved_models_dir: str = setting("saved_models", "Where the bundle goes.", identity=False)
    epochs: int = setting(80, "Epochs of pretraining.", at_least=1, at_most=10**6)
    seed: int = setting(0, "Seed of every stage.", at_least=0, below=2**31)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WriteDigitsConfig(Config):
    """The embedded digits as a folder of images, to try the folder data set on."""

    output_dir: str = setting("photos", "Folder to write, new or empty.", identity=False)
