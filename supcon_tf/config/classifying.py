"""Settings of the classifier."""

import dataclasses
from typing import ClassVar

from supcon_tf.config.runs import RunConfig
from supcon_tf.config.settings import default_of, setting
from supcon_tf.core.errors import UserError

# The values of settings that are None: with a frozen encoder, and with fine-tuning.
_LINEAR = {"batch_size": 256, "epochs": 100, "learning_rate": 0.5, "weight_decay": 0.0}
_FINE_TUNED = {"batch_size": 64, "epochs": 30, "learning_rate": 0.05, "weight_decay": 1e-4}
_OF_FINE_TUNING = ("encoder_rate_factor", "augmentation", "patience", "strategy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierConfig(RunConfig):
    """Training of a classifier: linear on the frozen encoder of a run, or with the encoder."""

    # The first setting of each group, and the group's title in `--help`.
    SECTIONS: ClassVar[dict[str, str]] = {
        "run_dir": "run",
        "batch_size": "training",
        "label_smoothing": "loss",
        "fine_tune": "fine-tuning: the encoder is trained too",
        "seed": "seed",
    }

    batch_size: int | None = setting(
        None,
        "Images per step (none: 256; when fine-tuning, 64).",
        kind=int,
        at_least=1,
        at_most=2**20,
    )
    epochs: int | None = setting(
        None,
        "Passes over the training split (none: 100; when fine-tuning, 30).",
        kind=int,
        at_least=1,
        at_most=10**6,
    )
    learning_rate: float | None = setting(
        None,
        "Peak learning rate of SGD (none: 0.5; when fine-tuning, 0.05).",
        kind=float,
        above=0,
        at_most=1000,
    )
    momentum: float = setting(0.9, "Momentum of SGD.", at_least=0, below=1)
    weight_decay: float | None = setting(
        None,
        "L2 decay of kernels, per step (none: 0; when fine-tuning, 1e-4).",
        kind=float,
        at_least=0,
        at_most=1,
    )
    warmup_epochs: float | None = setting(
        None,
        "Epochs of linear warm-up (none: 0; when fine-tuning, a tenth of the epochs).",
        kind=float,
        at_least=0,
    )
    label_smoothing: float = setting(
        0.0, "Share of the target that is spread over all classes.", at_least=0, below=1
    )
    class_weights: str | None = setting(
        None,
        "Weights of the classes in the loss (none: 1).",
        kind=str,
        choices=("inverse", "effective"),
    )
    class_weights_beta: float | None = setting(
        None, "Beta of the effective class weights (none: 0.999).", kind=float, at_least=0, below=1
    )
    logit_adjustment: float = setting(
        0.0,
        "Strength (tau) of the logit adjustment for rare classes (0: none).",
        at_least=0,
        at_most=100,
    )
    fine_tune: str = setting(
        "none", "Part of the encoder to train: none, all, or how many of its last stages."
    )
    encoder_rate_factor: float | None = setting(
        None,
        "Factor on the encoder's learning rate (none: 1).",
        kind=float,
        above=0,
        at_most=1000,
    )
    augmentation: str | None = setting(
        None, "How images are augmented (left out: as in pretraining).", kind=str
    )
    patience: int | None = setting(
        None,
        "Stop after this many epochs without a better score on validation images (none: 10).",
        kind=int,
        at_least=1,
    )
    strategy: str = setting(
        "auto",
        "Devices: one, or all of this machine (auto: all of its GPUs).",
        choices=("auto", "one_device", "mirrored"),
    )
    seed: int = setting(0, "Seed of weights, order and augmentation.", at_least=0, below=2**31)

    def __post_init__(self):
        super().__post_init__()
        self._check_fine_tune()
        if self.class_weights_beta is not None and self.class_weights != "effective":
            raise UserError(
                "class_weights_beta is for --class_weights=effective. Received: "
                f"{self.class_weights_beta}. Leave it out."
            )
        meant = _FINE_TUNED if self.is_fine_tuning() else _LINEAR
        for name, value in meant.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.warmup_epochs is None:
            warmup = self.epochs / 10 if self.is_fine_tuning() else 0.0
            object.__setattr__(self, "warmup_epochs", warmup)
        if self.warmup_epochs >= self.epochs:
            raise UserError(
                f"warmup_epochs must be below epochs ({self.epochs}). Received: "
                f"{self.warmup_epochs:g}. Pass a lower --warmup_epochs, or more --epochs."
            )

    def _check_fine_tune(self):
        number = self.fine_tune.isdecimal() and int(self.fine_tune) > 0
        if not number and self.fine_tune not in ("none", "all"):
            raise UserError(
                "fine_tune must be none, all, or a number of stages, at least 1. Received: "
                f"{self.fine_tune!r}."
            )
        if self.is_fine_tuning():
            return
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in _OF_FINE_TUNING and value != default_of(field):
                raise UserError(
                    f"{field.name} is for fine-tuning. Received: {field.name}={value} with "
                    "fine_tune=none. Leave it out, or pass --fine_tune=all."
                )

    def is_fine_tuning(self) -> bool:
        """Whether the encoder, or a part of it, is trained too."""
        return self.fine_tune != "none"
