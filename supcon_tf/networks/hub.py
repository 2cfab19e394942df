"""Encoders from presets of the optional package keras_hub."""

import importlib
import importlib.util

import keras
import numpy as np
from keras import layers

from supcon_tf.core.errors import UserError
from supcon_tf.networks.loading import as_features, check_output, reading

HUB = "keras_hub:"


def check_hub(name: str) -> None:
    """Raises `UserError` unless keras_hub is installed and `keras_hub:PRESET` names a preset."""
    if not name.removeprefix(HUB):
        raise UserError(f"encoder must name a preset after {HUB}. Received: {name!r}.")
    if importlib.util.find_spec("keras_hub") is None:
        raise UserError(
            f"encoder {name} needs the package keras_hub. Run: pip install 'supcon_tf[hub]'."
        )


def build_hub_encoder(name: str, image_size_px: int) -> keras.Model:
    """Builds the backbone of a preset, with the scaling of pixels that belongs to it.

    Args:
        name: `keras_hub:PRESET`: a preset's name, which keras_hub downloads on first use, or the
            folder of a preset.
        image_size_px: side S of the square input.

    Raises:
        UserError: if the preset cannot be loaded for images of that size, or is not a backbone
            with one output, a feature map or vector.
    """
    check_hub(name)
    hub, preset = importlib.import_module("keras_hub"), name.removeprefix(HUB)
    shape = (image_size_px, image_size_px, 3)
    with reading(f"{name} cannot be loaded for images of {image_size_px} pixels", name):
        backbone = hub.models.Backbone.from_preset(preset, image_shape=shape)
        converter = hub.layers.ImageConverter.from_preset(preset)
    images = keras.Input(shape, name="images")
    scaled = layers.Rescaling(*_scaling(converter), dtype="float32", name="preprocess")(images)
    # A plain model of the same layers, since a subclass could not be copied.
    plain = keras.Model(backbone.input, backbone.output)
    with reading(f"{name} cannot take images of {image_size_px} pixels", image_size_px):
        output = plain(scaled)
    check_output(output, name)
    return keras.Model(images, as_features(output), name="encoder")


def _scaling(converter):
    """The factor and offset for pixels in [0, 1]; the preset's are for [0, 255]."""
    scale, offset = (getattr(converter, name, None) for name in ("scale", "offset"))
    scale = 255.0 * np.asarray(1.0 if scale is None else scale, np.float64)
    offset = np.asarray(0.0 if offset is None else offset, np.float64)
    return scale.tolist(), offset.tolist()
