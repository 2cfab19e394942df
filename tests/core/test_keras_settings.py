"""Keras's settings: set by the scripts, refused in programs that chose others."""

import json
import os
import subprocess
import sys

import keras
import pytest
from conftest import ROOT
from run_contents import assert_equal_runs

import supcon_tf
from supcon_tf import ClassifierConfig, EvaluateConfig, ExportConfig, PretrainConfig, UserError


@pytest.mark.parametrize(
    ("name", "wanted", "value"),
    [
        ("floatx", "float32", "float64"),
        ("image_data_format", "channels_last", "channels_first"),
        ("dtype_policy", "float32", "mixed_float16"),
        ("epsilon", 1e-7, 1e-3),
    ],
)
@pytest.mark.parametrize(
    "stage",
    [
        lambda run: supcon_tf.pretrain(PretrainConfig(run_dir=run)),
        lambda run: supcon_tf.pretrain(PretrainConfig(run_dir=run, dry_run=True)),
        lambda run: supcon_tf.train_classifier(ClassifierConfig(run_dir=run)),
        lambda run: supcon_tf.evaluate(EvaluateConfig(run_dir=run)),
        lambda run: supcon_tf.export(ExportConfig(run_dir=run)),
    ],
    ids=["pretrain", "dry run", "classifier", "evaluate", "export"],
)
def test_other_settings_of_a_program_are_refused(stage, name, wanted, value, tmp_path):
    change = getattr(keras.config, f"set_{name}")
    message = f"Keras must be set to {name} {wanted}. Received: {value!r}.* keras.config.set_{name}"
    change(value)
    try:
        with pytest.raises(UserError, match=message):
            stage(str(tmp_path / "run"))
    finally:
        change(wanted)
    assert list(tmp_path.iterdir()) == []


def _run(code, **environment):
    return subprocess.run(
        [sys.executable, "-W", "ignore", *code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_keras_runs_on_tensorflow_whatever_the_environment_says():
    code = "import supcon_tf, keras; supcon_tf.PretrainConfig; print(keras.config.backend())"
    assert _run(["-c", code], KERAS_BACKEND="numpy").stdout == "tensorflow\n"


def test_keras_already_on_another_backend_is_refused():
    code = "import keras; keras.config.backend = lambda: 'numpy'; import supcon_tf"
    found = _run(["-c", code])
    assert found.returncode == 1
    assert "Received: Keras already imported on numpy. Set KERAS_BACKEND" in found.stderr


@pytest.mark.slow
def test_scripts_train_the_same_whatever_keras_json_says(small_config, finished_run, tmp_path):
    settings = {"floatx": "float64", "image_data_format": "channels_first", "backend": "jax"}
    (tmp_path / "keras.json").write_text(json.dumps({**settings, "epsilon": 1e-3}))
    flags = [f"--{name}={value}" for name, value in small_config.items()]
    flags += [f"--run_dir={tmp_path / 'run'}"]
    found = _run(["scripts/pretrain.py", *flags], KERAS_HOME=str(tmp_path))
    assert found.returncode == 0, found.stderr
    assert_equal_runs(tmp_path / "run", finished_run)
