"""The checks of a GPU, on a machine that has none: one line, and nothing is run or written."""

import importlib.util
import json
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
        ({"checks": "losses,none"}, "checks must be among .*Received: 'none'"),
        ({"training_epochs": "60,x"}, "training_epochs must be whole numbers.*'60,x'"),
        ({"training_epochs": "60"}, "training_epochs must be two numbers.*'60'"),
        ({"peer": "supcontrast"}, "peer must be supcontrast:PATH.*Received: 'supcontrast'"),
        ({"peer": "supcontrast:.", "peer_python": "/no/python"}, "Received: '/no/python'"),
    ],
    ids=["no GPU", "checks", "epochs", "two epochs", "peer", "its Python"],
)
def test_what_cannot_run_is_refused_first(kit, tmp_path, monkeypatch, settings, line):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with pytest.raises(UserError, match=line):
        kit.main(kit.GpuConfig(output_dir=str(tmp_path / "out"), **settings))
    assert list(tmp_path.iterdir()) == []


def test_results_that_cannot_be_written_or_read(kit, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kit, "_check_gpu", lambda: None)
    monkeypatch.setattr(kit, "_command", lambda check, config: ["false"])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to output_dir .*file"):
        kit.main(kit.GpuConfig(output_dir=str(tmp_path / "file")))
    table = {"title": "earlier", "header": ["a"], "rows": [["1"]]}
    for check in ("devices", "steps"):
        (tmp_path / f"{check}.json").write_text(json.dumps({"tables": [table]}))
    (tmp_path / "losses.json").write_text("{")
    (tmp_path / "cifar10.json").write_text("[]")
    with pytest.raises(SystemExit):
        kit.main(kit.GpuConfig(output_dir=str(tmp_path), checks="steps"))
    report = (tmp_path / "report.md").read_text()
    assert "**steps: status 1, see" in report
    assert report.count("## earlier") == 1  # Of the check that was not run.
    for damaged in ("losses", "cifar10"):
        assert f"**{damaged}: its tables cannot be read" in report
