"""Methods by name: their settings reach what they are for, or are refused."""

import keras
import pytest

from supcon_tf import PretrainConfig, UserError, build_encoder
from supcon_tf.stages.building import method_of


def model(method, **settings):
    config = PretrainConfig(method=method, **settings)
    return method_of(config, build_encoder("resnet8", 8, 0.25), num_classes=3, steps_per_epoch=1)


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
