"""Weights of images and classes through every door of Keras: they count, or are refused by name."""

import keras
import numpy as np
import pytest
from engine.test_keras import (
    LABELS,
    RAGGED,
    VIEWS,
    WEIGHTS,
    Batches,
    cross_entropy_model,
    dataset,
    fit,
    mean_loss,
    pairwise,
)

from supcon_tf import SimCLRLoss

CLASS_WEIGHTS = {0: 0.5, 1: 2.0, 2: 1.0}
BY_CLASS = np.vectorize(CLASS_WEIGHTS.get)(LABELS).astype(np.float32)
WHOLE = [slice(0, 10)]


class WeightedBatches(Batches):
    def __getitem__(self, index):
        return *super().__getitem__(index), WEIGHTS[RAGGED[index]]


def weighted_generator():
    for part in RAGGED:
        yield VIEWS[part], LABELS[part], WEIGHTS[part]


def weighted():
    return dataset(VIEWS, LABELS, WEIGHTS)


def loss_of(results):
    """Of a history, or of what `return_dict=True` gives."""
    found = getattr(results, "history", results)
    return float(np.ravel(found.get("val_loss", found["loss"]))[0])


# How weights come, the batches they come in, and the weights.
WAYS = {
    "arrays": (
        lambda m: m.fit(VIEWS, LABELS, sample_weight=WEIGHTS, batch_size=4, shuffle=False),
        RAGGED,
        WEIGHTS,
    ),
    "tf.data": (lambda m: m.fit(weighted(), shuffle=False), RAGGED, WEIGHTS),
    "PyDataset": (lambda m: m.fit(WeightedBatches(), shuffle=False), RAGGED, WEIGHTS),
    "generator": (
        lambda m: m.fit(weighted_generator(), steps_per_epoch=3, shuffle=False),
        RAGGED,
        WEIGHTS,
    ),
    "validation data": (
        lambda m: m.fit(dataset(), shuffle=False, validation_data=(VIEWS, LABELS, WEIGHTS)),
        WHOLE,
        WEIGHTS,
    ),
    "validation split": (
        lambda m: m.fit(VIEWS, LABELS, sample_weight=WEIGHTS, validation_split=0.5),
        [slice(5, 10)],
        WEIGHTS,
    ),
    "train_on_batch": (
        lambda m: m.train_on_batch(VIEWS, LABELS, WEIGHTS, return_dict=True),
        WHOLE,
        WEIGHTS,
    ),
    "test_on_batch": (
        lambda m: m.test_on_batch(VIEWS, LABELS[:, None], WEIGHTS[:, None], return_dict=True),
        WHOLE,
        WEIGHTS,
    ),
    "evaluate": (lambda m: m.evaluate(weighted(), return_dict=True), RAGGED, WEIGHTS),
    "evaluate arrays": (
        lambda m: m.evaluate(VIEWS, LABELS, sample_weight=WEIGHTS, return_dict=True),
        WHOLE,
        WEIGHTS,
    ),
    "classes, arrays": (
        lambda m: m.fit(VIEWS, LABELS, class_weight=CLASS_WEIGHTS, batch_size=4, shuffle=False),
        RAGGED,
        BY_CLASS,
    ),
    "classes, tf.data": (
        lambda m: m.fit(dataset(), class_weight=CLASS_WEIGHTS, shuffle=False),
        RAGGED,
        BY_CLASS,
    ),
    "classes, PyDataset": (
        lambda m: m.fit(Batches(), class_weight=CLASS_WEIGHTS, shuffle=False),
        RAGGED,
        BY_CLASS,
    ),
    "classes, train_on_batch": (
        lambda m: m.train_on_batch(VIEWS, LABELS, class_weight=CLASS_WEIGHTS, return_dict=True),
        WHOLE,
        BY_CLASS,
    ),
}


@pytest.mark.parametrize("steps_per_execution", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_weights_of_samples_and_classes_count(way, steps_per_execution):
    train, slices, weights = WAYS[way]
    model = pairwise()
    model.compile(
        keras.optimizers.SGD(0.0), steps_per_execution=steps_per_execution, jit_compile=False
    )
    expected = mean_loss(model, slices, weights)
    assert loss_of(train(model)) == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(mean_loss(model, slices), rel=1e-2)


@pytest.mark.parametrize(
    ("name", "train"),
    [
        ("sample_weight", lambda m: m.fit(VIEWS, sample_weight=WEIGHTS)),
        ("sample_weight", lambda m: m.evaluate(VIEWS, sample_weight=WEIGHTS)),
        ("sample_weight", lambda m: m.fit(VIEWS, validation_data=(VIEWS, None, WEIGHTS))),
        ("class_weight", lambda m: m.fit(VIEWS, class_weight=CLASS_WEIGHTS)),
        ("class_weight", lambda m: m.train_on_batch(VIEWS, class_weight=CLASS_WEIGHTS)),
    ],
)
def test_weights_that_keras_would_leave_out_are_refused(name, train):
    with pytest.raises(ValueError, match=f"^{name} needs labels; .* Received: y=None"):
        train(pairwise(SimCLRLoss(0.5)))


@pytest.mark.parametrize("method", [pairwise, cross_entropy_model])
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("labels", {"y": LABELS.reshape(2, 5)}),
        ("labels", {"y": LABELS[None]}),
        ("labels", {"y": np.eye(3)[LABELS]}),
        ("labels", {"y": LABELS[:5]}),
        ("sample_weight", {"y": LABELS, "sample_weight": WEIGHTS[:5]}),
        ("sample_weight", {"y": LABELS, "sample_weight": WEIGHTS.reshape(2, 5)}),
        ("sample_weight", {"y": LABELS, "sample_weight": np.stack([WEIGHTS, WEIGHTS], 1)}),
    ],
)
def test_labels_and_weights_are_one_for_each_image(method, name, given):
    with pytest.raises(ValueError, match=rf"{name} must have one value per image, of shape \[10\]"):
        method().train_on_batch(VIEWS, **given)


def test_single_batches_in_micro_batches():
    model = pairwise(micro_batch_size=5)
    found = model.train_on_batch(VIEWS, LABELS, return_dict=True)
    assert loss_of(found) == pytest.approx(mean_loss(model, WHOLE), rel=1e-5)


def test_cross_entropy_takes_weights_too():
    model = cross_entropy_model()
    found = fit(model, VIEWS, LABELS, sample_weight=WEIGHTS, batch_size=10)
    logits = model.classification_head(model.encoder(VIEWS.reshape(-1, 8, 8, 3))).numpy()
    logits = logits.astype(np.float64)
    likelihood = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    own = -likelihood[np.arange(20), np.repeat(LABELS, 2)]
    expected = np.mean(np.repeat(WEIGHTS, 2) * own)
    assert found["loss"][0] == pytest.approx(expected, rel=1e-5)
