"""Methods by name: their settings reach what they are for, or are refused."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from supcon_tf import PretrainConfig, UserError, build_encoder
from supcon_tf.data.hidden_labels import hide_labels
from supcon_tf.stages.building import method_of, steps_per_epoch_of, stream_of
from supcon_tf.stages.checks import checked_batch, settings_checks


def model(method, labels=None, **settings):
    config = PretrainConfig(method=method, **settings)
    return method_of(config, build_encoder("resnet8", 8, 0.25), 3, 1, labels)


def test_temperature_and_arguments_reach_the_loss():
    built = model("supcon_in", temperature=0.3, method_args={"anchors_without_positives": "zero"})
    config = built.pairwise_loss.get_config()
    assert config["temperature"] == 0.3
    assert config["summation_location"] == "in"
    assert config["anchors_without_positives"] == "zero"


def test_a_method_may_have_a_default_of_its_own():
    built = model("epsilon_supinfonce", temperature=0.3).pairwise_loss
    assert (built.temperature, built.margin, built.denominator_mode) == (0.3, 0.25, "one_positive")
    built = model("epsilon_supinfonce", method_args={"margin": 0.5}).pairwise_loss
    assert built.margin == 0.5
    assert model("sincere").pairwise_loss.margin == 0.0


def test_cross_entropy_takes_its_own_arguments():
    built = model("cross_entropy", method_args={"label_smoothing": 0.1})
    assert built.cross_entropy.label_smoothing == 0.1
    assert isinstance(built.classification_head, keras.layers.Dense)


def test_cross_entropy_weighs_classes_by_the_training_images():
    """Six, three and one image; term by term in float64."""
    arguments = {"class_weights": "inverse", "logit_adjustment": 2.0}
    built = model("cross_entropy", lambda: [0] * 6 + [1] * 3 + [2], method_args=arguments)
    logits, labels = np.random.default_rng(0).normal(size=(4, 2, 3)), [2, 0, 0, 1]
    outputs = {"logits": tf.constant(logits, tf.float32), "labels": tf.constant(labels)}
    losses = []
    for image, label in zip(logits, labels, strict=True):
        for view in image:
            adjusted = [z + 2 * math.log(n / 10) for z, n in zip(view, (6, 3, 1), strict=True)]
            log_total = math.log(sum(math.exp(z) for z in adjusted))
            losses.append((log_total - adjusted[label]) * 10 / 3 / (6, 3, 1)[label])
    copy = type(built).from_config(built.get_config())
    for one in (built, copy):
        found = float(one.compute_losses(outputs)["cross_entropy"])
        assert found == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize(
    ("method", "temperature", "arguments", "message"),
    [
        ("supcom", None, {}, "method must be one of supcon_out, .*Received: 'supcom'"),
        ("simclr", None, {"margin": 1}, "no argument 'margin'; it takes temperature"),
        ("supcon_out", None, {"margin": 1}, 'margin needs denominator_mode "one_positive"'),
        ("sincere", None, {"margin": 1}, "no argument 'margin'; it takes temperature"),
        ("supcon_out", None, {"summation_location": "in"}, "no argument 'summation_location'"),
        ("supcon_out", None, {"anchors_without_positives": 3}, "Received: 3"),
        ("cross_entropy", 0.1, {}, "cross_entropy has no argument 'temperature'"),
        ("cross_entropy", None, {"class_weights": "x"}, "must be inverse or effective"),
        ("cross_entropy", None, {"class_weights_beta": 0.5}, "needs effective class weights"),
        ("cross_entropy", None, {"logit_adjustment": -1.0}, "must be at least 0. Received: -1.0"),
    ],
)
def test_refuses_wrong_methods(method, temperature, arguments, message):
    with pytest.raises(UserError, match=message):
        model(method, temperature=temperature, method_args=arguments)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, "x"])
def test_label_smoothing_is_checked(smoothing):
    with pytest.raises(UserError, match="label_smoothing must be (in|a number)"):
        model("cross_entropy", method_args={"label_smoothing": smoothing})


def test_embeddings_have_unit_norm_unless_the_loss_wants_them_as_they_are():
    assert model("supcon_out").projection_head.normalize
    assert not model("npairs").projection_head.normalize
    assert model("npairs", method_args={"normalize": True}).projection_head.normalize


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("cross_entropy", {"embedding_dim": 4}, "cross_entropy has no projection head. Received"),
        ("cross_entropy", {"projection_hidden_dim": 0}, "no projection head. Received: .*dim=0"),
        ("triplet", {"queue_size": 512}, "triplet has no memory queue. Received: queue_size=512"),
    ],
)
def test_settings_of_parts_that_a_method_has_not_are_refused(method, settings, message):
    with pytest.raises(UserError, match=message):
        model(method, **settings)


def balanced_config(**changes):
    balance = {"classes_per_batch": 5, "images_per_class": 4, "batch_size": 20, "num_views": 1}
    return PretrainConfig(**{**balance, "augmentation": "symbols", **changes})


@pytest.mark.parametrize("method", ["cross_entropy", "simclr"])
def test_balanced_batches_hold_classes_alike_continue_and_can_be_shared(method, digits):
    config = balanced_config(method=method)
    stream = stream_of(config, digits)
    batches = [(views.numpy(), labels.numpy()) for views, labels in stream().take(4)]
    for _, labels in batches:
        assert sorted(np.unique(labels, return_counts=True)[1]) == [4] * 5
    assert {*batches[0][1], *batches[1][1]} == set(range(10))  # A turn of all classes.
    views, labels = next(iter(stream(3)))
    np.testing.assert_array_equal(views, batches[3][0])
    halves = [next(iter(stream(3, index, 2)))[1] for index in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(halves), labels)
    assert steps_per_epoch_of(config, digits) == 1347 // 20


def test_balanced_batches_need_labels_and_a_stream_that_makes_them(digits):
    few = hide_labels(digits, 8, None, 0)
    next(iter(stream_of(balanced_config(), few)()))
    with pytest.raises(ValueError, match="balanced batches need labels.*classes_per_batch=5"):
        stream_of(balanced_config(method="simclr"), few)()
    for method in ("suncet", "comatch"):
        found = refusals(balanced_config(method=method, num_views=2))
        assert f"method {method} composes its own batches. Received: classes_per_batch=5" in found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images_per_class": None}, "go together. Received: 5 and None"),
        ({"batch_size": 256}, "5 x 4. Received: 256. Pass --batch_size=20"),
    ],
)
def test_the_sizes_of_balanced_batches_must_fit(changes, message):
    with pytest.raises(UserError, match=message):
        balanced_config(**changes)


@pytest.mark.parametrize(
    ("classes", "images", "message"),
    [
        (4, 5, "classes_per_batch must divide the 10 classes. Received: 4"),
        (2, 200, "images_per_class must be from 1 to 13., the images of the smallest class"),
        (10, 200, "batch_size must be at most 1347, the number of training images"),
    ],
)
def test_classes_that_do_not_fill_balanced_batches_are_one_line(classes, images, message, digits):
    sizes = {"classes_per_batch": classes, "images_per_class": images}
    config = balanced_config(**sizes, batch_size=classes * images)
    with pytest.raises(UserError, match=message):
        checked_batch(config, digits, 1)


def refusals(config):
    """The messages of the checks that fail."""
    found = ""
    for check in settings_checks(config):
        try:
            check()
        except UserError as error:
            found += str(error)
    return found
