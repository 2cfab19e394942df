"""The stages of an encoder, found in it by the names of its layers."""

import dataclasses
import itertools
import re

import keras

from supcon_tf.networks.airbench import AIRBENCH_ENCODERS
from supcon_tf.networks.resnet import ENCODERS
from supcon_tf.networks.wide_resnet import CHANNELS, WIDE_ENCODERS


@dataclasses.dataclass(frozen=True)
class Stages:
    """The stages of an encoder, whose layers and weights they share.

    Attributes:
        models: functional models that follow one another. The first takes images [B, H, W, C], the
            others the feature map [B, H_s, W_s, C_s] output by the previous one. The encoder's
            features are the mean of the last one over its positions.
        layers: those of each stage, in the order of computation. What comes before the first stage
            belongs to it (standardization, stem), and what follows the last one to the last (a
            norm).
    """

    models: list[keras.Model]
    layers: list[list[keras.layers.Layer]]

    @property
    def variables(self) -> list[list[keras.Variable]]:
        """The trainable variables of each stage."""
        return [[v for layer in stage for v in layer.trainable_variables] for stage in self.layers]


def num_stages(name: str) -> int:
    """The number of stages of an encoder by name; 0 for any other encoder.

    Args:
        name: as for `build_encoder`.
    """
    if name in WIDE_ENCODERS:
        return len(CHANNELS)
    if name in AIRBENCH_ENCODERS:
        return len(AIRBENCH_ENCODERS[name])
    return len(ENCODERS[name].blocks) if name in ENCODERS else 0


def split_into_stages(encoder: keras.Model) -> Stages:
    """Finds the stages of an encoder whose layers are named `stage1_...`, `stage2_...` and so on.

    Args:
        encoder: a functional model that ends in global average pooling, such as a key of
            `ENCODERS`, or its `training_copy`.

    Raises:
        ValueError: if it has no such layers.
    """
    *layers, last = encoder.layers
    stages = {}
    for number, layer in zip(_stage_numbers(layers), layers, strict=True):
        stages.setdefault(number, []).append(layer)
    if not any(stages) or not isinstance(last, keras.layers.GlobalAveragePooling2D):
        raise ValueError(
            "only a network by name, such as resnet50, has stages: layers named stage1_..., "
            "stage2_..., and after them global average pooling. Received: the encoder "
            f"{encoder.name!r}."
        )
    # The last layer of a stage outputs its map.
    maps = [encoder.input, *(stage[-1].output for stage in stages.values())]
    models = [keras.Model(*ends) for ends in itertools.pairwise(maps)]
    return Stages(models, [*stages.values()])


def _stage_numbers(layers):
    """The stage of each layer, or that of the layer before; 0 for all if no layer has one."""
    found = [re.match(r"stage(\d+)_", layer.name) for layer in layers]
    number = 1 if any(found) else 0
    numbers = []
    for match in found:
        number = int(match[1]) if match else number
        numbers.append(number)
    return numbers
