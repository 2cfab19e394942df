"""Arguments of the optimizers: kept by serialization, refused where they do not fit."""

import keras
import pytest

from supcon_tf import MomentumSGD
from supcon_tf.engine.optimizer_factory import make_optimizer
from supcon_tf.engine.optimizers import LAMB, LARS, KernelAdamW, KernelMuon, L2RMSprop


def test_round_trip_of_arguments_that_are_not_the_factorys():
    for optimizer in (
        MomentumSGD(0.3, momentum=0.8, l2=0.01, nesterov=True),
        LARS(0.3, momentum=0.8, l2=0.01, trust_coefficient=0.02),
        L2RMSprop(0.3, l2=0.01, rho=0.8),
        KernelAdamW(0.3, weight_decay=0.01, beta_1=0.8),
        LAMB(0.3, decay=0.01, beta_1=0.8),
        KernelMuon(0.3, momentum=0.8, weight_decay=0.01, ns_steps=3),
    ):
        again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
        assert type(again) is type(optimizer)
        assert again.get_config() == optimizer.get_config()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MomentumSGD(l2=-1), "l2 must be at least 0. Received: -1"),
        (lambda: LARS(l2=-1), "l2 must be at least 0. Received: -1"),
        (lambda: L2RMSprop(l2=-1), "l2 must be at least 0. Received: -1"),
        (lambda: LAMB(decay=-1), "decay must be at least 0. Received: -1"),
        (lambda: LARS(trust_coefficient=0), "trust_coefficient must be above 0. Received: 0"),
    ],
)
def test_classes_refuse_what_is_out_of_range(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("adam", {}, "name must be one of sgd, lars, rmsprop, adamw, lamb, muon. Rec.*adam"),
        ("sgd", {"learning_rate": 0}, "learning_rate must be above 0. Received: 0"),
        ("sgd", {"momentum": 1}, "momentum must be from 0 to below 1. Received: 1"),
        ("lars", {"momentum": -0.1}, "momentum must be from 0 to below 1. Received: -0.1"),
        ("adamw", {"momentum": 0.9}, "momentum must be left out, for adamw. Received: 0.9"),
        ("lamb", {"momentum": 0.0}, "momentum must be left out, for lamb. Received: 0.0"),
        ("rmsprop", {"nesterov": True}, "nesterov must be left out, for rmsprop. Received: True"),
        ("adamw", {"nesterov": True}, "nesterov must be left out, for adamw. Received: True"),
        ("lamb", {"nesterov": True}, "nesterov must be left out, for lamb. Received: True"),
        ("muon", {"nesterov": True}, "nesterov must be left out, for muon. Received: True"),
        ("sgd", {"momentum": 0, "nesterov": True}, "nesterov must be .* a momentum of 0"),
        ("sgd", {"weight_decay": -1}, "weight_decay must be at least 0. Received: -1"),
        ("adamw", {"weight_decay": float("nan")}, "weight_decay must be.* Received: nan"),
        ("sgd", {"clip_norm": 0}, "clip_norm must be above 0. Received: 0"),
    ],
)
def test_factory_refuses_what_is_out_of_range_or_has_no_effect(name, settings, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(name, **{"learning_rate": 0.1, **settings})
