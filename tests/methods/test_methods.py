import keras
import pytest

from supcon_tf import ProjectionHead, UserError, build_encoder
from supcon_tf.methods import build_model, check_method


def model(method, **arguments):
    return build_model(
        method, build_encoder("resnet8", 8, 0.25), lambda: ProjectionHead(4, ()), 3, **arguments
    )


def test_temperature_and_arguments_reach_the_loss():
    built = model("supcon_in", temperature=0.3, method_args={"anchors_without_positives": "zero"})
    config = built.pairwise_loss.get_config()
    assert config["temperature"] == 0.3
    assert config["summation_location"] == "in"
    assert config["anchors_without_positives"] == "zero"


def test_cross_entropy_takes_its_own_arguments():
    built = model("cross_entropy", method_args={"label_smoothing": 0.1})
    assert built.cross_entropy.label_smoothing == 0.1
    assert isinstance(built.classification_head, keras.layers.Dense)


@pytest.mark.parametrize(
    ("method", "temperature", "arguments", "message"),
    [
        ("supcom", None, {}, "method must be one of supcon_out, .*Received: 'supcom'"),
        ("supcon_out", None, {"margin": 1}, "no argument 'margin'; it takes temperature"),
        ("supcon_out", None, {"summation_location": "in"}, "no argument 'summation_location'"),
        ("supcon_out", None, {"anchors_without_positives": 3}, "Received: 3"),
        ("cross_entropy", 0.1, {}, "cross_entropy has no argument 'temperature'"),
    ],
)
def test_refuses_wrong_methods(method, temperature, arguments, message):
    with pytest.raises(UserError, match=message):
        check_method(method, temperature, arguments)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, "x"])
def test_label_smoothing_is_checked(smoothing):
    with pytest.raises(UserError, match="label_smoothing must be in"):
        model("cross_entropy", method_args={"label_smoothing": smoothing})
