"""The graph of an exported model: head, index, conversion, and saving again."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from supcon_tf import UserError
from supcon_tf.exporting.servable import Head, Index, Servable, of_keras
from supcon_tf.exporting.tflite import convert


def small_servable(**changes):
    """A servable of two features: the mean of the red and of the green channel."""
    image = keras.Input((4, 4, 3))
    encoder = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image))
    head = {"kernel": np.eye(3, dtype=np.float32)[:, :2], "bias": np.zeros(2, np.float32)}
    names = changes.pop("class_names", ["red", "green"])
    index = changes.pop("index", None)
    return of_keras(encoder, Head(**{**head, **changes}), index, names)


def test_temperature_divides_the_logits():
    features = tf.constant([[1.0, 3.0, 0.5]])
    found = small_servable(temperature=4.0).probabilities(features)
    np.testing.assert_allclose(found[0, 1], 1 / (1 + np.exp(-2 / 4)), rtol=1e-6)


def test_added_classes_leave_the_others_their_order():
    """One prototype a class; the third was added."""
    prototypes = np.eye(3, dtype=np.float32)
    servable = small_servable(
        prototypes=prototypes, prototype_scale=5.0, class_names=["red", "green", "blue"]
    )
    features = np.array([[0.2, 0.1, 2.0], [2.0, 0.5, 0.1]], np.float32)
    found = servable.probabilities(tf.constant(features)).numpy()
    shares = np.exp(5 * features / np.linalg.norm(features, axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    trained = np.exp(features[:, :2]) / np.exp(features[:, :2]).sum(axis=1, keepdims=True)
    expected = np.column_stack([(1 - shares[:, 2:]) * trained, shares[:, 2]])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(found.argmax(axis=1), [2, 0])


def test_rank_among_known_distances():
    angles = np.deg2rad([0, 10, 20, 90]).astype(np.float32)
    embeddings = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    index = Index(embeddings, np.array([0, 0, 1, 1]), np.float32([0.01, 0.1, 0.5, 0.9]), 2)
    found = small_servable(index=index).nearest(tf.constant(embeddings[[0, 3]]))
    np.testing.assert_array_equal(found["neighbor_ids"], [[0, 1], [3, 2]])
    np.testing.assert_array_equal(found["neighbor_class_names"], [[b"red"] * 2, [b"green"] * 2])
    expected = [[1, np.cos(np.deg2rad(10))], [1, np.cos(np.deg2rad(70))]]
    np.testing.assert_allclose(found["similarities"], expected, rtol=1e-5)
    # Distances to the second: 0.015 and 0.66.
    np.testing.assert_allclose(found["out_of_distribution"], [0.25, 0.75])


@pytest.mark.slow
def test_operators_outside_the_builtin_set_are_refused_unless_asked_for(tmp_path):
    image = keras.Input((4, 4, 3))
    larger = keras.layers.UpSampling2D(2, interpolation="bicubic")(image)
    encoder = keras.Model(image, keras.layers.GlobalAveragePooling2D()(larger))
    head = Head(np.ones((3, 2), np.float32), np.zeros(2, np.float32))
    of_keras(encoder, head, None, ["a", "b"]).save(tmp_path)
    with pytest.raises(UserError, match=r"tf.ResizeBicubic.*Pass --tflite_select_ops"):
        convert(tmp_path, "float32")
    assert b"FlexResizeBicubic" in convert(tmp_path, "float32", select_ops=True)


def test_a_servable_is_saved_again_from_a_loaded_one(tmp_path):
    small_servable().save(tmp_path / "1")
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    head = Head(loaded.kernel.numpy(), loaded.bias.numpy(), temperature=2.0)
    again = Servable(loaded.encode, loaded.encoder_variables, head, None, ["red", "green"], 4)
    again.save(tmp_path / "2")
    images = tf.constant(np.random.default_rng(0).random((3, 4, 4, 3), np.float32))
    found = tf.saved_model.load(str(tmp_path / "2")).signatures["classify"](images=images)
    expected = small_servable(temperature=2.0).classify(images)["probabilities"]
    np.testing.assert_allclose(found["probabilities"], expected, rtol=1e-6)
