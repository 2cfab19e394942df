"""SuNCEt: vectors of the specification, identities, and a step of the whole method."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import l2, raw

import supcon_tf
from supcon_tf import PretrainConfig, ProjectionHead, SimCLRLoss, SupConLoss, UserError
from supcon_tf.methods.suncet import SuNCEt, SuNCEtLoss, suncet_loss
from supcon_tf.networks.initial import initial_weights

Z = l2(raw((6, 3), 0.9, 2.3))


@pytest.mark.parametrize(
    ("labels", "temperature", "expected"),
    [
        (
            [0, 1, 2, 0, 1, 2],
            0.1,
            [13.264585, 15.653681, 17.244321, 16.309838, 14.607523, 14.978394],
        ),
        ([0, 1, 0, 1, 0, 1], 0.1, [7.792843, 6.768814, 9.931964, 7.168661, 8.343198, 10.132837]),
    ],
)
def test_vectors(labels, temperature, expected):
    found = suncet_loss(np.array(labels), Z, temperature=temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_means_with_another_temperature_and_with_smoothing():
    labels = np.array([0, 1, 2, 0, 1, 2])
    assert float(SuNCEtLoss(0.5)(labels, Z)) == pytest.approx(3.688894, rel=1e-5)
    assert float(SuNCEtLoss(0.1, 0.1, 3)(labels, Z)) == pytest.approx(3.255352, rel=1e-5)


def test_smoothing_equals_loops():
    labels, epsilon = np.array([0, 1, 2, 0, 1, 2]), 0.3
    targets = np.eye(4)[labels] * (1 - epsilon) + epsilon / 4  # Four classes, one of them absent.
    expected = []
    for i, row in enumerate(Z):
        near = [0.0 if j == i else np.exp(row @ other / 0.2) for j, other in enumerate(Z)]
        posterior = np.array(near) @ targets / sum(near)
        expected.append(-targets[i] @ np.log(posterior))
    found = suncet_loss(labels, Z, temperature=0.2, label_smoothing=epsilon, num_classes=4)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_nca_of_half_the_inverse_temperature():
    rows, labels = l2(raw((4, 3), 0.9, 2.3)), np.array([0, 0, 1, 1])
    assert float(SuNCEtLoss(0.3)(labels, rows)) == pytest.approx(0.525925, rel=1e-5)


def loops(labels, rows, temperature):
    losses = []
    for i, row in enumerate(rows):
        near = {j: np.exp(row @ other / temperature) for j, other in enumerate(rows) if j != i}
        same = sum(value for j, value in near.items() if labels[j] == labels[i])
        losses.append(-np.log(same / sum(near.values())) if same else 0.0)
    return losses


def test_equals_loops_and_l_in_less_the_log_of_its_positives():
    labels = np.array([5, 5, 2, 9, 2, 5, 2])  # One class has a single row.
    rows = l2(raw((7, 4), 1.1, 0.6))
    found = suncet_loss(labels, rows, temperature=0.2).numpy()
    np.testing.assert_allclose(found, loops(labels, rows, 0.2), rtol=1e-5)
    counts = np.array([np.sum(labels == label) - 1 for label in labels])
    inside = supcon_tf.supcon_loss(
        labels, rows, temperature=0.2, summation_location="in", anchors_without_positives="zero"
    ).numpy()
    has = counts > 0
    np.testing.assert_allclose(found[has], inside[has] - np.log(counts[has]), rtol=1e-5)
    assert found[~has] == [0.0]


def test_one_class_gives_zero_and_gradients_are_finite_at_tiny_temperatures():
    np.testing.assert_allclose(suncet_loss(np.zeros(6, int), Z), 0.0, atol=1e-6)
    rows = tf.constant(Z, tf.float32)
    for smoothing in (0.0, 0.1):
        with tf.GradientTape() as tape:
            tape.watch(rows)
            loss = SuNCEtLoss(1e-3, smoothing, 3)(np.array([0, 1, 2, 0, 1, 1]), rows)
        assert np.isfinite(tape.gradient(loss, rows)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0 and finite. Received: 0.0"),
        ({"label_smoothing": 1.0}, "label_smoothing must be in .0, 1.. Received: 1.0"),
        ({"label_smoothing": 0.1}, "label_smoothing needs num_classes"),
    ],
)
def test_the_loss_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SuNCEtLoss(**arguments)


def test_the_loss_is_rebuilt_from_its_settings():
    loss = SuNCEtLoss(0.2, 0.1, 4)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert dataclasses.asdict(again) == dataclasses.asdict(loss)


def small_model(**settings):
    with initial_weights(0):
        images = keras.Input((8, 8, 3))
        x = keras.layers.Conv2D(4, 3, activation="relu")(images)
        encoder = keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))
        model = SuNCEt(encoder, ProjectionHead(6, ()), 3, temperature=0.5, **settings)
    model.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=False)
    return model


def batch():
    rng = np.random.default_rng(0)
    unlabelled = rng.random((5, 2, 8, 8, 3)).astype(np.float32)
    labelled = rng.random((6, 1, 8, 8, 3)).astype(np.float32)
    return {
        "unlabelled": (tf.constant(unlabelled), tf.zeros(5, tf.int32)),
        "labelled": (tf.constant(labelled), tf.constant([0, 1, 2, 0, 1, 2])),
    }


def test_the_terms_are_those_of_each_part_and_the_second_is_switched_off():
    model = small_model(supervised_steps=1)

    def embedded(views):
        rows = model.projection_head(model.encoder(tf.reshape(views, [-1, 8, 8, 3])))
        return tf.reshape(rows, [*views.shape[:2], 6])

    data = batch()
    contrastive = float(SimCLRLoss(0.5)(None, embedded(data["unlabelled"][0])))
    labels = data["labelled"][1]
    inside = SupConLoss(0.5, summation_location="in")(labels, embedded(data["labelled"][0]))
    found = {name: float(value) for name, value in model.train_step(data).items()}
    assert found["simclr"] == pytest.approx(contrastive, rel=1e-5)
    assert found["suncet"] == pytest.approx(float(inside), rel=1e-5)  # One positive: log 1 less.
    assert found["loss"] == pytest.approx(contrastive + float(inside), rel=1e-5)
    model.reset_metrics()
    found = {name: float(value) for name, value in model.train_step(data).items()}
    assert found["suncet"] == 0.0
    assert found["loss"] == pytest.approx(found["simclr"])


def config(small_config, run_dir, **changes):
    arguments = {"images_per_class": 4, "supervised_epochs": 2}
    settings = {"epochs": 3, "method": "suncet", "method_args": arguments, "micro_batch_size": 64}
    settings["labelled_fraction"] = 0.2
    return PretrainConfig(run_dir=str(run_dir), **{**small_config, **settings, **changes})


@pytest.fixture(scope="module")
def whole_run(small_config, tmp_path_factory):
    run = tmp_path_factory.mktemp("suncet") / "run"
    supcon_tf.pretrain(config(small_config, run, batch_size=128), maps=False)
    return run


@pytest.mark.slow
def test_the_supervised_loss_ends_and_the_encoder_learns(whole_run):
    history = supcon_tf.stages.run_directory.RunDirectory(str(whole_run)).history()["pretrain"]
    assert history["suncet"][1] > 0 == history["suncet"][2]
    found = supcon_tf.evaluate(supcon_tf.EvaluateConfig(run_dir=str(whole_run)))
    assert found["knn_top1"] > 0.5


@pytest.mark.multi_device
@pytest.mark.slow
def test_two_replicas_train_like_one(small_config, tmp_path):
    """Without micro-batches, whose batch norm would see other images."""
    changes, curves = {"micro_batch_size": None, "epochs": 2, "learning_rate": 0.02}, []
    for strategy in ("one_device", "mirrored"):
        settings = config(small_config, tmp_path / strategy, strategy=strategy, **changes)
        supcon_tf.pretrain(settings, maps=False)
        run = supcon_tf.stages.run_directory.RunDirectory(settings.run_dir)
        curves.append(run.history()["pretrain"])
    for name in ("loss", "simclr", "suncet"):
        np.testing.assert_allclose(curves[0][name], curves[1][name], rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes_per_batch": 3}, "classes_per_batch must divide the 10 classes. Received: 3"),
        ({"images_per_class": 40}, "images_per_class must be from 1 to"),
        ({"images_per_class": 1}, "images_per_class must be at least 2: .* Received: 1"),
        (
            {"supervised_epochs": 0},
            "supervised_epochs must be above 0 .*Received: 0",
        ),
        ({"supervised_epochs": 1e300}, "supervised_epochs must be above 0 and at most 1e6"),
        ({"classes_per_batch": 0}, "classes_per_batch must divide the 10 classes. Received: 0"),
        ({"margin": 1}, "method suncet has no argument 'margin'; it takes temperature"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    arguments, message, small_config, tmp_path
):
    with pytest.raises(UserError, match=message):
        supcon_tf.pretrain(config(small_config, tmp_path / "run", method_args=arguments))
    assert not (tmp_path / "run").exists()
