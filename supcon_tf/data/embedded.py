"""Preparation of the package's own TensorFlow Datasets builders, which download nothing."""

import contextlib
import io

import tensorflow_datasets as tfds

from supcon_tf.core.errors import UserError


def prepare(builder: tfds.core.DatasetBuilder, what: str) -> tfds.core.DatasetBuilder:
    """Writes a builder's files on first use, without its remarks, which speak of a download.

    Args:
        builder: the builder.
        what: its images, for messages.

    Returns:
        The builder.

    Raises:
        UserError: if the files cannot be written.
    """
    if builder.is_prepared():
        return builder
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    except OSError as error:
        raise UserError(
            f"cannot write {what} to {builder.data_dir}: {error.strerror}. Pass a directory that "
            "can be written as --data_dir."
        ) from error
    finally:
        tfds.enable_progress_bar()
    return builder
