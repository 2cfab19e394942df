"""A check that the outputs of a model are finite."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from supcon_tf.core.errors import UserError

ANOTHER_FORMAT = "Use another of its formats (float32 is the last to overflow), or train it again."


class NotFiniteError(UserError):
    """A model gave NaN or an infinity for some images of a batch.

    Args:
        rows: their indices in the batch.
        advice: what to do, as a sentence.
    """

    def __init__(self, rows: Sequence[int], advice: str = ""):
        super().__init__(f"the model's outputs are not finite. {advice}".rstrip())
        self.rows = rows


def check_finite(found: Mapping[str, Any], advice: str = "") -> None:
    """Refuses outputs that are not finite.

    Args:
        found: NumPy arrays [B, ...]; those that are not floats are passed over.
        advice: as `NotFiniteError` takes it.

    Raises:
        NotFiniteError: naming the rows.
    """
    floats = [values for values in found.values() if values.dtype.kind == "f"]
    bad = [~np.isfinite(values).all(axis=tuple(range(1, values.ndim))) for values in floats]
    rows = np.flatnonzero(np.any(bad, axis=0))
    if len(rows):
        raise NotFiniteError(rows.tolist(), advice)
