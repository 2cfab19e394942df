"""Two logical CPU devices for every test, and one small run that many tests look at."""

import importlib
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import supcon_tf

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config):
    cpu = tf.config.list_physical_devices("CPU")[0]
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """TensorFlow Datasets' directory of this test run."""
    return str(tmp_path_factory.mktemp("tfds"))


@pytest.fixture(scope="session")
def digits(data_dir):
    return supcon_tf.open_dataset("digits", data_dir)


@pytest.fixture(scope="session")
def import_script():
    """From the name of a script to its module."""
    sys.path.insert(0, str(ROOT / "scripts"))
    yield importlib.import_module
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="session")
def small_config(data_dir):
    """Settings of a run that takes seconds."""
    return {
        "data_dir": data_dir,
        "width_multiplier": 0.5,
        "epochs": 10,
        "warmup_epochs": 1,
        "batch_size": 128,
    }


@pytest.fixture(scope="session")
def finished_run(small_config, tmp_path_factory):
    """A run directory after pretraining, classifier and evaluation."""
    run_dir = str(tmp_path_factory.mktemp("runs") / "finished")
    supcon_tf.pretrain(supcon_tf.PretrainConfig(run_dir=run_dir, **small_config))
    supcon_tf.train_classifier(supcon_tf.ClassifierConfig(run_dir=run_dir, epochs=5))
    supcon_tf.evaluate(supcon_tf.EvaluateConfig(run_dir=run_dir))
    return Path(run_dir)


@pytest.fixture(scope="session")
def exported(finished_run, tmp_path_factory):
    """The scores of an export of the finished run, `<saved_models>/digits`, and the settings."""
    folder = tmp_path_factory.mktemp("saved_models")
    config = supcon_tf.ExportConfig(
        run_dir=str(finished_run), saved_models_dir=str(folder), name="digits"
    )
    return supcon_tf.export(config), folder / "digits", config


def write_images(root: Path, classes, per_class, mode="RGB", size=(12, 12), seed=0, level=None):
    """Writes noisy images whose mean brightness tells the class, unless it is given."""
    rng = np.random.default_rng(seed)
    for index, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        mean = 40 + 170 * index / max(1, len(classes) - 1) if level is None else level
        for number in range(per_class):
            channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
            noise = rng.normal(mean, 20, (size[1], size[0], *channels))
            pixels = np.clip(noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels, mode).save(root / name / f"{number:03d}.png")
    return root


@pytest.fixture
def image_folder(tmp_path):
    """A folder data set: two classes of twenty images."""
    return write_images(tmp_path / "photos", ["dark", "light"], 20)


@pytest.fixture(scope="session")
def script():
    """Runs a script of the repository in a process of its own."""
    import subprocess

    def run(name, *arguments, cwd=ROOT):
        command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, arguments)]
        environment = {**os.environ}
        environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # As a user runs it.
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)

    return run
