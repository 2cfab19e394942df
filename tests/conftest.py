"""Two logical CPU devices for every test, and one small run that many tests look at."""

import builtins
import collections
import errno
import fcntl
import gc
import importlib.util
import io
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# scikit-learn's threads spin while they wait, which costs minutes if two processes share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import supcon_tf

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config):
    gc.set_threshold(100_000)  # As for the commands; otherwise it looks through many graphs often.
    cpu = tf.config.list_physical_devices("CPU")[0]
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)


def pytest_collection_modifyitems(items):
    """Files with slow tests or servers first, then those with the most tests; short ones come last.

    Files that need the trained run alternate with others, so that no worker waits while it is made.
    """
    slow, trained = set(), set()
    for item in items:
        if item.get_closest_marker("slow") or "serving" in item.path.parts:
            slow.add(item.path)
        if "finished_run" in item.fixturenames:
            trained.add(item.path)
    tests = collections.Counter(item.path for item in items)
    files = sorted(tests, key=lambda file: (file not in slow, -tests[file]))
    turns = itertools.zip_longest(
        [file for file in files if file in trained], [file for file in files if file not in trained]
    )
    place = {file: number for number, file in enumerate(itertools.chain.from_iterable(turns))}
    items.sort(key=lambda item: place[item.path])


@pytest.fixture(scope="session", autouse=True)
def no_garbage_collection_between_trainings():
    """Searches call `clear_session`, which takes seconds among the graphs of a thousand tests."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("keras.utils.clear_session", lambda: None)
        yield


@pytest.fixture(scope="session")
def built_once(tmp_path_factory):
    """Calls build(folder) in the first of pytest-xdist's workers to ask; all get that folder."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def folder(name, build):
        with open(root / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (root / name).exists():
                partial = root / f"{name}.partial"
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                build(partial)
                partial.rename(root / name)
        return root / name

    return folder


@pytest.fixture(scope="session")
def data_dir(built_once):
    """TensorFlow Datasets' directory of this test run, where the digits are prepared."""
    return str(built_once("tfds", lambda folder: supcon_tf.open_dataset("digits", str(folder))))


@pytest.fixture(scope="session")
def digits(data_dir):
    return supcon_tf.open_dataset("digits", data_dir)


@pytest.fixture(scope="session")
def import_script():
    """From the path of a script, such as benchmarks/training, to its module."""

    def load(path):
        file = ROOT / "scripts" / f"{path}.py"
        monkeypatch.syspath_prepend(str(file.parent))  # As for a script that is run.
        spec = importlib.util.spec_from_file_location(path.replace("/", "_"), file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # Dataclasses look their module up.
        spec.loader.exec_module(module)
        return module

    with pytest.MonkeyPatch.context() as monkeypatch:
        yield load


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
def finished_run(small_config, built_once, tmp_path_factory):
    """A run directory after pretraining, classifier and evaluation, of this worker alone."""

    def build(folder):
        run_dir = str(folder)
        supcon_tf.pretrain(supcon_tf.PretrainConfig(run_dir=run_dir, **small_config))
        supcon_tf.train_classifier(supcon_tf.ClassifierConfig(run_dir=run_dir, epochs=5))
        supcon_tf.evaluate(supcon_tf.EvaluateConfig(run_dir=run_dir))

    run = built_once("finished", build)
    return shutil.copytree(run, tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture(scope="session")
def exported(finished_run, built_once, tmp_path_factory):
    """The scores of an export of the finished run, `<saved_models>/digits`, and the settings."""

    def config(folder):
        return supcon_tf.ExportConfig(
            run_dir=str(finished_run), saved_models_dir=str(folder), name="digits"
        )

    def build(folder):
        (folder / "scores.pickle").write_bytes(pickle.dumps(supcon_tf.export(config(folder))))

    built = built_once("exported", build)
    folder = tmp_path_factory.mktemp("saved_models")
    shutil.copytree(built / "digits", folder / "digits")
    scores = pickle.loads((built / "scores.pickle").read_bytes())
    return scores, folder / "digits", config(folder)


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


COLORS = {"blue": (2, 0), "green": (1, 1), "red": (0, 2)}  # Channel, and place, of each class.


def write_several(folder: Path, count=96, seed=0):
    """Writes images that show any of three coloured squares, and a table; returns its name."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        pixels = rng.integers(0, 130, (12, 12, 3))
        shown = [name for bit, name in enumerate(COLORS) if number >> bit & 1]
        for channel, place in (COLORS[name] for name in shown):
            pixels[2:10, 4 * place : 4 * place + 4, channel] += 100
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03d}.png")
        rows.append({"path": f"{number:03d}.png", "label": shown})
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{folder}/labels.jsonl"


@pytest.fixture(scope="session")
def several_run(built_once):
    """A run on images with several classes each: pretraining, classifier, evaluation."""

    def build(folder):
        run_dir = str(folder / "run")
        config = supcon_tf.PretrainConfig(
            dataset=write_several(folder.with_name("several_images")),
            run_dir=run_dir,
            image_size_px=12,
            width_multiplier=0.5,
            augmentation="weak_symbols",
            batch_size=16,
            epochs=8,
            validation_fraction=0.25,
        )
        supcon_tf.pretrain(config)
        supcon_tf.train_classifier(supcon_tf.ClassifierConfig(run_dir=run_dir, epochs=40))
        supcon_tf.evaluate(supcon_tf.EvaluateConfig(run_dir=run_dir, bootstrap=50))

    return built_once("several", build) / "run"


@pytest.fixture(scope="session")
def several_exported(several_run, built_once):
    """The bundle of that run."""

    has_onnx = all(map(importlib.util.find_spec, ("onnx", "onnxruntime", "tf2onnx")))

    def build(folder):
        formats = "saved_model,tflite_float32,tflite_int8" + ",onnx" * has_onnx
        where = {"saved_models_dir": str(folder), "name": "colors"}
        supcon_tf.export(supcon_tf.ExportConfig(run_dir=str(several_run), formats=formats, **where))

    return built_once("several_exported", build) / "colors"


def forbid(monkeypatch, path: Path):
    """Makes a file or a folder unreadable for this process, even if it runs as root."""
    for module, name in ((builtins, "open"), (io, "open"), (os, "scandir")):
        _refuse(monkeypatch, module, name, path)


def _refuse(monkeypatch, module, name, path):
    allowed = getattr(module, name)

    def refusing(place, *arguments, **named):
        if isinstance(place, str | os.PathLike) and Path(place) == Path(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
        return allowed(place, *arguments, **named)

    monkeypatch.setattr(module, name, refusing)


@pytest.fixture
def image_folder(tmp_path):
    """A folder data set: two classes of twenty images."""
    return write_images(tmp_path / "photos", ["dark", "light"], 20)


@pytest.fixture(scope="session")
def script():
    """Runs a script of the repository in a process of its own."""

    def run(name, *arguments, cwd=ROOT):
        command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, arguments)]
        environment = {**os.environ}
        environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # As a user runs it.
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)

    return run


@pytest.fixture(scope="session")
def scripts():
    """Runs several scripts in one process; returns status, output and error of each."""

    def run(commands):
        finished = subprocess.run(
            [sys.executable, str(ROOT / "tests/cli/one_process.py")],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            input=json.dumps(commands),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return json.loads(finished.stdout)

    return run
