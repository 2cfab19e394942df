"""Images made from files and held in memory, so that files are not decoded in every epoch."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

_MOST_BYTES = 2**29


def most_bytes(files: int, image_size_px: int) -> int:
    """Bytes that may be held for a number of files, assuming pictures of aspect 4:3.

    Args:
        files: their number.
        image_size_px: side S of the views; they are cropped from images with a short side of 2 S.
    """
    crops, as_evaluated = 3 * 4 * image_size_px**2 * 4 // 3, 4 * 3 * image_size_px**2
    return min(_MOST_BYTES, files * (crops + as_evaluated))


class HeldFiles:
    """Images made from files, by file, up to 512 MiB; those beyond that are made again.

    It fills as files are first requested.
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
            purpose: what the image is for.
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
