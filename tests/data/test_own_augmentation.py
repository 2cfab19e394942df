"""A user's own augmentation: functions and Keras models as parts of the stream."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import write_images

from supcon_tf import AUGMENTATIONS, PretrainConfig, UserError, open_dataset, training_views
from supcon_tf.data.augment import Share
from supcon_tf.data.own_augmentation import augmentation_of, own_views
from supcon_tf.data.policies import named_augmentation, small_parts

SEED = tf.constant([3, 5], tf.int64)
IMAGES = np.random.default_rng(0).random([4, 12, 10, 3]).astype(np.float32)


def keras_model():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((None, None, 3)),
            layers.RandomFlip(),
            layers.RandomRotation(0.2),
            layers.RandomBrightness(0.3, value_range=(0, 1)),
            layers.RandomCrop(8, 8),
        ]
    )


def dims(image, seed):
    """Scales an image by a random factor."""
    return image * tf.random.stateless_uniform([], seed, 0.5, 1.0)


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path, ["dark", "light"], 15, size=(20, 14))
    return open_dataset(f"folder:{tmp_path}", image_size_px=12)


def batches(dataset, augmentation, **changes):
    settings = {"num_views": 2, "batch_size": 12, "epochs": 2, "seed": 7, **changes}
    stream = training_views(dataset, augmentation=augmentation, **settings)
    return [views for views, _ in stream.as_numpy_iterator()]


def test_a_function_gets_the_image_and_a_seed_for_each_view():
    seen = []

    def function(image, seed):
        seen.append((image.shape, image.dtype, seed.shape, seed.dtype))
        return dims(image, seed)

    found = own_views(function, IMAGES[:, :, :10], 3, 12, SEED).numpy()
    assert seen[0] == ((12, 10, 3), tf.float32, (2,), tf.int64)
    assert found.shape == (12, 12, 12, 3)
    square = own_views(dims, IMAGES[:, :10], 3, 10, SEED).numpy().reshape(4, 3, 10, 10, 3)
    factors = square / IMAGES[:, None, :10]
    np.testing.assert_allclose(factors, factors[:, :, :1, :1, :1] + 0 * factors, rtol=1e-4)
    assert len(np.unique(factors[:, :, 0, 0, 0].round(5))) == 12
    assert 0.5 <= factors.min() < factors.max() <= 1


@pytest.mark.parametrize("augmentation", [dims, keras_model()], ids=["function", "keras"])
def test_views_are_a_function_of_seed_and_place(augmentation):
    def made(images, seed=SEED, first=0):
        return own_views(augmentation, images, 2, 8, seed, first).numpy()

    whole = made(IMAGES)
    np.testing.assert_array_equal(whole, made(IMAGES))
    np.testing.assert_array_equal(whole[4:], made(IMAGES[2:], first=2))
    assert np.abs(whole - made(IMAGES, seed=SEED + 1)).max() > 0.01
    assert whole.min() >= 0
    assert whole.max() <= 1
    same = made(np.broadcast_to(IMAGES[:1], IMAGES.shape)).reshape(8, -1)
    assert len(np.unique(same, axis=0)) == 8
    stream = tf.data.Dataset.from_tensors(IMAGES)
    stream = stream.map(lambda images: own_views(augmentation, images, 2, 8, SEED))
    np.testing.assert_allclose(next(iter(stream)), whole, atol=1e-6)


@pytest.mark.parametrize(
    ("augmentation", "of_one_size"),
    [
        (dims, True),
        (keras_model(), False),
        pytest.param(dims, False, marks=pytest.mark.slow),
        pytest.param(keras_model(), True, marks=pytest.mark.slow),
    ],
)
def test_resuming_and_shares_are_exact(digits, folder, augmentation, of_one_size):
    dataset = digits if of_one_size else folder
    whole = batches(dataset, augmentation, batch_size=12, epochs=1)[:2]
    rest = batches(dataset, augmentation, batch_size=12, epochs=1, first_step=1)[0]
    np.testing.assert_array_equal(whole[1], rest)
    parts = [batches(dataset, augmentation, epochs=1, share=Share(at, 3))[0] for at in range(3)]
    np.testing.assert_allclose(np.concatenate(parts), whole[0], atol=1e-6)
    assert whole[0].shape == (12, 2, dataset.image_size_px, dataset.image_size_px, 3)
    assert not np.array_equal(whole[0][:, 0], whole[0][:, 1])


def test_a_function_may_use_pythons_if_and_for_on_tensors(digits):
    def function(image, seed):
        if tf.random.stateless_uniform([], seed) < 0.5:
            return tf.zeros_like(image)
        for _ in tf.range(3):
            image = image / 2
        return image

    (views,) = batches(digits, function, batch_size=64, epochs=1)[:1]
    largest = views.max(axis=(2, 3, 4))
    assert 0.2 < np.mean(largest == 0) < 0.8
    assert largest.max() == pytest.approx(1 / 8, abs=0.01)


def test_keras_generators_keep_their_state():
    model = keras_model()
    states = [variable.numpy() for variable in model.variables]
    own_views(model, IMAGES, 1, 8, SEED)
    for variable, before in zip(model.variables, states, strict=True):
        np.testing.assert_array_equal(variable, before)


@pytest.mark.parametrize("wrong", [lambda x, s: x[..., :1], lambda x, s: tf.cast(x, tf.int32)])
def test_refuses_a_function_that_makes_no_image(wrong):
    with pytest.raises(ValueError, match=r"must return a float image .* Received: "):
        own_views(wrong, IMAGES, 1, 8, SEED)


def test_a_setting_names_a_keras_file(tmp_path):
    model, file = keras_model(), tmp_path / "mine.keras"
    model.save(file)
    config = PretrainConfig(augmentation=str(file))
    found = own_views(augmentation_of(config), IMAGES, 2, 8, SEED)
    np.testing.assert_allclose(found, own_views(model, IMAGES, 2, 8, SEED), atol=1e-6)
    with pytest.raises(UserError, match="has no effect on an augmentation from a file"):
        augmentation_of(config.replace(augmentation_args={"strength": 0.5}))


def test_refuses_files_that_are_no_augmentation(tmp_path):
    def refused(file):
        return augmentation_of(PretrainConfig(augmentation=str(file)))

    with pytest.raises(UserError, match="augmentation not found. Received: .*none.keras"):
        refused(tmp_path / "none.keras")
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(UserError, match="is not a .keras file"):
        refused(tmp_path / "text.keras")
    images = keras.Input((32, 32, 3))
    keras.Model(images, keras.layers.Flatten()(images)).save(tmp_path / "flat.keras")
    with pytest.raises(UserError, match=r"cannot be used. .*must return a float image"):
        refused(tmp_path / "flat.keras")


def test_an_entry_of_ones_own_is_found_by_name(monkeypatch):
    monkeypatch.setitem(AUGMENTATIONS, "dims", dims)
    assert augmentation_of(PretrainConfig(augmentation="dims")) is dims
    with pytest.raises(UserError, match="has no effect on augmentation dims"):
        named_augmentation("dims", {"strength": 0.5})
    with pytest.raises(UserError, match="small_views needs an augmentation by name"):
        small_parts(dims)
