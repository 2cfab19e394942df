"""Joint training: SupCon and cross entropy of one encoder, in sum, by gradient and in a run."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import supcon_tf
from supcon_tf import (
    PairwiseModel,
    PretrainConfig,
    ProjectionHead,
    SupConLoss,
    UserError,
    make_strategy,
)
from supcon_tf.data.views import sharding_off
from supcon_tf.methods.joint import JointModel
from supcon_tf.networks.initial import initial_weights
from supcon_tf.stages.run_directory import RunDirectory

VIEWS = np.random.default_rng(0).random((6, 2, 8, 8, 3)).astype(np.float32)
LABELS, WEIGHTS = np.array([0, 1, 2, 0, 1, 0]), np.array([1, 2, 0.5, 1, 0, 3], np.float32)


def small_model(**settings):
    with initial_weights(0):
        images = keras.Input((8, 8, 3))
        x = keras.layers.Conv2D(4, 3, activation="relu")(images)
        encoder = keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))
        model = JointModel(encoder, ProjectionHead(6, ()), 3, temperature=0.5, **settings)
    model.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=False)
    return model


def batch(weights=None):
    """Views and labels, and perhaps weights."""
    data = (VIEWS, LABELS) if weights is None else (VIEWS, LABELS, weights)
    return tuple(map(tf.constant, data))


def by_hand(model, smoothing=0.0, weights=None):
    """SupCon of the embeddings and the mean cross entropy over the views, in float64."""
    features = model.encoder(VIEWS.reshape(-1, 8, 8, 3))
    embeddings = tf.reshape(model.projection_head(features), [6, 2, 6])
    supcon = float(SupConLoss(0.5)(LABELS, embeddings, sample_weight=weights))
    logits = model.classification_head(features).numpy().astype(np.float64)
    likelihood = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    targets = np.eye(3)[np.repeat(LABELS, 2)] * (1 - smoothing) + smoothing / 3
    own = -(targets * likelihood).sum(axis=1)
    return supcon, np.mean(own if weights is None else own * np.repeat(weights, 2))


@pytest.mark.parametrize(
    ("weight", "smoothing", "sample_weight"),
    [(1.0, 0.0, None), (0.3, 0.2, None), (2.0, 0.1, WEIGHTS)],
)
def test_the_loss_is_the_weighted_sum(weight, smoothing, sample_weight):
    model = small_model(cross_entropy_weight=weight, label_smoothing=smoothing)
    supcon, cross_entropy = by_hand(model, smoothing, sample_weight)
    found = model.train_step(batch(sample_weight))
    found = {name: float(value) for name, value in found.items()}
    assert found["supcon"] == pytest.approx(supcon, rel=1e-5)
    assert found["cross_entropy"] == pytest.approx(weight * cross_entropy, rel=1e-5)
    assert found["loss"] == pytest.approx(supcon + weight * cross_entropy, rel=1e-5)
    assert found["positives_per_anchor"] > 1


def encoder_gradient(model):
    with tf.GradientTape() as tape:
        loss = sum(model.compute_losses(model.forward(batch())).values())
    return [np.asarray(one) for one in tape.gradient(loss, model.encoder.trainable_variables)]


def test_without_cross_entropy_the_encoder_is_trained_by_supcon():
    model = small_model(cross_entropy_weight=0.0)
    alone = PairwiseModel(model.encoder, model.projection_head, SupConLoss(0.5))
    expected = encoder_gradient(alone)
    assert max(np.abs(one).max() for one in expected) > 1e-3
    for one, other in zip(encoder_gradient(model), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    before = model.classification_head.get_weights()
    model.train_step(batch())
    for one, other in zip(model.classification_head.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    both = encoder_gradient(small_model())
    assert max(np.abs(one - other).max() for one, other in zip(both, expected, strict=True)) > 1e-3


def test_a_saved_model_trains_on_as_before(tmp_path):
    model = small_model(cross_entropy_weight=0.3, label_smoothing=0.1, ema_momentum=0.9)
    model.train_step(batch())
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for _ in range(2):
        found = [one.train_on_batch(VIEWS, LABELS, return_dict=True) for one in (model, again)]
        assert float(found[0]["loss"]) == pytest.approx(float(found[1]["loss"]), rel=1e-6)


def test_the_averages_are_kept():
    model = small_model(ema_momentum=0.5)
    for _ in range(3):
        model.train_step(batch())
    features = model.ema_encoder(VIEWS[:, 0])
    expected = model.ema_head(features).numpy()
    assert np.abs(expected - model.classification_head(features)).max() > 1e-4
    found = model.kept()["classifier"](VIEWS[:, 0])["logits"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def config(small_config, run_dir, **changes):
    settings = {"epochs": 2, "method": "joint", "method_args": {"label_smoothing": 0.1}}
    return PretrainConfig(run_dir=str(run_dir), **{**small_config, **settings, **changes})


@pytest.fixture(scope="module")
def whole_run(small_config, tmp_path_factory):
    run = tmp_path_factory.mktemp("joint") / "run"
    supcon_tf.pretrain(config(small_config, run), maps=False)
    return run


@pytest.mark.slow
def test_it_trains_and_resumes_bit_for_bit(whole_run, small_config, tmp_path):
    settings = config(small_config, tmp_path / "run")
    supcon_tf.pretrain(settings, stop_when=lambda history: len(history["loss"]) == 1)
    supcon_tf.pretrain(settings.replace(resume=True), maps=False)
    runs = whole_run, tmp_path / "run"
    histories = [RunDirectory(str(run)).history()["pretrain"] for run in runs]
    for history in histories:
        del history["seconds"]
    assert histories[0] == histories[1]
    for name in ("encoder.keras", "classifier.keras"):
        left, right = (keras.saving.load_model(run / name) for run in runs)
        for one, other in zip(left.get_weights(), right.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_it_is_evaluated_with_its_classifier(whole_run):
    found = supcon_tf.evaluate(supcon_tf.EvaluateConfig(run_dir=str(whole_run)))
    assert found["top1"] > 0.3
    assert found["knn_top1"] > 0.5


@pytest.mark.multi_device
def test_two_replicas_train_like_one():
    data = sharding_off(tf.data.Dataset.from_tensor_slices((VIEWS, LABELS)).batch(6).repeat(3))
    weights, losses = [], []
    for name in ("one_device", "mirrored"):
        with make_strategy(name).scope():
            model = small_model(cross_entropy_weight=0.5)
        losses.append(model.fit(data, shuffle=False, verbose=0).history)
        weights.append([np.asarray(one) for one in model.trainable_variables])
    for name in ("loss", "supcon", "cross_entropy"):
        np.testing.assert_allclose(losses[0][name], losses[1][name], rtol=1e-5)
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cross_entropy_weight": -1}, "cross_entropy_weight must be at least 0 .*Received: -1"),
        ({"cross_entropy_weight": float("nan")}, "finite. Received: nan"),
        ({"label_smoothing": 1.0}, "label_smoothing must be in .0, 1.. Received: 1.0"),
        ({"margin": 1}, "method joint has no argument 'margin'; it takes temperature, cross_"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    arguments, message, small_config, tmp_path
):
    with pytest.raises(UserError, match=message):
        supcon_tf.pretrain(config(small_config, tmp_path / "run", method_args=arguments))
    assert not (tmp_path / "run").exists()
