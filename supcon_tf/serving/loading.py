"""Loading of a version, ready to answer."""

from pathlib import Path
from typing import Any

import numpy as np

from supcon_tf.core.errors import UserError
from supcon_tf.exporting.bundle import load_bundle


def load_version(path: Path, runtime: str, max_batch_size: int) -> Any:
    """Loads a version, and computes once what requests will ask for, so TensorFlow is ready.

    Args:
        path: its folder.
        runtime: one of `config.RUNTIMES`.
        max_batch_size: images that will be computed at once.

    Raises:
        UserError: if anything about it is wrong.
    """
    bundle = load_bundle(path, runtime)
    try:
        image = bundle.scale(np.zeros((8, 8, 3), np.uint8))
        for size in sorted({1, max_batch_size}):
            found = bundle.classify(np.stack([image] * size))
            if bundle.num_neighbors:
                bundle.nearest(found["embeddings"])
    except UserError as error:
        raise UserError(f"bundle {path}: {error}") from error
    except Exception as error:
        raise UserError(
            f"bundle {path} fails to compute ({type(error).__name__}). Export it again."
        ) from error
    return bundle
