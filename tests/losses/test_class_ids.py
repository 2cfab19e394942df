"""Class ids of every integer dtype: what they are called changes nothing."""

import numpy as np
import pytest
import tensorflow as tf
from reference import l2, raw

from supcon_tf import (
    CACRLoss,
    MaxMarginLoss,
    NPairsLoss,
    SimCLRLoss,
    SupConLoss,
    TripletLoss,
    alignment,
)
from supcon_tf.losses.metrics import pair_metrics
from supcon_tf.methods.suncet import SuNCEtLoss

LABELS = np.array([0, 1, 0, 2, 1, 3, 0])
EMBEDDINGS = l2(raw((7, 2, 5), 0.9, 1.7, 2.3)).astype(np.float32)
NAMES = {
    "bool": [True, False, True, True],
    "int8": [-1, 127, -128, 0],
    "uint8": [255, 0, 128, 7],
    "int16": [-1, 32767, -32768, 1],
    "uint16": [65535, 0, 32768, 1],
    "int32": [-1, 2**31 - 1, -(2**31), 2**24 + 1],
    "uint32": [2**32 - 1, 0, 2**31, 2**24 + 1],
    "int64": [-1, 2**32 - 1, 2**62, -(2**63)],
    "uint64": [2**64 - 1, 2**63, 2**32 - 1, 2**63 - 1],
}
LOSSES = [
    SupConLoss(),
    SupConLoss(summation_location="in", denominator_mode="one_positive"),
    SupConLoss(positives_cap=2, positives_cap_seed=3),
    SimCLRLoss(),
    TripletLoss(),
    TripletLoss(mining="all"),
    NPairsLoss(),
    MaxMarginLoss(average="balanced"),
    CACRLoss(supervised=True),
    SuNCEtLoss(),
]
QUEUE_LABELS = np.array([3, 1, 0, 2, 1])
QUEUE = (l2(raw((5, 5), 1.3, 0.8)), np.array([True, True, False, True, True]))


def plain(dtype):
    """The ids that the names of a dtype stand for: it may have fewer than four."""
    names = NAMES[dtype]
    return np.array([names.index(name) for name in names])


@pytest.mark.parametrize(
    ("dtype", "compiled"), [*((dtype, False) for dtype in NAMES), ("uint64", True)]
)
def test_losses_and_metrics(dtype, compiled):
    def values(labels, queue_labels):
        with_queue = [SupConLoss(), CACRLoss(supervised=True)]
        return [
            *(loss(labels, EMBEDDINGS) for loss in LOSSES),
            *(loss(labels, EMBEDDINGS, queue=(queue_labels, *QUEUE)) for loss in with_queue),
            alignment(labels, EMBEDDINGS),
        ]

    values = tf.function(values, jit_compile=True) if compiled else values
    names = np.array(NAMES[dtype], dtype)
    found = values(tf.constant(names[LABELS]), tf.constant(names[QUEUE_LABELS]))
    numbers = plain(dtype).astype(np.int32)
    expected = values(tf.constant(numbers[LABELS]), tf.constant(numbers[QUEUE_LABELS]))
    np.testing.assert_array_equal(found, expected)
    for metric, other in zip(pair_metrics(5), pair_metrics(5), strict=True):
        metric.update_state(names[LABELS], EMBEDDINGS)
        other.update_state(numbers[LABELS], EMBEDDINGS)
        np.testing.assert_array_equal(metric.result(), other.result())


def test_a_queue_of_another_dtype():
    """4294967296 and 256 are 0 in int32 and in uint8."""
    expected = SupConLoss()(LABELS, EMBEDDINGS, queue=(QUEUE_LABELS + 10, *QUEUE))
    for dtype, beyond in (("int32", 2**32), ("uint8", 256), ("int8", 2**32)):
        labels = LABELS.astype(dtype)
        found = SupConLoss()(labels, EMBEDDINGS, queue=(QUEUE_LABELS + beyond, *QUEUE))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("loss", [SupConLoss(), CACRLoss(supervised=True), SuNCEtLoss()])
@pytest.mark.parametrize("shape", [(10,), (10, 1)])
def test_one_id_an_image(loss, shape):
    embeddings = l2(raw((10, 2, 4), 0.9, 1.7, 2.3))
    labels = np.arange(10) % 3
    expected = loss(labels, embeddings)
    np.testing.assert_array_equal(loss(labels.reshape(shape), embeddings), expected)


@pytest.mark.parametrize(
    "use",
    [
        SupConLoss(),
        TripletLoss(),
        NPairsLoss(),
        MaxMarginLoss(),
        CACRLoss(supervised=True),
        SuNCEtLoss(),
        alignment,
        pair_metrics(4)[0],
    ],
)
@pytest.mark.parametrize("shape", [(2, 5), (1, 10), (5, 1), (5,), (10, 2), (10, 1, 1), ()])
def test_other_shapes_are_refused(use, shape):
    embeddings, labels = l2(raw((10, 2, 4), 0.9, 1.7, 2.3)), np.zeros(shape, np.int64)
    message = r"labels must be one class id per image, \[10\]. Received: shape \("
    with pytest.raises(ValueError, match=message):
        use(labels, embeddings)
    if len(shape) == 2 and shape[1] > 1:
        signature = [tf.TensorSpec(None, tf.int64), tf.TensorSpec([None, 2, 4], tf.float32)]
        unknown = tf.function(lambda y, z: use(y, z), input_signature=signature)
        with pytest.raises(tf.errors.InvalidArgumentError, match="must be one per image"):
            unknown(labels, embeddings.astype(np.float32))


@pytest.mark.parametrize("shape", [(2, 3), (1, 6), (3,)])
def test_labels_of_a_queue_have_one_shape_too(shape):
    queue = np.zeros(shape, np.int64), l2(raw((6, 5), 1.3, 0.8)), np.ones(6, bool)
    for loss in (SupConLoss(), CACRLoss(supervised=True)):
        with pytest.raises(ValueError, match="labels must be one class id per image"):
            loss(LABELS, EMBEDDINGS, queue=queue)


@pytest.mark.parametrize("use", [*LOSSES, CACRLoss(), alignment])
@pytest.mark.parametrize("shape", [(4, None, 3), (4, 2, None), (None, None, None), None, (4,)])
def test_an_unknown_number_of_views_is_named(use, shape):
    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32)])
    def call(embeddings):
        return use(np.arange(4), embeddings)

    with pytest.raises(ValueError, match=r"embeddings must be \[B.*Received: shape [(<]"):
        call(np.ones((4, 2, 3) if shape != (4,) else 4, np.float32))
