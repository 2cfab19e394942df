"""Our models in the hands of someone who knows only Keras: every value against one by hand."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import supcon_tf
from supcon_tf import (
    CrossEntropyModel,
    PairwiseModel,
    ProjectionHead,
    SimCLRLoss,
    SupConLoss,
    make_strategy,
)
from supcon_tf.networks.initial import initial_weights

RNG = np.random.default_rng(0)
VIEWS = RNG.random((10, 2, 8, 8, 3)).astype(np.float32)
LABELS = np.array([0, 1, 0, 1, 2, 2, 0, 1, 2, 0])
WEIGHTS = np.linspace(0.1, 2, 10).astype(np.float32)


def encoder():
    """A small encoder without batch norm: what it computes is the same in training."""
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(images)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))


def pairwise(loss=None, rate=0.0, **settings):
    with initial_weights(0):
        model = PairwiseModel(
            encoder(), ProjectionHead(6, (5,)), loss or SupConLoss(0.5), **settings
        )
    model.compile(optimizer=keras.optimizers.SGD(rate), jit_compile=False)
    return model


def embeddings(model, views):
    rows = model.projection_head(model.encoder(views.reshape(-1, 8, 8, 3)))
    return rows.numpy().reshape(*views.shape[:2], -1)


def cross_entropy_model():
    with initial_weights(0):
        model = CrossEntropyModel(encoder(), 3)
    model.compile(optimizer=keras.optimizers.SGD(0.0), jit_compile=False)
    return model


def mean_loss(model, slices, weights=None):
    """The loss of each batch, weighted by its images."""
    losses = [
        float(
            model.pairwise_loss(
                LABELS[part],
                embeddings(model, VIEWS[part]),
                sample_weight=None if weights is None else weights[part],
            )
        )
        for part in slices
    ]
    return np.average(losses, weights=[len(LABELS[part]) for part in slices])


RAGGED = [slice(0, 4), slice(4, 8), slice(8, 10)]


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return len(RAGGED)

    def __getitem__(self, index):
        return VIEWS[RAGGED[index]], LABELS[RAGGED[index]]


def generator():
    for part in RAGGED:
        yield VIEWS[part], LABELS[part]


def fit(model, *data, **settings):
    return model.fit(*data, shuffle=False, verbose=0, **settings).history


def dataset(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays or (VIEWS, LABELS)).batch(4)


@pytest.mark.parametrize(
    ("data", "arguments"),
    [
        (lambda: (VIEWS, LABELS), {"batch_size": 4}),
        (lambda: (dataset(),), {}),  # Batches of unknown size, the last one ragged.
        (lambda: (Batches(),), {}),
        (lambda: (generator(),), {"steps_per_epoch": 3}),
    ],
    ids=["arrays", "tf.data", "PyDataset", "generator"],
)
def test_fit_takes_every_kind_of_data_and_a_ragged_batch(data, arguments):
    model = pairwise()
    history = fit(model, *data(), **arguments)
    assert history["loss"][0] == pytest.approx(mean_loss(model, RAGGED), rel=1e-5)
    trained = pairwise(rate=0.5)
    before = trained.get_weights()
    fit(trained, *data(), **arguments)
    assert (
        max(np.abs(a - b).max() for a, b in zip(before, trained.get_weights(), strict=True)) > 1e-4
    )


@pytest.mark.parametrize("settings", [{"jit_compile": True}, {"run_eagerly": True}])
def test_how_it_is_run_changes_nothing(settings):
    model = pairwise()
    model.compile(optimizer=keras.optimizers.SGD(0.0), **settings)
    history = fit(model, VIEWS[:8], LABELS[:8], batch_size=4)
    assert history["loss"][0] == pytest.approx(mean_loss(model, RAGGED[:2]), rel=1e-5)


def test_several_steps_per_execution_are_as_many_steps():
    one, three = pairwise(rate=0.5), pairwise(rate=0.5)
    three.compile(optimizer=keras.optimizers.SGD(0.5), steps_per_execution=3, jit_compile=False)
    for model in (one, three):
        fit(model, dataset(), epochs=2)
    for left, right in zip(one.get_weights(), three.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


def test_validation_gives_a_contrastive_loss_and_changes_nothing():
    model = pairwise(queue_size=32, ema_momentum=0.9)
    fit(model, dataset(), validation_data=dataset())
    before = [np.copy(weight) for weight in model.get_weights()]
    found = model.evaluate(dataset(), verbose=0, return_dict=True)
    queue = model.queue.contents()
    losses = [
        float(model.pairwise_loss(LABELS[p], embeddings(model, VIEWS[p]), queue=queue))
        for p in RAGGED
    ]
    assert found["loss"] == pytest.approx(np.average(losses, weights=[4, 4, 2]), rel=1e-5)
    for left, right in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    plain = pairwise()
    history = fit(plain, dataset(), validation_data=dataset())
    assert history["val_loss"][0] == pytest.approx(mean_loss(plain, RAGGED), rel=1e-5)


def test_single_batches():
    model = pairwise()
    expected = mean_loss(model, [slice(0, 6)])
    assert model.test_on_batch(VIEWS[:6], LABELS[:6], return_dict=True)["loss"] == pytest.approx(
        expected, rel=1e-5
    )
    model.reset_metrics()
    found = model.train_on_batch(VIEWS[:6], LABELS[:6], return_dict=True)
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(
        model.predict(VIEWS[:, 0], verbose=0), model.encoder(VIEWS[:, 0]), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "predict",
    [
        lambda m: m.predict(VIEWS[:, 0], batch_size=4),
        lambda m: m.predict(dataset(VIEWS[:, 0])),
        lambda m: m.predict(dataset(VIEWS[:, 0], LABELS)),
        lambda m: m.predict_on_batch(VIEWS[:, 0]),
    ],
)
def test_predictions_are_features(predict):
    model = pairwise()
    expected = model.encoder(VIEWS[:, 0])
    np.testing.assert_allclose(predict(model), expected, rtol=1e-5, atol=1e-6)


def test_views_alone_are_enough_for_simclr():
    model = pairwise(SimCLRLoss(0.5))
    found = fit(model, VIEWS, batch_size=10)
    expected = float(SimCLRLoss(0.5)(None, embeddings(model, VIEWS)))
    assert found["loss"][0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "argument", [{"loss": "mse"}, {"metrics": ["accuracy"]}, {"loss_weights": [2.0]}]
)
def test_other_losses_and_metrics_are_refused_by_name(argument):
    name = next(iter(argument))
    with pytest.raises(ValueError, match=rf"compile\({name}=...\) is not for PairwiseModel"):
        pairwise().compile(optimizer="sgd", **argument)


def test_a_head_trains_its_batch_norm_and_dropout():
    rows = [keras.Input((4,)), keras.layers.Dense(6), keras.layers.BatchNormalization()]
    model = PairwiseModel(encoder(), keras.Sequential(rows), SupConLoss(0.5))
    model.compile(optimizer=keras.optimizers.SGD(0.0), jit_compile=False)
    found = model.fit(VIEWS, LABELS, batch_size=10, verbose=0).history["loss"][0]
    hidden = model.projection_head.layers[0](model.encoder(VIEWS.reshape(-1, 8, 8, 3))).numpy()
    standardized = (hidden - hidden.mean(axis=0)) / np.sqrt(hidden.var(axis=0) + 1e-3)
    expected = float(SupConLoss(0.5)(LABELS, standardized.reshape(10, 2, -1)))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.multi_device
@pytest.mark.parametrize("weights", [(), (WEIGHTS,)], ids=["", "weighted"])
@pytest.mark.parametrize("images", [pytest.param(8, marks=pytest.mark.slow), 7])
def test_two_replicas_give_what_one_gives_even_with_a_ragged_batch(images, weights):
    """The last batch of 3 is 2 on one replica and 1 on the other."""
    models, data = [], dataset(*(array[:images] for array in (VIEWS, LABELS, *weights)))
    for name in ("one_device", "mirrored"):
        with make_strategy(name).scope():
            models.append(pairwise(rate=0.5))
    one, two = models
    losses = [fit(model, data)["loss"][0] for model in models]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for left, right in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)
    losses = [model.evaluate(data, verbose=0, return_dict=True)["loss"] for model in models]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.multi_device
@pytest.mark.parametrize("train", [fit, lambda m, data: m.evaluate(data)])
def test_a_replica_without_an_image_is_named(train):
    with make_strategy("mirrored").scope():
        model = pairwise()
    with pytest.raises(tf.errors.InvalidArgumentError, match="a replica got no image"):
        train(model, dataset(VIEWS[:9], LABELS[:9]))


def test_kerass_callbacks_work(tmp_path):
    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", patience=0, restore_best_weights=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True),
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        keras.callbacks.TensorBoard(tmp_path / "logs"),
    ]
    model = pairwise()  # At a rate of 0 nothing becomes better.
    history = fit(model, dataset(), validation_data=dataset(), epochs=4, callbacks=callbacks)
    assert len(history["val_loss"]) == 2
    kept = keras.saving.load_model(tmp_path / "best.keras")
    for left, right in zip(model.get_weights(), kept.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    assert list((tmp_path / "logs").rglob("events*"))


def settings_of(model):
    """As JSON keeps them, where tuples are lists."""
    return json.loads(json.dumps(model.get_config()))


@pytest.mark.parametrize(
    "settings",
    [{}, {"queue_size": 24, "ema_momentum": 0.9, "micro_batch_size": 2}],
    ids=["plain", "queue"],
)
def test_a_saved_model_continues_as_the_one_in_memory(settings, tmp_path):
    data = dataset().take(2) if settings else dataset()
    if settings:  # Micro-batches and the queue need batches of a known size.
        data = tf.data.Dataset.from_tensor_slices((VIEWS[:8], LABELS[:8]))
        data = data.batch(4, drop_remainder=True)
    model = pairwise(rate=0.5, **settings)
    model.compile(optimizer=keras.optimizers.SGD(0.5, momentum=0.9), jit_compile=False)
    fit(model, data)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert settings_of(again) == settings_of(model)
    for one in (model, again):
        fit(one, data)
    for left, right in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-7)


def test_a_clone_has_the_settings_and_weights_of_its_own():
    model = pairwise(queue_size=24)
    clone = keras.models.clone_model(model)
    assert settings_of(clone) == settings_of(model)
    assert clone.encoder is not model.encoder
    clone.set_weights(model.get_weights())
    np.testing.assert_allclose(clone(VIEWS[:, 0]), model(VIEWS[:, 0]), rtol=1e-6)


def test_views_of_several_sizes():
    images = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(images)
    free = keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))
    model = PairwiseModel(free, ProjectionHead(6, ()), SupConLoss(0.5))
    model.compile(optimizer=keras.optimizers.SGD(0.0), jit_compile=False)
    small = RNG.random((10, 3, 5, 5, 3)).astype(np.float32)
    data = tf.data.Dataset.from_tensor_slices(((VIEWS, small), LABELS)).batch(10)
    found = fit(model, data)["loss"][0]
    parts = [
        model.projection_head(model.encoder(views.reshape(-1, *views.shape[2:])))
        for views in (VIEWS, small)
    ]
    rows = np.concatenate([part.numpy().reshape(10, -1, 6) for part in parts], axis=1)
    assert found == pytest.approx(float(supcon_tf.SupConLoss(0.5)(LABELS, rows)), rel=1e-5)
