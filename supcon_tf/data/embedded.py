"""Shared parts of the package's own TensorFlow Datasets builders, which download nothing."""

import contextlib
import io
from collections.abc import Sequence

import tensorflow_datasets as tfds

from supcon_tf.core.errors import UserError


def grey_images(
    builder: tfds.core.DatasetBuilder,
    side_px: int,
    class_names: Sequence[str],
    *,
    description: str,
    homepage: str,
) -> tfds.core.DatasetInfo:
    """The `DatasetInfo` of a builder, for square grey images of one class each."""
    features = {
        "image": tfds.features.Image(shape=(side_px, side_px, 1), encoding_format="png"),
        "label": tfds.features.ClassLabel(names=list(class_names)),
    }
    return tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        features=tfds.features.FeaturesDict(features),
        supervised_keys=("image", "label"),
        homepage=homepage,
    )


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
