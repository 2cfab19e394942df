"""Settings of the classifier."""

import dataclasses

from supcon_tf.config.runs import RunConfig
from supcon_tf.config.settings import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierConfig(RunConfig):
    """Training of a linear classifier on the frozen encoder of a run."""

    batch_size: int = setting(256, "Images per step.", at_least=1, at_most=2**20)
    epochs: int = setting(
        100, "Passes over the training split's features.", at_least=1, at_most=10**6
    )
    learning_rate: float = setting(0.5, "Peak learning rate of SGD.", above=0, at_most=1000)
    momentum: float = setting(0.9, "Momentum of SGD.", at_least=0, below=1)
    weight_decay: float = setting(0.0, "L2 decay of the kernel, per step.", at_least=0, at_most=1)
    seed: int = setting(0, "Seed of weights and order.", at_least=0, below=2**31)
