"""Settings of pretraining."""

import dataclasses
from typing import ClassVar

from supcon_tf.config.dataset_names import (
    absolute,
    absolute_dataset,
    is_table,
    refuse_in_folder,
)
from supcon_tf.config.runs import RunConfig
from supcon_tf.config.settings import setting
from supcon_tf.config.together import check_together
from supcon_tf.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig(RunConfig):
    """Training of an encoder: contrastive, or with cross entropy as the baseline."""

    # The first setting of each group, and the group's title in `--help`.
    SECTIONS: ClassVar[dict[str, str]] = {
        "run_dir": "run",
        "dataset": "data",
        "encoder": "model",
        "method": "method and views",
        "batch_size": "optimization and schedule",
        "ema_momentum": "averages, queue and memory",
        "precision": "arithmetic",
        "checkpoint_steps": "saving",
        "seed": "seed and devices",
    }

    dataset: str = setting(
        "digits",
        "TensorFlow Datasets name, folder:PATH, csv:FILE or jsonl:FILE (several labels: cat|dog).",
        any_bytes=True,
    )
    data_dir: str = setting("", "Where TensorFlow Datasets keeps data ('': its own default).")
    imbalance_factor: float | None = setting(
        None,
        "cifar10_lt, cifar100_lt: largest class divided by smallest (none: 100).",
        kind=float,
        at_least=1,
        at_most=10**4,
    )
    holdout_fraction: float | None = setting(
        None,
        "Share of each class of a folder or table to hold out (none: 0.2).",
        kind=float,
        at_least=0.001,
        at_most=0.999,
    )
    holdout_by: str = setting(
        "image",
        "Unit that is held out or set aside.",
        choices=("image", "folder"),
    )
    skip_bad_images: bool = setting(False, "Leave out unreadable images, and count them.")
    validation_fraction: float = setting(
        0.0, "Share of the training images to set aside for validation.", at_least=0, below=1
    )
    validation_epochs: int = setting(1, "Epochs between two online k-NN scores.", at_least=1)
    labels_per_class: int | None = setting(
        None,
        "Training images of each class whose labels are used (none: all).",
        kind=int,
        at_least=1,
    )
    labelled_fraction: float | None = setting(
        None,
        "Share of each class whose labels are used (none: all).",
        kind=float,
        above=0,
        at_most=1,
    )
    train_images: int | None = setting(
        None,
        "Use this many training images, each class in proportion (none: all).",
        kind=int,
        at_least=2,
    )
    data_seed: int | None = setting(
        None, "Seed of the splits and subsets (none: seed).", kind=int, at_least=0, below=2**31
    )
    image_size_px: int | None = setting(
        None,
        "Side of the square image (none: the data set's, or 64).",
        kind=int,
        at_least=1,
        at_most=4096,
    )
    encoder: str = setting(
        "resnet8",
        "resnet8, airbench94, wide_resnet28_2, ...; applications:NAME, keras_hub:PRESET; a file.",
    )
    encoder_weights: str = setting(
        "", "Initial weights of the encoder: a file, or imagenet ('': random)."
    )
    initial_run: str = setting("", "Finished run whose encoder is the starting point ('': none).")
    width_multiplier: float = setting(
        1.0, "Factor on the encoder's channels.", at_least=0.01, at_most=16
    )
    method: str = setting("supcon_out", "Training method.")
    temperature: float | None = setting(
        None,
        "Temperature of the loss (none: the method's default).",
        kind=float,
        at_least=1e-3,
        at_most=1e4,
    )
    method_args: dict = setting({}, "Further arguments of the method, as name=value,name=value.")
    embedding_dim: int | None = setting(
        None, "Outputs of the projection head (none: 128).", kind=int, at_least=1, at_most=65536
    )
    projection_hidden_dim: int | None = setting(
        None,
        "Hidden units of the projection head (0: linear; none: 128).",
        kind=int,
        at_least=0,
        at_most=65536,
    )
    augmentation: str = setting("symbols", "How views are made, or a .keras file of a model.")
    augmentation_args: dict = setting(
        {}, "Changes to the augmentation, as name=value,name=value: strength=0.5."
    )
    num_views: int = setting(2, "Augmented views of each image.", at_least=1, at_most=64)
    small_views: int = setting(
        0, "Further views of small parts of each image (multi-crop).", at_least=0, at_most=64
    )
    small_view_size_px: int | None = setting(
        None, "Side of a small view (none: half of the image's).", kind=int, at_least=1
    )
    batch_size: int = setting(256, "Images per step, over all replicas.", at_least=2, at_most=2**20)
    classes_per_batch: int | None = setting(
        None,
        "Classes in each class-balanced batch (none: not balanced).",
        kind=int,
        at_least=1,
    )
    images_per_class: int | None = setting(
        None, "Images of each class in a class-balanced batch.", kind=int, at_least=1
    )
    epochs: int = setting(80, "Passes over the training split.", at_least=1, at_most=10**6)
    optimizer: str = setting(
        "sgd", "Optimizer.", choices=("sgd", "lars", "rmsprop", "adamw", "lamb", "muon")
    )
    learning_rate: float = setting(0.2, "Peak learning rate.", above=0, at_most=1000)
    scale_learning_rate: bool = setting(False, "Multiply the rate by batch_size / 256.")
    momentum: float | None = setting(
        None, "Momentum (none: the optimizer's default).", kind=float, at_least=0, below=1
    )
    nesterov: bool = setting(False, "Nesterov momentum, for sgd and lars.")
    weight_decay: float = setting(1e-4, "Decay of kernels, per step.", at_least=0, at_most=1)
    clip_norm: float | None = setting(
        None,
        "Largest norm of the whole gradient (none: no clipping).",
        kind=float,
        above=0,
        at_most=1e30,
    )
    schedule: str = setting(
        "cosine",
        "Learning-rate schedule after the warm-up.",
        choices=("cosine", "partial_cosine", "step", "exponential", "constant"),
    )
    warmup_epochs: float | None = setting(
        None, "Epochs of linear warm-up (none: epochs / 16).", kind=float, at_least=0
    )
    decay_epochs: str = setting(
        "", "step: epochs at which the rate drops, such as 60,75,90; exponential: epochs per drop."
    )
    decay_rate: float = setting(0.1, "step, exponential: factor of one drop.", above=0, at_most=1)
    ema_momentum: float | None = setting(
        None,
        "Momentum of the averaged weights, which are evaluated (none: off).",
        kind=float,
        above=0,
        below=1,
    )
    queue_size: int = setting(
        0, "Embeddings of earlier batches to contrast with (0: none).", at_least=0, at_most=2**24
    )
    micro_batch_size: int | None = setting(
        None,
        "Images that a replica encodes at once, to save memory (none: all).",
        kind=int,
        at_least=1,
    )
    precision: str = setting(
        "float32",
        "Arithmetic of the encoder and head.",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
    )
    compile: str = setting(
        "auto",
        "Compile the step with XLA, on one replica (auto: on a GPU or TPU).",
        choices=("auto", "on", "off"),
    )
    checkpoint_steps: int | None = setting(
        None,
        "Steps between checkpoints, besides the ends of epochs (none: those only).",
        kind=int,
        at_least=1,
        identity=False,
    )
    keep_checkpoints: int = setting(
        2, "Newest checkpoints to keep.", at_least=1, at_most=10**6, identity=False
    )
    best_metric: str = setting(
        "",
        "Metric that decides which epoch's encoder is kept ('': the last epoch's).",
        choices=("knn_top1", "knn_map", "loss"),
    )
    seed: int = setting(0, "Seed of weights, order and augmentation.", at_least=0, below=2**31)
    strategy: str = setting(
        "auto",
        "Devices: one, all of this machine, the workers of TF_CONFIG, or a TPU.",
        choices=("auto", "one_device", "mirrored", "multi_worker", "tpu"),
    )
    dry_run: bool = setting(False, "Print the plan, check everything, and stop.", identity=False)
    verbose: bool = setting(False, "Show every metric during training.", identity=False)

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "dataset", absolute_dataset(self.dataset))
        self.check_outside_data("run_dir", self.run_dir)
        for name in ("data_dir", "encoder_weights", "initial_run"):
            if getattr(self, name) not in ("", "imagenet"):
                object.__setattr__(self, name, absolute(getattr(self, name)))
        for name in ("encoder", "augmentation"):
            if getattr(self, name).endswith(".keras"):
                object.__setattr__(self, name, absolute(getattr(self, name)))
        check_together(self)

    def may_have_validation(self) -> bool:
        """Whether images are set aside for validation, as far as the settings tell."""
        return self.validation_fraction > 0 or is_table(self.dataset)  # By its column split.

    def check_outside_data(self, name: str, path: str) -> None:
        """Refuses an output path in the folder of the images; see `refuse_in_folder`."""
        refuse_in_folder(self.dataset, name, path)

    def views_per_image(self) -> int:
        """Views of each image in a batch, the small ones too."""
        return self.num_views + self.small_views

    def small_view_side(self, image_size_px: int) -> int:
        """The side of a small view: as given, or half of the image's.

        Raises:
            UserError: if it is not below the image's.
        """
        side = self.small_view_size_px or max(1, image_size_px // 2)
        if side >= image_size_px:
            raise UserError(
                f"small_view_size_px must be below the image's {image_size_px} pixels. Received: "
                f"{side}. Lower it."
            )
        return side

    def warmup_length(self) -> float:
        """Epochs of warm-up: as given, or a sixteenth of all."""
        return self.epochs / 16 if self.warmup_epochs is None else self.warmup_epochs

    def decay_points(self) -> tuple[float, ...]:
        """`decay_epochs` as numbers; raises `UserError` unless all are between 0 and 1e7."""
        try:
            points = tuple(float(part) for part in self.decay_epochs.split(",") if part.strip())
            if not all(0 < point < 1e7 for point in points):
                raise ValueError
            return points
        except ValueError:
            raise UserError(
                f"decay_epochs must be numbers above 0, separated by commas. Received: "
                f"{self.decay_epochs!r}."
            ) from None
