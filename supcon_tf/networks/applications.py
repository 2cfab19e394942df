"""Encoders from keras.applications, with the preprocessing that each of them was trained with."""

import inspect
import os
import pathlib
import re
import warnings

import keras
import numpy as np
from keras import layers

from supcon_tf.core.errors import UserError
from supcon_tf.networks.application_names import application_name
from supcon_tf.networks.loading import as_features, load_weights, reason

# In place of a path: the weights that Keras downloads.
IMAGENET = "imagenet"


def build_application(name: str, image_size_px: int, weights: str) -> keras.Model:
    """Builds an application without its classifier, with its preprocessing; see `build_encoder`.

    Args:
        name: `applications:NAME`.
        image_size_px: side S of the square input.
        weights: path of a weights file; `IMAGENET` for Keras's download; '' for random weights.

    Raises:
        UserError: if the image size does not suit it, or the weights cannot be obtained.
    """
    builder = getattr(keras.applications, application_name(name))
    shape = (image_size_px, image_size_px, 3)
    application = _bare(builder, name, shape, "imagenet" if weights == IMAGENET else None)
    load_weights(application, name, "" if weights == IMAGENET else weights)
    images = keras.Input(shape, name="images")
    features = application(_preprocess(images, inspect.getmodule(builder).preprocess_input))
    return keras.Model(images, as_features(features), name=builder.__name__)


def _bare(builder, name, shape, weights):
    try:
        with warnings.catch_warnings():
            # About weights that were trained on images of a different size, as intended.
            warnings.filterwarnings("ignore", "`input_shape` is undefined or non-square")
            return builder(include_top=False, weights=weights, input_shape=shape, pooling="avg")
    except ValueError as error:  # Each model has its own least size, or only one size.
        raise UserError(
            f"{name} cannot be built for images of {shape[0]} pixels: {reason(error)}. "
            f"Received: image_size_px={shape[0]}."
        ) from error
    except Exception as error:  # Keras raises it for any failed download.
        if weights is None:
            raise
        url = re.search(r"https?://[^\s:]+", str(error))
        file = url[0].rpartition("/")[2] if url else "Keras's weights file without the classifier"
        home = pathlib.Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
        raise UserError(
            f"the ImageNet weights of {name} could not be downloaded: {reason(error)}. Put {file} "
            f"into {home}/models by hand, or pass its path as --encoder_weights."
        ) from error


def _preprocess(images, function):
    """Applies an application's `preprocess_input` to images in [0, 1], with Keras's own layers.

    Each of these functions (Keras calls them "tf", "torch", "caffe", and unchanged [0, 255]) is
    affine in each channel, and may reverse the channels. So its values at black, red, green and
    blue define it.
    """
    black = function(np.zeros((1, 3)), data_format="channels_last")
    colors = function(255 * np.eye(3), data_format="channels_last")
    matrix = colors - black  # [3 in, 3 out], with one value in each row and column
    if matrix[0, 0] == 0:
        images = keras.ops.flip(images, axis=-1)
    scale, offset = matrix.sum(axis=0).tolist(), black[0].tolist()
    # In float32 also under mixed precision: half precision is coarser than pixels are.
    return layers.Rescaling(scale, offset, dtype="float32", name="preprocess")(images)
