"""Every method: broken off, resumed bit for bit, evaluated, exported, served."""

import base64

import pytest
import requests
from run_contents import CrashError, assert_equal_runs, crash_at
from serving import fakes

import supcon_tf
from supcon_tf.methods import METHODS
from supcon_tf.stages.run_directory import RunDirectory

# These go this way in other tests, or differ in the loss alone.
ELSEWHERE = {
    "supcon_out",
    "supcon_in",
    "simclr",
    "triplet",
    "npairs",
    "max_margin",
    "cross_entropy",
    "sincere",
    "epsilon_supinfonce",
}
# These leave an encoder and a classifier as SupCon does, whose export and server have their tests.
LIKE_SUPCON = {"cacr", "suncet", "bcl"}
# Of the methods that need more than the defaults.
SETTINGS = {
    "cacr": {"num_views": 3, "queue_size": 512, "ema_momentum": 0.9},
    "loco": {"micro_batch_size": 64, "method_args": {"overlap": 1, "local_loss": "supcon"}},
    "suncet": {
        "labels_per_class": 8,
        "micro_batch_size": 64,
        "method_args": {"images_per_class": 4, "supervised_epochs": 1},
    },
    "comatch": {
        "train_images": 1000,
        "labels_per_class": 8,
        "batch_size": 64,
        "ema_momentum": 0.9,
        "method_args": {
            "unlabelled_ratio": 4,
            "weak": "weak_symbols",
            "strong": "strong_symbols",
            "confidence": 0.2,
        },
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=pytest.mark.exhaustive if name in ("bcl", "joint") else [])
        for name in METHODS
        if name not in ELSEWHERE
    ],
)
def test_broken_off_resumed_evaluated_exported_served(method, small_config, tmp_path, monkeypatch):
    settings = {
        **small_config,
        "epochs": 2,
        "train_images": 400,
        "warmup_epochs": 0.0,
        "learning_rate": 0.05,
        "checkpoint_steps": 1,
        **SETTINGS.get(method, {}),
        "method": method,
    }
    whole, broken = str(tmp_path / "whole"), str(tmp_path / method)
    supcon_tf.pretrain(supcon_tf.PretrainConfig(**settings, run_dir=whole), maps=False)
    with monkeypatch.context() as patch:
        crash_at(patch, step=4)
        with pytest.raises(CrashError):
            supcon_tf.pretrain(supcon_tf.PretrainConfig(**settings, run_dir=broken), maps=False)
    config = supcon_tf.PretrainConfig(**settings, run_dir=broken, resume=True)
    supcon_tf.pretrain(config, maps=False)
    assert_equal_runs(whole, broken)

    if not RunDirectory(broken).has_finished("classifier"):
        supcon_tf.train_classifier(supcon_tf.ClassifierConfig(run_dir=broken, epochs=3))
    scores = supcon_tf.evaluate(supcon_tf.EvaluateConfig(run_dir=broken))
    assert 0 < scores["top1"] <= 1
    if method in LIKE_SUPCON:
        return
    models = tmp_path / "models"
    # How an encoder becomes TFLite does not depend on the method.
    config = supcon_tf.ExportConfig(run_dir=broken, saved_models_dir=str(models))
    exported = supcon_tf.export(config.replace(formats="saved_model"))
    assert exported["saved_model"]["max_difference"] < 1e-4
    with fakes.serving(models / method) as server:
        address = f"http://127.0.0.1:{server.http_port}/v1/models/{method}:predict"
        body = {"instances": [{"b64": base64.b64encode(fakes.FILES["png"]).decode()}]}
        answer = requests.post(address, json=body, timeout=60).json()
    assert answer["predictions"][0]["class_name"] in map(str, range(10))
