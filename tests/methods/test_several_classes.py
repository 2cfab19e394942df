"""Methods on images that have several classes each: which can, what they compute, two replicas."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import write_images

from supcon_tf import (
    CrossEntropyModel,
    PairwiseModel,
    PretrainConfig,
    ProjectionHead,
    SimCLRLoss,
    SupConLoss,
    TripletLoss,
    UserError,
    make_strategy,
    open_dataset,
)
from supcon_tf.data.views import sharding_off
from supcon_tf.losses.label_overlap import jaccard_overlap
from supcon_tf.losses.sigmoid import SigmoidCrossEntropy
from supcon_tf.methods import METHODS
from supcon_tf.methods.joint import JointModel
from supcon_tf.networks.initial import initial_weights
from supcon_tf.stages.checks import checked_batch

RNG = np.random.default_rng(0)
VIEWS = RNG.random((24, 2, 8, 8, 3)).astype(np.float32)
LABELS = RNG.random((24, 3)) < [0.6, 0.3, 0.2]

MODELS = {
    "supcon": lambda encoder: PairwiseModel(encoder, ProjectionHead(6, ()), SupConLoss(0.5)),
    "simclr": lambda encoder: PairwiseModel(
        encoder, ProjectionHead(6, ()), SimCLRLoss(0.5), queue_size=24
    ),
    "cross_entropy": lambda encoder: CrossEntropyModel(encoder, 3, multi_label=True),
    "joint": lambda encoder: JointModel(encoder, ProjectionHead(6, ()), 3, multi_label=True),
}


def built(make):
    with initial_weights(0):
        images = keras.Input((8, 8, 3))
        x = keras.layers.Conv2D(4, 3, activation="relu")(images)
        model = make(keras.Model(images, keras.layers.GlobalAveragePooling2D()(x)))
    model.compile(optimizer=keras.optimizers.SGD(0.5))
    return model


def trained(make, strategy):
    """Metrics and weights after some steps; Keras's `fit` cannot give bools to two replicas."""
    strategy = make_strategy(strategy)
    with strategy.scope():
        model = built(make)
    data = sharding_off(tf.data.Dataset.from_tensor_slices((VIEWS, LABELS)).batch(12).repeat(2))
    step = tf.function(lambda batch: strategy.run(model.train_step, args=(batch,)))
    for batch in strategy.experimental_distribute_dataset(data):
        step(batch)
    metrics = {metric.name: float(metric.result()) for metric in model.metrics}
    return metrics, [np.asarray(weight) for weight in model.trainable_weights]


@pytest.mark.multi_device
@pytest.mark.parametrize("name", MODELS)
def test_two_replicas_train_like_one(name):
    one, two = (trained(MODELS[name], strategy) for strategy in ("one_device", "mirrored"))
    assert one[0].keys() == two[0].keys()
    for metric, values in one[0].items():
        np.testing.assert_allclose(two[0][metric], values, rtol=1e-3, atol=1e-6, err_msg=metric)
    for left, right in zip(one[1], two[1], strict=True):
        np.testing.assert_allclose(right, left, rtol=1e-4, atol=1e-6)


def test_positives_are_weighted_by_overlap_over_the_whole_batch():
    model = built(MODELS["supcon"])
    embeddings = RNG.normal(size=(24, 2, 6)).astype(np.float32)
    found = model.compute_losses({"embeddings": embeddings, "labels": tf.constant(LABELS)})
    weights = jaccard_overlap(LABELS)
    expected = SupConLoss(0.5)(None, embeddings, positive_weights=weights)
    np.testing.assert_allclose(found["supcon"], expected, rtol=1e-6)
    other = model.compute_losses({"embeddings": embeddings, "labels": tf.constant(~LABELS)})
    assert abs(float(other["supcon"] - expected)) > 1e-3


def test_cross_entropy_is_the_sigmoid_one_of_every_view():
    model = built(MODELS["cross_entropy"])
    logits = RNG.normal(size=(24, 2, 3)).astype(np.float32)
    weights = np.arange(24, dtype=np.float32)
    outputs = {"logits": tf.constant(logits), "labels": LABELS, "sample_weight": weights}
    by_view = [SigmoidCrossEntropy()(LABELS, logits[:, view], weights) for view in range(2)]
    copy = CrossEntropyModel.from_config(model.get_config())
    for one in (model, copy):
        found = float(one.compute_losses(outputs)["cross_entropy"])
        assert found == pytest.approx(np.mean(by_view), rel=1e-6)


def test_losses_that_need_class_ids_say_so():
    data = tf.data.Dataset.from_tensor_slices((VIEWS, LABELS)).batch(12)
    for loss, queue, name in (
        (TripletLoss(), 0, "triplet"),
        (SupConLoss(), 12, "supcon with a qu"),
    ):
        model = built(
            lambda encoder, loss=loss, queue=queue: PairwiseModel(
                encoder, ProjectionHead(6, ()), loss, queue_size=queue
            )
        )
        with pytest.raises(ValueError, match=f"{name}.* needs one class per image"):
            model.fit(data, shuffle=False, verbose=0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    write_images(folder, ["all"], 40, size=(6, 6))
    rows = [
        {"path": f"all/{n:03d}.png", "label": ["red", "green"][: 1 + n % 2] if n % 3 else ["blue"]}
        for n in range(40)
    ]
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_dataset(f"jsonl:{folder}/labels.jsonl", image_size_px=8)


TAKE_SEVERAL = {
    "supcon_out": {},
    "supcon_in": {},
    "sincere": {},
    "epsilon_supinfonce": {},
    "simclr": {},
    "cacr": {},
    "cross_entropy": {"method_args": {"class_weights": "inverse"}},
    "joint": {},
    "loco": {},
}


@pytest.mark.parametrize("method", METHODS)
def test_methods_take_several_classes_or_are_refused(method, dataset):
    config = PretrainConfig(
        method=method,
        batch_size=16,
        queue_size=16 if method == "comatch" else 0,
        **TAKE_SEVERAL.get(method, {}),
    )
    if method in TAKE_SEVERAL:
        batch = checked_batch(config, dataset, 1)
        assert batch[1] == tf.TensorSpec([16, 3], tf.bool)
        return
    with pytest.raises(
        UserError,
        match=f"method {method} needs one class per image.*Use one of supcon_out, .*simclr",
    ):
        checked_batch(config, dataset, 1)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("cacr", {"method_args": {"supervised": True}}, "cacr needs one class per image"),
        ("loco", {"method_args": {"local_loss": "supcon"}}, "loco needs one class per image"),
        ("supcon_out", {"queue_size": 32}, "supcon with a queue needs one class per image"),
        ("supcon_out", {"method_args": {"positives_cap": 2}}, "positives_cap is for labels"),
        ("cross_entropy", {"method_args": {"logit_adjustment": 1.0}}, "needs images of one class"),
        ("simclr", {"classes_per_batch": 2, "images_per_class": 8}, "is for one class per image"),
    ],
)
def test_settings_for_one_class_are_refused(method, settings, message, dataset):
    with pytest.raises(UserError, match=message):
        checked_batch(PretrainConfig(method=method, batch_size=16, **settings), dataset, 1)
