"""Shared by encoders from elsewhere: reading files that may be damaged, outputs, weights."""

import contextlib
import warnings

import keras
from keras import layers

from supcon_tf.core.errors import UserError


def check_output(output, path):
    """Raises `UserError` unless it is one float tensor [B, F] or [B, H, W, C].

    Args:
        output: output of the model in `path`.
        path: the model, for the message.
    """
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
            f"output alone. Received: {described(output)}."
        )


def as_features(output):
    """Float32 [B, F] from any float [B, F] or [B, H, W, C]."""
    if len(output.shape) == 4:
        return layers.GlobalAveragePooling2D(dtype="float32", name="features")(output)
    return layers.Activation("linear", dtype="float32", name="features")(output)


def described(tensors):
    """Dtype and shape of each tensor of a structure, for messages."""
    return keras.tree.map_structure(lambda tensor: f"{tensor.dtype} {tensor.shape}", tensors)


def load_weights(model, name, weights):
    """Loads a weights file, if one is given; raises `UserError` if it does not fit."""
    if weights:
        with reading(f"encoder_weights must be {name}'s own, without a classifier", weights):
            model.load_weights(weights)


@contextlib.contextmanager
def reading(problem, received):
    """Turns whatever fails inside into a `UserError`: damaged files fail in many ways."""
    with warnings.catch_warnings():
        # If a file lacks a layer's weights, Keras may only warn, and leave them random.
        warnings.filterwarnings("error", message="Skipping nested container")
        try:
            yield
        except Exception as error:
            raise UserError(f"{problem}: {reason(error)}. Received: {received!r}.") from error


def reason(error):
    """The first sentence of the innermost message."""
    message = str(error).split("Exception encountered: ")[-1].strip()
    first_line = (message.splitlines() or [type(error).__name__])[0]
    return first_line.split(". ")[0].split("; Received")[0].rstrip(".:")
