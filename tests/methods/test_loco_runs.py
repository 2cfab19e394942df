"""Whole runs of LoCo: trained, on two replicas, refused."""

import numpy as np
import pytest

import supcon_tf
from supcon_tf import PretrainConfig, UserError


def config(small_config, run_dir, **changes):
    settings = {"epochs": 2, "method": "loco", "temperature": 0.2, **changes}
    return PretrainConfig(run_dir=str(run_dir), **{**small_config, **settings})


def histories(*runs):
    found = [
        supcon_tf.stages.run_directory.RunDirectory(str(run)).history()["pretrain"] for run in runs
    ]
    for history in found:
        del history["seconds"]
    return found


@pytest.mark.slow
def test_the_encoder_learns(small_config, tmp_path):
    changes = {"micro_batch_size": 64, "method_args": {"local_loss": "supcon"}}
    whole = config(small_config, tmp_path / "run", **changes)
    supcon_tf.pretrain(whole, maps=False)
    (history,) = histories(whole.run_dir)
    assert history["loss"][1] < history["loss"][0]
    found = supcon_tf.evaluate(supcon_tf.EvaluateConfig(run_dir=whole.run_dir))
    assert found["knn_top1"] > 0.5


@pytest.mark.multi_device
@pytest.mark.slow
def test_two_replicas_train_like_one(small_config, tmp_path):
    settings = [
        config(small_config, tmp_path / name, strategy=name, learning_rate=0.02)
        for name in ("one_device", "mirrored")
    ]
    for one in settings:
        supcon_tf.pretrain(one, maps=False)
    left, right = histories(*(one.run_dir for one in settings))
    for name in ("loss", "stage2", "stage3"):
        np.testing.assert_allclose(left[name], right[name], rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlap": 3}, "overlap must be an int from 0 to 2, one less .* Received: 3"),
        ({"overlap": -1}, "overlap must be an int from 0 to 2, one less .* Received: -1"),
        ({"overlap": 0.5}, "Received: 0.5"),
        ({"first_loss": 3}, r"first_loss must be an int from 1 to overlap \+ 1 = 2, .*: 3"),
        ({"first_loss": 0}, "first_loss must be an int from 1 .* Received: 0"),
        ({"decoder_blocks": -1}, "decoder_blocks must be an int of at least 0. Received: -1"),
        (
            {"local_loss": "triplet"},
            "local_loss must be one of simclr, supcon. Received: 'tri",
        ),
        ({"margin": 1}, "method loco has no argument 'margin'; it takes overlap"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    changes, message, small_config, tmp_path
):
    with pytest.raises(UserError, match=message):
        supcon_tf.pretrain(config(small_config, tmp_path / "run", method_args=changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder": "applications:MobileNetV2", "width_multiplier": 1.0, "image_size_px": 32},
            "encoder must be a network by name.*Received: 'applications:MobileNetV2'",
        ),
        ({"num_views": 1}, "local_loss simclr needs two or more views of an image. Received: 1"),
        ({"temperature": 0.0}, "temperature must be at least 0.001"),
        ({"queue_size": 64}, "method loco has no memory queue"),
    ],
)
def test_other_settings_that_do_not_fit_are_refused(changes, message, small_config, tmp_path):
    with pytest.raises(UserError, match=message):
        supcon_tf.pretrain(config(small_config, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()
