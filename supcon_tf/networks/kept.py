"""Models that a run keeps, read from their files."""

from pathlib import Path

import keras

from supcon_tf.core.errors import UserError
from supcon_tf.core.files import check_readable


def load_kept(file: Path, is_classifier: bool) -> keras.Model:
    """Loads a kept encoder, or a classifier with its features.

    Args:
        file: an existing `.keras` file.
        is_classifier: whether its output is `{"logits": ..., "features": ...}`.

    Raises:
        UserError: if the file cannot be read, is damaged, or holds the other kind of model.
    """
    check_readable(file)
    try:
        model = keras.saving.load_model(file, compile=False)
    except Exception as error:  # A broken file fails in many ways inside Keras.
        raise UserError(
            f"{file} is damaged ({type(error).__name__}). Train that stage again with --overwrite."
        ) from error
    outputs = getattr(model, "output", ())
    if (isinstance(outputs, dict) and {"logits", "features"} <= {*outputs}) != is_classifier:
        raise UserError(f"{file} holds a different kind of model. Train that stage again.")
    return model
