import keras
import numpy as np
import pytest

from supcon_tf import UserError, build_encoder
from supcon_tf.networks.resnet import ENCODERS

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


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if sum(_DEPTHS[name][0]) > 16 else ())
        for name in ENCODERS
    ],
)
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
    ("arguments", "message"),
    [
        (("resnet9", 32), "one of resnet8, .*Received: 'resnet9'"),
        (("resnet18", 7), "resnet18 needs images of 8 pixels or more. Received: image_size_px=7"),
        (("resnet8", 3), "needs images of 4 pixels"),
        (("resnet8", 8, 0.0), "width_multiplier must be positive. Received: 0.0"),
        (("resnet8", 8, float("nan")), "width_multiplier must be positive. Received: nan"),
    ],
)
def test_refuses_wrong_networks(arguments, message):
    with pytest.raises(UserError, match=message):
        build_encoder(*arguments)
