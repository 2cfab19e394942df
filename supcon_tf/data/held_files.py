"""Images made of files and held in memory, so that files are not decoded every epoch."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

_MOST_BYTES = 2**29


def most_bytes(files: int, image_size_px: int) -> int:
    """Bytes that may be held of so many files, of pictures of 4 to 3.

    Args:
        files: how many.
        image_size_px: side S of the views: what crops are taken from has 2 S on its short side.
    """
    crops, as_evaluated = 3 * 4 * image_size_px**2 * 4 // 3, 4 * 3 * image_size_px**2
    return min(_MOST_BYTES, files * (crops + as_evaluated))


class HeldFiles:
    """Images made of files, by file: at most 512 MiB; the rest is made again.

    It fills as files are first asked for.
    """

    def __init__(self):
        self._made: dict[tuple, tuple[np.ndarray, int]] = {}
        self._free = _MOST_BYTES

    def get(
        self,
        file: tf.Tensor,
        purpose: str,
        dtype: tf.DType,
        make: Callable[[], tuple[tf.Tensor, tf.Tensor]],
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The result of `make` for a file, made now or before.

        Args:
            file: scalar string.
            purpose: what is made of it.
            dtype: of the image.
            make: returns an image [H, W, 3] and a number, int64.

        Returns:
            The image and the number.
        """
        missing = np.zeros((0, 0, 3), dtype.as_numpy_dtype), np.int64(0)

        def look_up(file):
            return self._made.get((file, purpose), missing)

        def keep(file, image, number):
            if (file, purpose) not in self._made and image.nbytes <= self._free:
                self._free -= image.nbytes
                self._made[file, purpose] = image.copy(), number
            return image, number

        kinds = dtype, tf.int64
        found = tf.numpy_function(look_up, [file], kinds)
        image, number = tf.cond(
            tf.size(found[0]) > 0,
            lambda: tuple(found),
            lambda: tuple(tf.numpy_function(keep, [file, *make()], kinds)),
        )
        return tf.ensure_shape(image, [None, None, 3]), tf.ensure_shape(number, [])
