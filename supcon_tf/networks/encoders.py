"""Encoders by name: our residual networks, any model of keras.applications, any `.keras` file.

All take images in [0, 1] and give one feature vector per image. An encoder saved as `.keras` loads
wherever Keras is, without this package.
"""

import contextlib
import difflib
import inspect
import os
import warnings
import zipfile
from collections.abc import Callable

import keras
import numpy as np
from keras import layers

from supcon_tf.core.errors import UserError
from supcon_tf.core.files import check_readable
from supcon_tf.networks import resnet
from supcon_tf.networks.wide_resnet import WIDE_ENCODERS, build_wide_resnet

# Builders by name.
ENCODERS = {
    **dict.fromkeys(resnet.ENCODERS, resnet.build_resnet),
    **dict.fromkeys(WIDE_ENCODERS, build_wide_resnet),
}
_APPLICATION, _LIST = "applications:", "https://keras.io/api/applications"


def check_encoder(name: str, width_multiplier: float = 1.0, weights: str = "") -> None:
    """Checks all that can be known of an encoder before it is built.

    Args:
        name: as for `build_encoder`.
        width_multiplier: as for `build_encoder`.
        weights: as for `build_encoder`.

    Raises:
        UserError: if `name` is unknown, a file is missing or not of its kind, or a setting would
            have no effect.
    """
    if name.startswith(_APPLICATION):
        _application(name)
    elif name.endswith(".keras"):
        _check_saved(name)
    elif name not in ENCODERS:
        raise UserError(
            f"encoder must be one of {', '.join(ENCODERS)}, {_APPLICATION}NAME for a model of "
            f"keras.applications, or the path of a .keras file. Received: {name!r}."
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

            * a key of `ENCODERS`, such as `resnet50` or `wide_resnet28_2`: see `build_resnet` and
              `build_wide_resnet` for their form;
            * `applications:NAME`, such as `applications:MobileNetV2`: a model of
              `keras.applications`, in any case of letters, with global average pooling and
              without its classifier. It maps the images to what that application expects.
              Nothing is ever downloaded;
            * the path of a `.keras` file: a model from images [B, S, S, 3] in [0, 1] (S may be
              unknown) to features [B, F], or to a feature map [B, H, W, C], which gets global
              average pooling. Python lambdas in it are refused. Its layers keep their weights
              and stay as trainable as they were saved.
        image_size_px: side S of the square input.
        width_multiplier: factor > 0 on all channels of a residual network; 1 for the others.
        weights: path of a local `.weights.h5` or `.h5` file for `load_weights`: the residual
            network's, or the application's own (`include_top=False`); empty for random weights,
            and with a `.keras` file. Keras's download of EfficientNetB0 to B7 comes with one more
            rescaling, by 1 / sqrt(standard deviation), in the model; a file does not bring it.

    Returns:
        A functional model from float32
        [B, S, S, 3] in [0, 1] to features float32 [B, F].

    Raises:
        UserError: if `name` is unknown, the image size does not suit it, a file is missing or
            does not fit, or a setting would have no effect.

    Reference:
        https://keras.io/api/applications; He et al. 2016, and Zagoruyko and Komodakis 2016,
        for the residual networks.
    """
    check_encoder(name, width_multiplier, weights)
    if name.startswith(_APPLICATION):
        return _build_application(name, image_size_px, weights)
    if name.endswith(".keras"):
        return _load_encoder(name, image_size_px)
    encoder = ENCODERS[name](name, image_size_px, width_multiplier)
    _load_weights(encoder, name, weights)
    return encoder


def _application(name) -> Callable:
    """The function of keras.applications that `applications:NAME` means."""
    # Models are the only functions there that begin with a capital letter.
    known = {key.lower(): key for key in dir(keras.applications) if key[0].isupper()}
    wanted = name.removeprefix(_APPLICATION).lower()
    if wanted not in known:
        close = difflib.get_close_matches(wanted, known, n=1)
        hint = (
            f"did you mean {_APPLICATION}{known[close[0]]}?" if close else f"choose one of {_LIST}."
        )
        raise UserError(f"keras.applications has no such model; {hint} Received: {name!r}.")
    return getattr(keras.applications, known[wanted])


def _build_application(name, image_size_px, weights):
    builder = _application(name)
    shape = (image_size_px, image_size_px, 3)
    try:
        application = builder(include_top=False, weights=None, input_shape=shape, pooling="avg")
    except ValueError as error:  # Each model has a least size of its own.
        raise UserError(
            f"{name} cannot be built for images of {image_size_px} pixels: {_reason(error)}. "
            f"Received: image_size_px={image_size_px}."
        ) from error
    _load_weights(application, name, weights)
    images = keras.Input(shape, name="images")
    features = application(_preprocess(images, inspect.getmodule(builder).preprocess_input))
    return keras.Model(images, _as_features(features), name=builder.__name__)


def _preprocess(images, function):
    """Applies an application's `preprocess_input` to images in [0, 1], with Keras's own layers.

    Each of these functions (Keras calls them "tf", "torch", "caffe", and unchanged [0, 255]) is
    affine in each channel, and may reverse the channels. So its values at black, red, green and
    blue say all about it.
    """
    black = function(np.zeros((1, 3)), data_format="channels_last")
    colors = function(255 * np.eye(3), data_format="channels_last")
    matrix = colors - black  # [3 in, 3 out], with one value in each row and column
    if matrix[0, 0] == 0:
        images = keras.ops.flip(images, axis=-1)
    scale, offset = matrix.sum(axis=0).tolist(), black[0].tolist()
    # In float32 also under mixed precision: half precision is coarser than pixels are.
    return layers.Rescaling(scale, offset, dtype="float32", name="preprocess")(images)


def _check_saved(path):
    if not os.path.isfile(path):
        raise UserError(
            f"no such encoder file; give the path of a .keras file. Received: {path!r}."
        )
    check_readable(path)
    if not zipfile.is_zipfile(path):
        raise UserError(f"the encoder file is damaged or not a .keras file. Received: {path!r}.")


def _load_encoder(path, image_size_px):
    with _reading(f"the encoder cannot be loaded from {path}", path):
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    shape = (image_size_px, image_size_px, 3)
    _check_input(model, path, shape)
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    images = keras.Input(shape, name="images")
    with _reading(f"{path} cannot take images of {image_size_px} pixels", image_size_px):
        # The model may want its one input in a list or dictionary.
        output = model(keras.tree.map_structure(lambda _: images, model.input))
    _check_output(output, path)
    as_is = isinstance(model.input, keras.KerasTensor) and model.input.shape == (None, *shape)
    if as_is and output.dtype == "float32" and len(output.shape) == 2:
        return model
    return keras.Model(images, _as_features(output), name="encoder")


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
            f"that fits. Received: {_described(inputs)}."
        )


def _check_output(output, path):
    fits = (
        isinstance(output, keras.KerasTensor)
        and keras.backend.is_float_dtype(output.dtype)
        and len(output.shape) in (2, 4)
        and output.shape[-1] is not None
        and all(side is None or side > 0 for side in output.shape)
    )
    if not fits:
        raise UserError(
            f"{path} must have one output, float [B, F] or [B, H, W, C]; save the model with that "
            f"output alone. Received: {_described(output)}."
        )


def _as_features(output):
    """Float32 [B, F] from any float [B, F] or [B, H, W, C]."""
    if len(output.shape) == 4:
        return layers.GlobalAveragePooling2D(dtype="float32", name="features")(output)
    return layers.Activation("linear", dtype="float32", name="features")(output)


def _described(tensors):
    return keras.tree.map_structure(lambda tensor: f"{tensor.dtype} {tensor.shape}", tensors)


def _check_weights(name, weights):
    if name.endswith(".keras"):
        raise UserError(
            f"weights must be empty where the encoder is a .keras file. Received: {weights!r}."
        )
    if not weights.endswith(".h5"):
        raise UserError(f"weights must be a .weights.h5 or .h5 file. Received: {weights!r}.")
    if not os.path.isfile(weights):
        raise UserError(f"no such weights file; give a local path. Received: {weights!r}.")
    check_readable(weights)


def _load_weights(model, name, weights):
    if weights:
        with _reading(f"weights must be {name}'s own, without a classifier", weights):
            model.load_weights(weights)


@contextlib.contextmanager
def _reading(problem, received):
    """Turns whatever fails inside into a `UserError`: damaged files fail in many ways."""
    with warnings.catch_warnings():
        # Where a file lacks a layer's weights Keras may only warn, and leave them random.
        warnings.filterwarnings("error", message="Skipping nested container")
        try:
            yield
        except Exception as error:
            raise UserError(f"{problem}: {_reason(error)}. Received: {received!r}.") from error


def _reason(error):
    """The first sentence of the innermost message."""
    message = str(error).split("Exception encountered: ")[-1].strip()
    first_line = (message.splitlines() or [type(error).__name__])[0]
    return first_line.split(". ")[0].split("; Received")[0].rstrip(".:")
