import itertools

import keras
import numpy as np
import pytest

from supcon_tf import UserError, build_encoder
from supcon_tf.networks.resnet import ENCODERS, build_stages

_IMAGES = np.random.default_rng(0).random((2, 8, 8, 3), dtype="float32")


def _trainable(models):
    return sum(int(np.prod(w.shape)) for model in models for w in model.trainable_weights)


def _arithmetic(blocks, channels, bottleneck, stem_kernel):
    """Weights of convolutions, and two per channel for each batch norm, block by block."""
    total = 3 * channels[0] * stem_kernel**2 + 2 * channels[0]
    before = channels[0]
    for stage, (num_blocks, width) in enumerate(zip(blocks, channels, strict=True)):
        after = 4 * width if bottleneck else width
        for block in range(num_blocks):
            if bottleneck:
                total += before * width + 9 * width**2 + width * after + 2 * (2 * width + after)
            else:
                total += 9 * before * width + 9 * width**2 + 2 * (2 * width)
            if block == 0 and (stage > 0 or before != after):
                total += before * after + 2 * after
            before = after
    return total


# He et al. 2016 as torchvision counts them, without the classifier's: 512 x 1000 + 1000 (18, 34)
# or 2048 x 1000 + 1000 off; batch norm's running statistics are not trainable.
_PUBLISHED = {
    "resnet18": 11_689_512 - 513_000,
    "resnet34": 21_797_672 - 513_000,
    "resnet50": 25_557_032 - 2_049_000,
    "resnet101": 44_549_160 - 2_049_000,
    "resnet152": 60_192_808 - 2_049_000,
}
_LARGE = (64, 128, 256, 512)
_DEPTHS = {
    "resnet18": ((2, 2, 2, 2), _LARGE, False),
    "resnet34": ((3, 4, 6, 3), _LARGE, False),
    "resnet50": ((3, 4, 6, 3), _LARGE, True),
    "resnet101": ((3, 4, 23, 3), _LARGE, True),
    "resnet152": ((3, 8, 36, 3), _LARGE, True),
    "resnet200": ((3, 24, 36, 3), _LARGE, True),
    "resnet8": ((1, 1, 1), (16, 32, 64), False),
    "resnet14": ((2, 2, 2), (16, 32, 64), False),
    "resnet20": ((3, 3, 3), (16, 32, 64), False),
}


def test_the_arithmetic_gives_the_published_parameters():
    assert {name: _arithmetic(*_DEPTHS[name], 7) for name in _PUBLISHED} == _PUBLISHED


@pytest.mark.parametrize("name", ENCODERS)
def test_parameters_and_features(name):
    encoder = build_encoder(name, 224)
    blocks, channels, bottleneck = _DEPTHS[name]
    assert _trainable([encoder]) == _arithmetic(
        blocks, channels, bottleneck, 7 if len(blocks) == 4 else 3
    )
    assert encoder.output_shape == (None, channels[-1] * (4 if bottleneck else 1))
    # Depth counts the weighted layers of the main path and the classifier.
    depth = sum(blocks) * (3 if bottleneck else 2) + 2
    assert name == f"resnet{depth}"


def test_small_stem_has_fewer_parameters():
    assert _trainable([build_encoder("resnet18", 32)]) == _arithmetic(*_DEPTHS["resnet18"], 3)


@pytest.mark.parametrize(
    ("name", "size", "sides"),
    [
        ("resnet18", 64, (64, 32, 16, 8)),
        ("resnet18", 127, (127, 64, 32, 16)),
        ("resnet18", 128, (32, 16, 8, 4)),
        ("resnet50", 224, (56, 28, 14, 7)),
        ("resnet8", 128, (128, 64, 32)),
    ],
)
def test_sides_of_the_stages(name, size, sides):
    shapes = [stage.output_shape for stage in build_stages(name, size, 0.125)]
    assert [shape[1:3] for shape in shapes] == [(side, side) for side in sides]


def test_width_multiplier_scales_channels():
    assert build_encoder("resnet8", 8, 0.25).output_shape == (None, 16)
    assert build_encoder("resnet50", 32, 0.5).output_shape == (None, 1024)
    assert build_encoder("resnet8", 8, 0.001).output_shape == (None, 1)


def test_blocks_start_as_the_identity():
    encoder = build_encoder("resnet8", 8)
    inside = keras.Model(
        encoder.input,
        [encoder.get_layer("stem_relu").output, encoder.get_layer("stage1_block1_relu").output],
    )
    before, after = inside.predict(_IMAGES, verbose=0)
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("name", "size", "width"),
    [("resnet14", 8, 0.25), ("resnet18", 128, 0.0625), ("resnet50", 16, 0.0625)],
)
def test_stages_make_up_the_whole(name, size, width):
    rng = np.random.default_rng(1)
    whole, stages = build_encoder(name, size, width), build_stages(name, size, width)
    assert len(stages) == len(ENCODERS[name].blocks)
    paths = [weight.path for stage in stages for weight in stage.weights]
    assert paths == [weight.path for weight in whole.weights]
    # Batch norms as if trained, so that blocks are no longer the identity.
    for weight in whole.weights:
        if len(weight.shape) == 1:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    values = iter(whole.get_weights())
    for stage in stages:
        stage.set_weights([next(values) for _ in stage.weights])
    images = rng.random((2, size, size, 3), dtype="float32")
    x = images
    for stage in stages:
        x = stage(x)
    features = keras.layers.GlobalAveragePooling2D()(x)
    np.testing.assert_array_equal(features, whole(images))
    assert np.isfinite(features).all()
    assert np.ptp(features, axis=0).max() > 0  # The two images are told apart.


def test_stages_take_the_previous_ones_output():
    stages = build_stages("resnet50", 16, 0.125)
    assert stages[0].input_shape == (None, 16, 16, 3)
    for before, after in itertools.pairwise(stages):
        assert after.input_shape == before.output_shape
    assert stages[0].get_layer("standardize")
    assert stages[0].get_layer("stage1_block3_add")


def test_mixed_precision_stages_give_the_features_of_the_whole():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        whole, stages = build_encoder("resnet8", 8, 0.25), build_stages("resnet8", 8, 0.25)
    finally:
        keras.config.set_dtype_policy("float32")
    values = iter(whole.get_weights())
    for stage in stages:
        stage.set_weights([next(values) for _ in stage.weights])
    x = _IMAGES
    for stage in stages:
        x = stage(x)
    features = keras.layers.GlobalAveragePooling2D(dtype="float32")(x)
    assert whole.output.dtype == "float32"
    np.testing.assert_array_equal(features, whole(_IMAGES))


@pytest.mark.parametrize("build", [build_encoder, build_stages])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet9", 32), "one of resnet8, .*Received: 'resnet9'"),
        (("resnet18", 7), "resnet18 needs images of 8 pixels or more. Received: image_size_px=7"),
        (("resnet8", 3), "needs images of 4 pixels"),
        (("resnet8", 8, 0.0), "width_multiplier must be positive. Received: 0.0"),
        (("resnet8", 8, float("nan")), "width_multiplier must be positive. Received: nan"),
    ],
)
def test_refuses_wrong_networks(build, arguments, message):
    with pytest.raises(UserError, match=message):
        build(*arguments)


def test_only_residual_networks_have_stages():
    with pytest.raises(UserError, match="only a residual network .*'applications:VGG16'"):
        build_stages("applications:VGG16", 32)
