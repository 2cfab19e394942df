"""The checks of a GPU, on a machine that has none: one line, and nothing is run or written."""

import importlib.util
import sys

import pytest
import tensorflow as tf
from conftest import ROOT

from supcon_tf import UserError


@pytest.fixture
def kit(monkeypatch):
    folder = ROOT / "scripts/benchmarks/gpu"
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    spec = importlib.util.spec_from_file_location("gpu_run", folder / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({}, "TensorFlow sees no GPU"),
        ({"checks": "losses,none"}, "checks must be of .*Received: 'none'"),
        ({"peer": "supcontrast"}, "peer must be supcontrast:PATH.*Received: 'supcontrast'"),
        ({"peer": "supcontrast:.", "peer_python": "/no/python"}, "Received: '/no/python'"),
    ],
    ids=["no GPU", "checks", "peer", "its Python"],
)
def test_what_cannot_run_is_refused_first(kit, tmp_path, monkeypatch, settings, line):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with pytest.raises(UserError, match=line):
        kit.main(kit.GpuConfig(output_dir=str(tmp_path / "out"), **settings))
    assert list(tmp_path.iterdir()) == []
