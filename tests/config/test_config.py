import dataclasses
import json

import pytest

from supcon_tf import (
    ClassifierConfig,
    EvaluateConfig,
    ExportConfig,
    PretrainConfig,
    TuneConfig,
    UserError,
)
from supcon_tf.config import DemoConfig, PredictConfig, WriteDigitsConfig

CONFIGS = [
    PretrainConfig,
    ClassifierConfig,
    EvaluateConfig,
    ExportConfig,
    PredictConfig,
    DemoConfig,
    WriteDigitsConfig,
]


@pytest.mark.parametrize("config_class", CONFIGS)
def test_round_trip_through_json(config_class):
    config = config_class()
    values = json.loads(json.dumps(config.to_dict()))
    placement = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if not field.metadata["identity"]
    }
    assert config_class.from_dict(values, **placement) == config


@pytest.mark.parametrize("config_class", [*CONFIGS, TuneConfig])
def test_every_setting_says_what_it_means_on_one_line(config_class):
    for field in dataclasses.fields(config_class):
        help = field.metadata["help"]
        assert help.endswith((".", ")."))
        assert len(help) < 90


def test_where_a_run_lies_is_not_what_it_is():
    settings = PretrainConfig(run_dir="elsewhere", resume=True).to_dict()
    assert settings == PretrainConfig().to_dict()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "temperature must be at least 0.001 and .*Received: 0.0"),
        ({"temperature": -1.0}, "temperature must be at least 0.001 and .*Received: -1.0"),
        ({"temperature": float("nan")}, "temperature must be a finite number. Received: nan"),
        ({"batch_size": 1}, "batch_size must be at least 2 and at most 1048576. Received: 1"),
        ({"epochs": 0}, "epochs must be at least 1 and at most 1000000. Received: 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0 and at most 1000. Received: 0.0"),
        ({"learning_rate": float("inf")}, "learning_rate must be a finite number"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1. Received: 1.0"),
        ({"holdout_fraction": 1.0}, "holdout_fraction must be at least 0.001 and at most 0.999"),
        ({"strategy": "all"}, "one of auto, one_device, .*Received: 'all'"),
        ({"epochs": 5, "warmup_epochs": 5}, "warmup_epochs must be below epochs"),
        ({"epochs": 2.5}, "epochs must be of type int. Received: 2.5"),
        ({"epochs": True}, "epochs must be of type int. Received: True"),
        ({"dataset": None}, "dataset must be of type str. Received: None"),
        ({"resume": True, "overwrite": True}, "are mutually exclusive"),
        ({"run_dir": ""}, "run_dir must name a directory"),
        ({"dataset": "folder:d", "run_dir": "d/run"}, "run_dir must not lie in the data set's"),
        ({"dataset": "folder:d", "run_dir": "d"}, "run_dir must not lie in the data set's"),
        ({"dataset": "folder:"}, "dataset must name a folder. Received: 'folder:'"),
        ({"run_dir": "\udcff"}, r"run_dir must be UTF-8 text. Received: '.udcff'"),
        ({"dataset": "folder:\0"}, "dataset must be UTF-8 text. Received: 'folder:.x00'"),
        ({"epochs": 2**63}, "epochs must be at least 1 and at most"),
        ({"image_size_px": 100_000}, "image_size_px must be at least 1 and at most 4096"),
        ({"method_args": {"temperature": 1}}, "Pass it as --temperature"),
    ],
)
def test_refuses_values_out_of_range(changes, message):
    with pytest.raises(UserError, match=message):
        PretrainConfig(**changes)


def test_whole_numbers_pass_for_real_ones():
    assert PretrainConfig(learning_rate=1).learning_rate == 1.0
    assert isinstance(PretrainConfig(learning_rate=1).learning_rate, float)


def test_refuses_unknown_settings():
    with pytest.raises(UserError, match="PretrainConfig has no setting 'epoch'"):
        PretrainConfig.from_dict({"epoch": 3})


def test_a_path_is_taken_for_text(tmp_path):
    config = ExportConfig(run_dir=tmp_path / "run")
    assert config == ExportConfig(run_dir=str(tmp_path / "run"))
    with pytest.raises(UserError, match="batch_size must be of type int. Received: PosixPath"):
        ExportConfig(batch_size=tmp_path)


def test_data_paths_become_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = PretrainConfig(dataset="folder:photos", data_dir="data")
    assert config.dataset == f"folder:{tmp_path}/photos"
    assert config.data_dir == f"{tmp_path}/data"
    assert PretrainConfig(dataset="cifar10").dataset == "cifar10"


def test_outputs_reach_the_images_through_no_link(tmp_path):
    (tmp_path / "photos/class").mkdir(parents=True)
    (tmp_path / "inside").symlink_to("photos/class")
    (tmp_path / "images").symlink_to("photos")
    (tmp_path / "photos/away").symlink_to(tmp_path)
    named = pytest.raises(UserError, match="run_dir must not lie in the data set's folder")
    for dataset, run in (("photos", "inside/run"), ("images", "photos/run")):
        with named:
            PretrainConfig(dataset=f"folder:{tmp_path / dataset}", run_dir=str(tmp_path / run))
    # Only by its name it lies there.
    config = PretrainConfig(
        dataset=f"folder:{tmp_path / 'photos'}", run_dir=str(tmp_path / "photos/away/run")
    )
    with pytest.raises(UserError, match="search_dir must not lie in the data set's folder"):
        config.check_outside_data("search_dir", str(tmp_path / "inside"))
    PretrainConfig(run_dir=str(tmp_path / "inside/run"))


def test_paths_of_images_may_be_of_any_bytes():
    assert PretrainConfig(dataset="folder:/\udcff").dataset == "folder:/\udcff"


def test_replace_validates_again():
    with pytest.raises(UserError, match="epochs"):
        PretrainConfig().replace(epochs=-1)
