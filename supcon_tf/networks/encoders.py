"""Encoders by name: our own networks, keras.applications, keras_hub, any `.keras` file.

All take images in [0, 1] and give one feature vector per image. An encoder saved as `.keras` loads
wherever Keras is installed, without this package.
"""

import os
import zipfile

import keras

from supcon_tf.core.errors import UserError
from supcon_tf.core.files import check_readable
from supcon_tf.networks import resnet
from supcon_tf.networks.airbench import AIRBENCH_ENCODERS, build_airbench
from supcon_tf.networks.application_names import APPLICATION, application_name
from supcon_tf.networks.applications import IMAGENET, build_application
from supcon_tf.networks.hub import HUB, build_hub_encoder, check_hub
from supcon_tf.networks.loading import (
    as_features,
    check_output,
    described,
    load_weights,
    reading,
)
from supcon_tf.networks.wide_resnet import WIDE_ENCODERS, build_wide_resnet

# Builders by name.
ENCODERS = {
    **dict.fromkeys(resnet.ENCODERS, resnet.build_resnet),
    **dict.fromkeys(WIDE_ENCODERS, build_wide_resnet),
    **dict.fromkeys(AIRBENCH_ENCODERS, build_airbench),
}


def check_encoder(name: str, width_multiplier: float = 1.0, weights: str = "") -> None:
    """Checks everything about an encoder that can be known before it is built.

    Args:
        name: as for `build_encoder`.
        width_multiplier: as for `build_encoder`.
        weights: as for `build_encoder`.

    Raises:
        UserError: if `name` is unknown, a file is missing or not of its kind, or a setting would
            have no effect.
    """
    if name.startswith(APPLICATION):
        application_name(name)
    elif name.startswith(HUB):
        check_hub(name)
    elif name.endswith(".keras"):
        _check_saved(name)
    elif name not in ENCODERS:
        raise UserError(
            f"encoder must be one of {', '.join(ENCODERS)}, {APPLICATION}NAME for a model of "
            f"keras.applications, {HUB}PRESET, or the path of a .keras file. Received: {name!r}."
        )
    if name not in ENCODERS and width_multiplier != 1:
        raise UserError(
            f"width_multiplier applies to {', '.join(ENCODERS)} only; leave it at 1 for {name}. "
            f"Received: {width_multiplier}."
        )
    if weights:
        _check_weights(name, weights)


def build_encoder(
    name: str, image_size_px: int, width_multiplier: float = 1.0, weights: str = ""
) -> keras.Model:
    """Builds an encoder.

    Args:
        name: one of

            * a key of `ENCODERS`, such as `resnet50`, `wide_resnet28_2` or `airbench94`: described
              in `build_resnet`, `build_wide_resnet` and `build_airbench`;
            * `applications:NAME`, such as `applications:MobileNetV2`: a model of
              `keras.applications`, in upper or lower case, with global average pooling and
              without its classifier. It maps the images to the range that this application expects;
            * `keras_hub:PRESET`: the backbone of a preset of the package keras_hub, with the
              preset's weights, which that package downloads unless PRESET is a folder;
            * the path of a `.keras` file: a model from images [B, S, S, 3] in [0, 1] (S may be
              unknown) to features [B, F], or to a feature map [B, H, W, C], which gets global
              average pooling. Python lambdas in it are refused. Its layers keep their weights
              and stay as trainable as when saved.
        image_size_px: side S of the square input.
        width_multiplier: factor > 0 on all channels of a key of `ENCODERS`; 1 for the others.
        weights: path of a local `.weights.h5` or `.h5` file for `load_weights`: our own
            networks', or the application's own (`include_top=False`); for an application also
            `imagenet`, which Keras downloads; empty for random weights, with a `.keras` file and
            with a preset. Keras's download of EfficientNetB0 to B7 comes with one more
            rescaling, by 1 / sqrt(standard deviation), in the model; a file does not contain it.

    Returns:
        A functional model from float32 [B, S, S, 3] in [0, 1] to features float32 [B, F].

    Raises:
        UserError: if `name` is unknown, the image size does not suit it, a file is missing or
            does not fit, or a setting would have no effect.

    Reference:
        https://keras.io/api/applications; He et al. 2016, and Zagoruyko and Komodakis 2016,
        for the residual networks; Jordan 2024 for airbench94.
    """
    check_encoder(name, width_multiplier, weights)
    if name.startswith(APPLICATION):
        return build_application(name, image_size_px, weights)
    if name.startswith(HUB):
        return build_hub_encoder(name, image_size_px)
    if name.endswith(".keras"):
        return _load_encoder(name, image_size_px)
    encoder = ENCODERS[name](name, image_size_px, width_multiplier)
    load_weights(encoder, name, weights)
    return encoder


def _check_saved(path):
    if not os.path.isfile(path):
        raise UserError(f"encoder not found. Received: {path!r}. Give the path of a .keras file.")
    check_readable(path)
    if not zipfile.is_zipfile(path):
        raise UserError(f"the encoder file is damaged or not a .keras file. Received: {path!r}.")


def _load_encoder(path, image_size_px):
    with reading(f"the encoder cannot be loaded from {path}", path):
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    shape = (image_size_px, image_size_px, 3)
    _check_input(model, path, shape)
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    images = keras.Input(shape, name="images")
    with reading(f"{path} cannot take images of {image_size_px} pixels", image_size_px):
        # The model may expect its one input in a list or dictionary.
        output = model(keras.tree.map_structure(lambda _: images, model.input))
    check_output(output, path)
    as_is = isinstance(model.input, keras.KerasTensor) and model.input.shape == (None, *shape)
    if as_is and output.dtype == "float32" and len(output.shape) == 2:
        return model
    return keras.Model(images, as_features(output), name="encoder")


def _check_input(model, path, shape):
    """Raises unless the only input is a float batch of any length that `shape` fits."""
    inputs = getattr(model, "inputs", None) or []
    fits = (
        len(inputs) == 1
        and keras.backend.is_float_dtype(inputs[0].dtype)
        and len(inputs[0].shape) == 4
        and inputs[0].shape[0] is None
        and inputs[0].shape[3] == 3
        and all(side in (None, shape[0]) for side in inputs[0].shape[1:3])
    )
    if not fits:
        raise UserError(
            f"{path} must have one input, float {[None, *shape]}; choose a model or an image size "
            f"that fits. Received: {described(inputs)}."
        )


def _check_weights(name, weights):
    if name.endswith(".keras") or name.startswith(HUB):
        kind = "a preset" if name.startswith(HUB) else "a .keras file"
        raise UserError(
            f"encoder_weights must be empty if the encoder is {kind}. Received: {weights!r}."
        )
    if weights == IMAGENET:
        if not name.startswith(APPLICATION):
            raise UserError(
                f"encoder_weights=imagenet is for {APPLICATION}NAME. Received: the encoder "
                f"{name!r}. Give the path of a file for it."
            )
        return
    if not weights.endswith(".h5"):
        raise UserError(
            f"encoder_weights must be a .weights.h5 or .h5 file. Received: {weights!r}."
        )
    if not os.path.isfile(weights):
        raise UserError(f"encoder_weights not found. Received: {weights!r}. Check the path.")
    check_readable(weights)
