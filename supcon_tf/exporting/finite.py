"""The check that what a model gives are numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from supcon_tf.core.errors import UserError


class NotFiniteError(UserError):
    """A model gave NaN or an infinity for some images of a batch.

    Args:
        rows: which.
    """

    def __init__(self, rows: Sequence[int]):
        super().__init__(
            "the model gives numbers that are not finite. Use another of its formats (float32 "
            "overflows last), or train it again."
        )
        self.rows = rows


def check_finite(found: Mapping[str, Any]) -> None:
    """Looks through the outputs of a batch.

    Args:
        found: NumPy arrays [B, ...]; those that are not of floats are passed over.

    Raises:
        NotFiniteError: naming the rows.
    """
    floats = [values for values in found.values() if values.dtype.kind == "f"]
    bad = [~np.isfinite(values).all(axis=tuple(range(1, values.ndim))) for values in floats]
    rows = np.flatnonzero(np.any(bad, axis=0))
    if len(rows):
        raise NotFiniteError(rows.tolist())
