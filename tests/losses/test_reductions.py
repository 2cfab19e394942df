"""Keras's reductions of every loss, with weights and excluded anchors, against float64."""

import numpy as np
import pytest
from reference import l2, raw, supcon_modes

from supcon_tf import CACRLoss, MaxMarginLoss, NPairsLoss, SimCLRLoss, SupConLoss, TripletLoss
from supcon_tf.methods.suncet import SuNCEtLoss

REDUCTIONS = ["sum", "sum_over_batch_size", "mean", "mean_with_sample_weight", None, "none"]
LABELS = np.array([3, 1, 3, 0, 1, 8])
WEIGHTS = {"none": None, "some": np.array([1.0, 0.5, 0.0, 3.0, 2.0, 0.25])}
EMBEDDINGS = l2(raw((6, 2, 5), 0.9, 1.7, 2.3))


def reduce(reduction, losses, weights, counted):
    weights = np.ones(len(losses)) if weights is None else weights
    total = np.sum(counted * weights * losses)
    if reduction in (None, "none"):  # Scaled, as `supcon_loss` says.
        return weights * losses * len(losses) / max(1, np.sum(counted))
    divisors = {"sum": 1.0, "mean_with_sample_weight": np.sum(counted * weights)}
    divisor = divisors.get(reduction, np.sum(counted))
    return total / divisor if divisor else 0.0


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("without", ["exclude", "zero"])
@pytest.mark.parametrize(
    "modes",
    [
        {},
        {"summation_location": "in", "denominator_mode": "one_positive"},
        {"denominator_mode": "only_negatives", "scale_by_temperature": True},
    ],
)
@pytest.mark.parametrize("labels", [LABELS, np.zeros(6, int), np.arange(6)], ids=str)
def test_supcon(modes, without, weights, reduction, labels):
    embeddings, weights = EMBEDDINGS[:, :1], WEIGHTS[weights]
    losses = supcon_modes(embeddings, labels, **modes)
    same = labels[:, None] == labels[None, :]
    counted = same.sum(axis=1) > 1
    if modes.get("denominator_mode") == "only_negatives":
        counted &= ~same.all(axis=1)
    counted = np.ones(6) if without == "zero" else counted.astype(float)
    loss = SupConLoss(anchors_without_positives=without, reduction=reduction, **modes)
    found = loss(labels, embeddings, sample_weight=weights)
    expected = reduce(reduction, losses, weights, counted)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(
    "kind",
    [
        (SimCLRLoss, {}),
        (TripletLoss, {}),
        (TripletLoss, {"mining": "all", "average": "active"}),
        (NPairsLoss, {}),
        (MaxMarginLoss, {"average": "balanced"}),
        (CACRLoss, {"supervised": True}),
        (SuNCEtLoss, {}),
    ],
    ids=lambda kind: f"{kind[0].__name__} {kind[1]}",
)
def test_others_reduce_one_value_per_anchor(kind, weights, reduction):
    """Their values, which other tests compare with float64, take part one and all."""
    make, options = kind
    losses = make(**options, reduction="none")(LABELS, EMBEDDINGS).numpy().astype(np.float64)
    weights = WEIGHTS[weights]
    rows = None if weights is None else np.tile(weights, len(losses) // 6)
    expected = reduce(reduction, losses, rows, np.ones(len(losses)))
    found = make(**options, reduction=reduction)(LABELS, EMBEDDINGS, sample_weight=weights)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (1, 6), (6, 2)])
def test_weights_are_one_an_image(shape):
    for loss in (SupConLoss(), TripletLoss()):
        with pytest.raises(ValueError, match=r"sample_weight must be one number per image, \[6\]"):
            loss(LABELS, EMBEDDINGS, sample_weight=np.ones(shape))


def test_one_weight_is_that_of_all_images():
    for loss in (SupConLoss(), TripletLoss()):
        expected = loss(LABELS, EMBEDDINGS, sample_weight=np.full(6, 0.5))
        assert float(loss(LABELS, EMBEDDINGS, sample_weight=0.5)) == float(expected)
