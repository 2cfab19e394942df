"""The declaration of a method: its builder, its stream, the length of its epochs."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from supcon_tf.config import PretrainConfig
from supcon_tf.core.errors import UserError
from supcon_tf.data.augment import WHOLE, Share
from supcon_tf.data.balance import class_counts
from supcon_tf.data.own_augmentation import augmentation_of
from supcon_tf.data.policies import small_parts
from supcon_tf.data.splits import ImageDataset
from supcon_tf.data.streams import balanced, views
from supcon_tf.data.views import Position, Views
from supcon_tf.engine.method import Method
from supcon_tf.networks.heads import ProjectionHead
from supcon_tf.networks.stages import Stages, num_stages, split_into_stages

HEAD_DIM = 128


class Parts:
    """The parts that a method can be built from, each made on request.

    Args:
        config: the settings.
        encoder: a built model from images [N, H, W, C] to features [N, F].
        num_classes: classes of the data set.
        steps_per_epoch: steps per epoch.
        dtype: dtype policy of the heads.
        labels: gives the labels int [N] of the training split, or bool [N, C]; None if a method is
            only checked.
        multi_label: whether the images may have any number of classes.

    Attributes:
        encoder, num_classes, steps_per_epoch, dtype, multi_label: the arguments.
        batch_size: images per step, as configured.
        engine: what every `Method` takes: `name`, `micro_batch_size` and `ema_momentum`.
    """

    def __init__(
        self,
        config: PretrainConfig,
        encoder: keras.Model,
        num_classes: int,
        steps_per_epoch: int,
        dtype: str = "float32",
        labels: Callable[[], np.ndarray] | None = None,
        multi_label: bool = False,
    ):
        self.encoder, self.num_classes, self.steps_per_epoch = encoder, num_classes, steps_per_epoch
        self.batch_size = config.batch_size
        self.engine = {
            "name": config.method,
            "micro_batch_size": config.micro_batch_size,
            "ema_momentum": config.ema_momentum,
        }
        self._config, self.dtype, self._asked = config, dtype, set()
        self._labels, self.multi_label = labels, multi_label

    def class_counts(self) -> np.ndarray:
        """The labelled training images of each class, int64 [C]; 1 each if there are no data."""
        if self._labels is None:
            return np.ones(self.num_classes, np.int64)
        return class_counts(self._labels(), self.num_classes)

    def stages(self) -> Stages:
        """The stages of the encoder.

        Raises:
            ValueError: if it is not one of our own networks.
        """
        if not num_stages(self._config.encoder):
            raise ValueError(
                "encoder must be a network by name, such as resnet50, for its stages. "
                f"Received: {self._config.encoder!r}."
            )
        return split_into_stages(self.encoder)

    def projection_head(
        self, normalize: bool = True, num_features: int | None = None
    ) -> ProjectionHead:
        """A new projection head, built.

        Args:
            normalize: whether the embeddings are scaled to unit norm.
            num_features: F of the features [N, F] that it takes; None for the encoder's.
        """
        self._asked.add("projection head")
        hidden = self._config.projection_hidden_dim
        hidden = HEAD_DIM if hidden is None else hidden
        head = ProjectionHead(
            self._config.embedding_dim or HEAD_DIM,
            (hidden,) if hidden else (),
            normalize=normalize,
            dtype=self.dtype,
        )
        head.build((None, num_features or self.encoder.output_shape[-1]))
        return head

    def queue_size(self, least: int = 0) -> int:
        """The rows of the memory queue, which must be at least `least`; 0 for none.

        Raises:
            ValueError: if there are fewer.
        """
        self._asked.add("memory queue")
        if self._config.queue_size < least:
            raise ValueError(
                f"queue_size must be at least {least}. Received: {self._config.queue_size}."
            )
        return self._config.queue_size

    def check_all_used(self) -> None:
        """Raises `UserError` if a setting of a part that was not requested is given."""
        settings = {
            "projection head": ("embedding_dim", "projection_hidden_dim"),
            "memory queue": ("queue_size",),
        }
        for part in settings.keys() - self._asked:
            for name in settings[part]:
                value = getattr(self._config, name)
                if value != getattr(PretrainConfig, name):  # The default.
                    raise UserError(
                        f"method {self._config.method} has no {part}. Received: {name}={value}. "
                        "Leave it out."
                    )


def kinds_of(config: PretrainConfig, image_size_px: int) -> Views | tuple[Views, Views]:
    """The views that a configuration requests: of one size, or small ones too (multi-crop)."""
    how = augmentation_of(config)
    large = Views(how, config.num_views, image_size_px)
    if not config.small_views:
        return large
    side = config.small_view_side(image_size_px)
    return large, Views(small_parts(how), config.small_views, side)


def _views_of(split, dataset, config, first_step, share):
    kind = kinds_of(config, dataset.image_size_px)
    position = Position(config.seed, first_step, share)
    if config.classes_per_batch is None:
        return views(split, kind, batch_size=config.batch_size, position=position)
    if split is not dataset.train:
        raise ValueError(
            "class-balanced batches need labels, and some training images have none. Received: "
            f"classes_per_batch={config.classes_per_batch}. Leave it out."
        )
    return balanced(
        split,
        kind,
        classes_per_batch=config.classes_per_batch,
        images_per_class=config.images_per_class,
        position=position,
    )


def views_of_training_images(
    dataset: ImageDataset, config: PretrainConfig, first_step: int, share: Share
) -> tf.data.Dataset:
    """The usual stream: `(views [B, V, S, S, 3], labels [B])` of the labelled training images.

    With `classes_per_batch` its batches are class-balanced; the length of an epoch is the same.
    """
    return _views_of(dataset.train, dataset, config, first_step, share)


def views_where(uses_labels: Callable[[PretrainConfig], bool]) -> tuple[Callable, Callable]:
    """The stream and the epoch's length of a method that needs labels or takes all images.

    Args:
        uses_labels: a function from the settings to whether only images with labels are used.
    """

    def split(dataset, config):
        return dataset.train if uses_labels(config) else dataset.all_images

    def stream(dataset, config, first_step, share):
        return _views_of(split(dataset, config), dataset, config, first_step, share)

    def steps_per_epoch(dataset, config):
        return split(dataset, config).num_examples // config.batch_size

    return stream, steps_per_epoch


def one_pass_over_training_images(dataset: ImageDataset, config: PretrainConfig) -> int:
    """Whole batches of the labelled training images."""
    return dataset.train.num_examples // config.batch_size


def one_pass_over_all_images(dataset: ImageDataset, config: PretrainConfig) -> int:
    """Whole batches of the training images, with and without labels."""
    return dataset.all_images.num_examples // config.batch_size


@dataclasses.dataclass(frozen=True)
class MethodSpec:
    """A method as the registry knows it.

    The method's own settings, `temperature` and `method_args`, are the keyword arguments of `build`
    and `stream` beyond those named here: a setting reaches whichever of them takes it.

    Attributes:
        build: from `Parts`, and the method's settings, to a `Method`.
        stream: from a data set, the configuration, the step to begin with and the share of the
            batches to make, and the method's settings, to an endless `tf.data.Dataset`.
        steps_per_epoch: a function from the data set and the configuration to the steps per epoch.
        comparable_loss: whether the losses of two epochs can be compared; not if terms come and go,
            or depend on the content of a bank.
        own_batches: whether the stream composes its batches in its own way, so that
            `classes_per_batch` is refused.
        settings: callables whose keyword arguments are the method's settings in addition to those
            of `build` and `stream`; `build` then takes any.
        takes_several_classes: a function from the configuration to whether the images may have
            several classes each.
    """

    build: Callable[..., Method]
    stream: Callable[..., tf.data.Dataset] = views_of_training_images
    steps_per_epoch: Callable[..., int] = one_pass_over_training_images
    settings: tuple[Callable, ...] = ()
    comparable_loss: bool = True
    own_batches: bool = False
    takes_several_classes: Callable[[PretrainConfig], bool] = lambda config: False

    def defaults(self) -> dict[str, Any]:
        """The settings that the method takes, and their defaults."""
        return {**self._of_build(), **_keywords(self.stream)}

    def check_kinds(self, given: Mapping[str, Any]) -> None:
        """Raises a ValueError if a setting is of a different kind from its default."""
        defaults = self.defaults()
        for name, value in given.items():
            kind, words = _KINDS.get(type(defaults[name]), (object, ""))
            is_switch = isinstance(value, bool) and kind not in (bool, object)
            if isinstance(value, int) and abs(value) >= 2**63:
                raise ValueError(f"{name} must fit in 64 bits. Received: {value!r}.")
            if is_switch or not isinstance(value, kind):
                raise ValueError(f"{name} must be {words}. Received: {value!r}.")

    def build_with(self, parts: Parts, given: Mapping[str, Any]) -> Method:
        """Builds the method from those of its settings that `build` takes."""
        return self.build(parts, **{k: v for k, v in given.items() if k in self._of_build()})

    def stream_with(
        self,
        dataset: ImageDataset,
        config: PretrainConfig,
        first_step: int = 0,
        share: Share = WHOLE,
    ) -> tf.data.Dataset:
        """Opens the stream with those of the method's settings that it takes."""
        given, taken = given_settings(config), _keywords(self.stream)
        wanted = {name: value for name, value in given.items() if name in taken}
        return self.stream(dataset, config, first_step, share, **wanted)

    def _of_build(self) -> dict[str, Any]:
        found = [_keywords(one) for one in (self.build, *self.settings)]
        return {name: default for one in found for name, default in one.items()}


# Keyword arguments that the user never sets.
_RESERVED = {"name", "reduction"}


# The kind of value a setting takes, by its default's type; a None is checked where it is used.
_KINDS = {
    bool: (bool, "true or false"),
    int: (int | float, "a number"),
    float: (int | float, "a number"),
    str: (str, "a word"),
}


def _keywords(function: Callable) -> dict[str, Any]:
    """The defaults of a callable's arguments, except for those that a `partial` fixes."""
    fixed = {*getattr(function, "keywords", {}), *_RESERVED}
    parameters = inspect.signature(function).parameters.items()
    return {
        n: one.default for n, one in parameters if one.default is not one.empty and n not in fixed
    }


def given_settings(config: PretrainConfig) -> dict[str, Any]:
    """The method's own settings of a configuration: `temperature`, if given, and `method_args`."""
    given = {} if config.temperature is None else {"temperature": config.temperature}
    return {**given, **config.method_args}
