"""The stages of an encoder: maps, variables, copies, and what has none."""

import keras
import numpy as np
import pytest
from networks.helpers import random_images

from supcon_tf import build_encoder, training_copy
from supcon_tf.networks.resnet import ENCODERS
from supcon_tf.networks.stages import num_stages, split_into_stages


@pytest.mark.parametrize(
    ("name", "size", "sides"),
    [
        ("resnet18", 64, (64, 32, 16, 8)),
        ("resnet18", 127, (127, 64, 32, 16)),
        ("resnet18", 128, (32, 16, 8, 4)),
        ("resnet50", 224, (56, 28, 14, 7)),
        ("resnet8", 128, (128, 64, 32)),
        ("wide_resnet28_2", 16, (16, 8, 4)),
        ("airbench94", 32, (15, 7, 3)),
    ],
)
def test_sides_of_the_stages(name, size, sides):
    stages = split_into_stages(build_encoder(name, size, 0.125))
    assert [one.output_shape[1:3] for one in stages.models] == [(side, side) for side in sides]
    assert num_stages(name) == len(stages.layers) == len(sides)


def test_every_residual_network_has_the_stages_of_its_name():
    for name, architecture in ENCODERS.items():
        assert num_stages(name) == len(architecture.blocks)
    assert num_stages("applications:VGG16") == num_stages("kept.keras") == 0


def maps_of(stages, x):
    """The feature map of each stage."""
    maps = []
    for stage in stages.models:
        maps.append(stage(x if not maps else maps[-1]))
    return maps


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_maps_lead_to_the_features_and_share_the_weights(precision):
    encoder = training_copy(build_encoder("resnet14", 8, 0.25), precision)
    rng = np.random.default_rng(1)
    for weight in encoder.weights:  # As if trained: a block is no longer the identity.
        if len(weight.shape) == 1:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    stages, images = split_into_stages(encoder), random_images(8)
    maps = maps_of(stages, images)
    assert [one.shape for one in maps] == [(2, 8, 8, 4), (2, 4, 4, 8), (2, 2, 2, 16)]
    features = keras.layers.GlobalAveragePooling2D(dtype="float32")(maps[-1])
    np.testing.assert_array_equal(features, encoder(images))
    assert np.ptp(features, axis=0).max() > 0  # The two images are told apart.
    known = {id(weight) for weight in encoder.weights}
    assert {id(weight) for stage in stages.models for weight in stage.weights} == known


def test_variables_are_those_of_each_stage_in_order():
    encoder = build_encoder("resnet50", 16, 0.0625)
    variables = split_into_stages(encoder).variables
    assert [v.path for stage in variables for v in stage] == [
        v.path for v in encoder.trainable_variables
    ]
    prefixes = [{v.path.split("_")[0] for v in stage} for stage in variables]
    assert prefixes == [{"stem", "stage1"}, {"stage2"}, {"stage3"}, {"stage4"}]


def test_what_follows_the_last_stage_belongs_to_it_and_a_block_may_end_in_a_sum():
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="stem")(images)
    x = keras.layers.Add(name="stage1_block1_add")([x, keras.layers.ReLU(name="stage1_relu")(x)])
    x = keras.layers.Conv2D(5, 3, name="stage2_block1_conv")(x)
    x = keras.layers.BatchNormalization(name="last_norm")(x)
    encoder = keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))
    stages = split_into_stages(encoder)
    assert [[v.name for v in stage] for stage in stages.variables] == [
        ["kernel", "bias"],
        ["kernel", "bias", "gamma", "beta"],
    ]
    first, last = maps_of(stages, random_images(8))
    assert first.shape == (2, 8, 8, 4)
    assert last.shape == (2, 6, 6, 5)


def test_a_layer_that_does_not_train_is_in_no_stage():
    encoder = build_encoder("resnet8", 8, 0.25)
    encoder.get_layer("stage2_block1_1_conv").trainable = False
    paths = {v.path for stage in split_into_stages(encoder).variables for v in stage}
    assert paths == {v.path for v in encoder.trainable_variables}
    assert not any("stage2_block1_1_conv" in path for path in paths)


def _without_pooling():
    images = keras.Input((8, 8, 3))
    return keras.Model(images, keras.layers.Flatten(name="stage1_flat")(images), name="flat")


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: build_encoder("applications:MobileNetV2", 32), "MobileNetV2"),
        (_without_pooling, "flat"),
    ],
)
def test_other_encoders_are_refused(build, name):
    with pytest.raises(ValueError, match=f"only a network by name.*the encoder '{name}'"):
        split_into_stages(build())
