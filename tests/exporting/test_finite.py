"""A model that gives NaN is refused, whatever computes it."""

import numpy as np
import pytest
from exporting.fragile import write_fragile

from supcon_tf import load_bundle
from supcon_tf.exporting.finite import NotFiniteError


@pytest.mark.parametrize(
    "runtime", ["saved_model", pytest.param("float32", marks=pytest.mark.slow)]
)
def test_what_a_model_gives_must_be_numbers(exported, tmp_path, runtime):
    bundle = load_bundle(write_fragile(exported[1] / "1", tmp_path / "1"), runtime)
    images = np.zeros((4, 8, 8, 3), np.float32)
    assert np.isfinite(bundle.classify(images)["probabilities"]).all()
    images[[1, 3]] = 1.0
    with pytest.raises(NotFiniteError, match="not finite. Use another of its formats") as raised:
        bundle.classify(images)
    assert raised.value.rows == [1, 3]
    embeddings = np.full((2, 32), [[0.1], [np.nan]], np.float32)
    with pytest.raises(NotFiniteError):
        bundle.nearest(embeddings)
