"""Balanced contrastive learning: loops, identities, a step, replicas and micro-batches."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import l2, raw

import supcon_tf
from supcon_tf import PretrainConfig, ProjectionHead, SupConLoss, UserError, make_strategy
from supcon_tf.data.views import sharding_off
from supcon_tf.methods.bcl import BalancedContrastive, BCLLoss, bcl_loss
from supcon_tf.networks.initial import initial_weights

LABELS = np.array([0, 0, 0, 2, 2, 0])  # A long tail: class 1 is not in the batch.
ROWS, CENTERS = raw((6, 2, 4), 0.9, 2.3, 1.1), raw((3, 4), 0.4, 1.7)


def loops(labels, embeddings, prototypes, temperature):
    """The equation, anchor by anchor, in float64."""
    views, classes = embeddings.shape[1], range(len(prototypes))
    rows = np.concatenate([*np.moveaxis(l2(embeddings), 1, 0), l2(prototypes)])
    of_rows = [*np.tile(labels, views), *classes]
    losses = []
    for i in range(len(labels) * views):
        near = np.exp(rows @ rows[i] / temperature)
        members = {j: [k for k, y in enumerate(of_rows) if y == j and k != i] for j in classes}
        total = sum(near[members[j]].mean() for j in classes)
        losses.append(np.mean([np.log(total / near[p]) for p in members[of_rows[i]]]))
    return np.array(losses)


@pytest.mark.parametrize("block_size", [None, 5])
def test_equals_loops(block_size):
    expected = loops(LABELS, ROWS, CENTERS, 0.2)
    found = bcl_loss(LABELS, ROWS, CENTERS, temperature=0.2, block_size=block_size)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    weights = np.array([1, 0, 2, 0.5, 1, 1], np.float32)
    mean = float(BCLLoss(0.2)(LABELS, ROWS, weights, prototypes=tf.constant(CENTERS)))
    assert mean == pytest.approx(np.mean(expected * np.tile(weights, 2)), rel=1e-5)


def test_of_single_images_and_as_many_classes_it_is_supcon_against_the_prototypes():
    """With one image of each class every size is 1: plain SupCon, less the other images' share."""
    rows, labels = l2(raw((3, 4), 0.9, 2.3)), np.arange(3)
    both = np.concatenate([rows, CENTERS])
    found = bcl_loss(labels, rows, CENTERS, temperature=0.3).numpy()
    logits = np.exp(l2(rows) @ l2(both).T / 0.3)
    total = [
        logits[i, 3 + i] + sum(logits[i, [j, 3 + j]].mean() for j in {0, 1, 2} - {i})
        for i in range(3)
    ]
    np.testing.assert_allclose(found, np.log(total / logits[range(3), range(3, 6)]), rtol=1e-5)


def test_a_class_without_a_prototype_is_counted_as_it_is():
    labels, rows = np.array([0, 0, 7]), l2(raw((3, 4), 0.9, 2.3))
    found = bcl_loss(labels, rows, CENTERS[:1])
    assert np.isfinite(found).all()
    both = np.concatenate([rows, l2(CENTERS[:1])])
    near = np.exp(both @ both.T / 0.1)
    total = near[0, [1, 3]].mean() + near[0, 2]
    expected = np.log(total) - np.log(near[0, [1, 3]]).mean()
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)


def test_identical_rows_give_the_log_of_the_classes():
    same = np.ones((6, 2, 4))
    np.testing.assert_allclose(bcl_loss(LABELS, same, np.ones((3, 4))), np.log(3), rtol=1e-5)


def test_with_balanced_classes_it_is_supcon_with_an_average_for_a_sum():
    """Where all classes have n rows but the anchor's own (n - 1), only the mean differs."""
    labels, rows = np.array([0, 0, 1, 1]), l2(raw((4, 3), 0.9, 2.3))
    both, of_both = np.concatenate([rows, l2(CENTERS[:2, :3])]), np.array([0, 0, 1, 1, 0, 1])
    supcon = SupConLoss(0.3, reduction="none", denominator_mode="only_negatives")
    only = supcon(of_both, both).numpy()[:4]  # log sum of negatives - mean of positives.
    near = np.exp(both @ both.T / 0.3)
    expected = []
    for i in range(4):
        negative = near[i, of_both != of_both[i]]
        own = (near[i].sum() - negative.sum() - near[i, i]) / 2
        expected.append(only[i] - np.log(negative.sum()) + np.log(negative.mean() + own))
    found = bcl_loss(labels, rows, CENTERS[:2, :3], temperature=0.3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1e-2, 2e-3])
def test_it_equals_loops_where_no_row_is_near_the_anchor(temperature):
    """exp(-1 / temperature), against the anchor itself, is 0 in float32."""
    rows, centers = np.eye(8)[:4].reshape(2, 2, 8), -np.eye(8)[4:6]
    labels = np.array([0, 1])
    expected = loops(labels, rows, centers, temperature)
    np.testing.assert_allclose(bcl_loss(labels, rows, centers, temperature=temperature), expected)


def test_labels_must_be_given():
    with pytest.raises(ValueError, match="labels must be the class ids of the prototypes"):
        bcl_loss(None, ROWS, CENTERS)


def test_gradients_are_finite_at_tiny_temperatures_and_equal_in_blocks():
    gradients = []
    for block_size in (None, 4):
        with tf.GradientTape() as tape:
            rows, centers = tf.constant(ROWS, tf.float32), tf.constant(CENTERS, tf.float32)
            tape.watch([rows, centers])
            losses = bcl_loss(LABELS, rows, centers, temperature=2e-3, block_size=block_size)
        gradients.append(tape.gradient(losses, [rows, centers]))
    for one, other in zip(*gradients, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


VIEWS = np.random.default_rng(0).random((6, 2, 8, 8, 3)).astype(np.float32)


def small_model(**settings):
    with initial_weights(0):
        images = keras.Input((8, 8, 3))
        x = keras.layers.Conv2D(4, 3, activation="relu")(images)
        encoder = keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))
        head = ProjectionHead(6, ())
        model = BalancedContrastive(encoder, head, 3, temperature=0.5, **settings)
    model.compile(optimizer=keras.optimizers.SGD(1.0), jit_compile=False)
    return model


def step(model, strategy=None):
    data = sharding_off(tf.data.Dataset.from_tensors((VIEWS, LABELS)))
    history = model.fit(data, shuffle=False, verbose=0).history
    return history["loss"][0], [np.asarray(one) for one in model.trainable_variables]


def test_a_step_is_that_of_the_loss_and_moves_the_prototypes():
    model = small_model()
    rows = model.projection_head(model.encoder(VIEWS.reshape(-1, 8, 8, 3)))
    before = model.prototypes.numpy()
    expected = loops(LABELS, np.reshape(rows, [6, 2, 6]).astype(float), before.astype(float), 0.5)
    loss, _ = step(model)
    assert loss == pytest.approx(expected.mean(), rel=1e-5)
    assert (np.abs(model.prototypes.numpy() - before).max(axis=1) > 1e-4).all()


def test_micro_batches_take_the_step_of_the_whole():
    whole, parts = step(small_model()), step(small_model(micro_batch_size=2))
    assert whole[0] == pytest.approx(parts[0], rel=1e-6)
    for one, other in zip(whole[1], parts[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.multi_device
@pytest.mark.parametrize("settings", [{}, {"micro_batch_size": 1}])
def test_two_replicas_train_like_one(settings):
    found = []
    for name in ("one_device", "mirrored"):
        with make_strategy(name).scope():
            found.append(step(small_model(**settings)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_saved_model_trains_on_as_before(tmp_path):
    model = small_model(ema_momentum=0.9)
    step(model)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for _ in range(2):
        found = [one.train_on_batch(VIEWS, LABELS, return_dict=True) for one in (model, again)]
        assert float(found[0]["loss"]) == pytest.approx(float(found[1]["loss"]), rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature must be at least 0.001 .* Received: 0"),
        ({"method_args": {"block_size": 0}}, "block_size must be None or an int >= 1. Received: 0"),
        ({"method_args": {"margin": 1}}, "method bcl has no argument 'margin'; it takes tem"),
        ({"queue_size": 64}, "method bcl has no memory queue. Received: queue_size=64"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    settings, message, small_config, tmp_path
):
    run = tmp_path / "run"
    settings = {**small_config, "method": "bcl", "run_dir": str(run), **settings}
    with pytest.raises(UserError, match=message):
        supcon_tf.pretrain(PretrainConfig(**settings))
    assert not run.exists()
