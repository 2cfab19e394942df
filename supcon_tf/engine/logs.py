"""TensorBoard's files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow as tf

from supcon_tf.core.files import remove


class Logs:
    """TensorBoard's files, written again from the curves when training begins or continues."""

    def __init__(self, folder: Path, history: Mapping[str, Sequence[float | None]]):
        remove(folder)
        self.writer = tf.summary.create_file_writer(str(folder))
        self.write(history, 0)

    def write(self, history, first_epoch):
        """Writes the epochs from `first_epoch` on."""
        with self.writer.as_default():
            for name, values in history.items():
                for epoch in range(first_epoch, len(values)):
                    if values[epoch] is not None:
                        tf.summary.scalar(name, values[epoch], step=epoch + 1)
        self.writer.flush()
