"""The numbers of other implementations, with the arguments of docs/reference/compatibility.md.

Recorded from SupContrast (commit 66a8fe5) and pytorch-metric-learning 2.9.0 on PyTorch 2.13, and
from transcriptions of solo-learn's loss and of the authors' TensorFlow code, on these inputs.
"""

import numpy as np
import pytest
import tensorflow as tf
from reference import l2, raw

from supcon_tf import SimCLRLoss, SupConLoss, TripletLoss, positives_per_anchor, supcon_loss

EMBEDDINGS = l2(raw((7, 3, 5), 0.9, 1.7, 2.3))
LABELS = np.array([3, 1, 3, 3, 0, 1, 8])
AS_PUBLISHED = {"normalize": False, "anchors_without_positives": "zero"}


@pytest.mark.parametrize(
    ("expected", "value"),
    [
        (18.044684791619165, lambda: SupConLoss(0.07, **AS_PUBLISHED)(LABELS, EMBEDDINGS)),
        (
            18.47605550622591,
            lambda: (
                SupConLoss(0.1, scale_by_temperature=True, **AS_PUBLISHED)(LABELS, EMBEDDINGS)
                / 0.07
            ),
        ),
        (
            13.432288297732793,
            lambda: SupConLoss(0.1, contrast_mode="one", **AS_PUBLISHED)(LABELS, EMBEDDINGS),
        ),
        (20.707496921866188, lambda: SupConLoss(0.07, **AS_PUBLISHED)(None, EMBEDDINGS)),
        (11.641088109614442, lambda: SupConLoss(0.07, **AS_PUBLISHED)(LABELS, EMBEDDINGS[:, :1])),
    ],
    ids=["default", "temperature", "one", "no labels", "one view"],
)
def test_supcontrast(expected, value):
    np.testing.assert_allclose(value(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("expected", "value"),
    [
        (12.933238854358141, lambda: SupConLoss(0.1)(LABELS, EMBEDDINGS)),
        (11.559567552517183, lambda: SupConLoss(0.1)(LABELS, EMBEDDINGS[:, 0])),
        (3.463980512619943, lambda: SimCLRLoss(0.5)(None, EMBEDDINGS[:, :2])),
        (
            0.6993723254692203,
            lambda: TripletLoss(0.2, distance="euclidean", mining="all", average="active")(
                LABELS, EMBEDDINGS[:, 0]
            ),
        ),
    ],
    ids=["SupConLoss", "SupConLoss one view", "NTXentLoss", "TripletMarginLoss"],
)
def test_pytorch_metric_learning(expected, value):
    np.testing.assert_allclose(value(), expected, rtol=1e-6)


def test_ntxent_of_pytorch_metric_learning_with_repeated_labels():
    """Its mean is over the positive pairs, not over the anchors."""
    modes = {"denominator_mode": "one_positive", "anchors_without_positives": "zero"}
    loss = SupConLoss(0.5, reduction="none", **modes)
    pairs = np.tile(positives_per_anchor(LABELS, EMBEDDINGS), 3)
    found = np.sum(loss(LABELS, EMBEDDINGS).numpy() * pairs) / np.sum(pairs)
    np.testing.assert_allclose(found, 3.7643949738831535, rtol=1e-6)


def test_solo_learn():
    losses = supcon_loss(LABELS, EMBEDDINGS, temperature=0.1, summation_location="in")
    pairs = np.tile(positives_per_anchor(LABELS, EMBEDDINGS), 3)
    np.testing.assert_allclose(np.mean(losses - np.log(pairs)), 4.714389736707926, rtol=1e-6)


@pytest.mark.parametrize(
    ("location", "denominator", "cap", "expected"),
    [
        ("out", "all", None, 1.2933237552642822),
        ("out", "all", 3, 1.3222132921218872),
        ("out", "one_positive", None, 1.2726775407791138),
        ("out", "one_positive", 3, 1.305766224861145),
        ("out", "only_negatives", None, 1.2691868543624878),
        ("out", "only_negatives", 3, 1.3016527891159058),
        ("in", "all", None, 0.6263460516929626),
        ("in", "all", 3, 0.6700169444084167),
        ("in", "one_positive", None, 0.6248003244400024),
        ("in", "one_positive", 3, 0.6699005365371704),
        ("in", "only_negatives", None, 0.6022090911865234),
        ("in", "only_negatives", 3, 0.6494563221931458),
    ],
)
def test_tensorflow_reference(location, denominator, cap, expected):
    loss = SupConLoss(
        0.1,
        summation_location=location,
        denominator_mode=denominator,
        positives_cap=cap,
        scale_by_temperature=True,
        **AS_PUBLISHED,
    )
    np.testing.assert_allclose(loss(LABELS, EMBEDDINGS), expected, rtol=1e-5)


def test_one_view_fault_of_the_tensorflow_reference():
    """It divides by the number of positives twice."""
    single = EMBEDDINGS[:, :1]
    losses = supcon_loss(LABELS, single, scale_by_temperature=True, **AS_PUBLISHED)
    found = losses / tf.maximum(positives_per_anchor(LABELS, single), 1.0)
    expected = [0.5526968, 1.7095038, 0.24889183, 0.37744024, 0, 1.7122223, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
