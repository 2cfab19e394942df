"""A server that cannot start says why in one clear line, before the model is loaded."""

import shutil
import socket
import subprocess
import sys

import pytest
from conftest import ROOT
from exporting.fragile import write_fragile

from supcon_tf.config import ServeConfig
from supcon_tf.core.errors import UserError
from supcon_tf.serving import serve


@pytest.fixture
def taken_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("flag", ["http_port", "grpc_port"])
def test_a_taken_port_is_told_before_the_model_is_loaded(taken_port, flag):
    config = ServeConfig(**{"model_dir": "nowhere", "http_port": 0, flag: taken_port})
    with pytest.raises(UserError, match=rf"cannot listen on 127.0.0.1:{taken_port} .*--{flag}"):
        serve(config)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", ""])
def test_an_address_of_another_machine_is_told(host):
    with pytest.raises(UserError, match="cannot listen on|host must be an address"):
        serve(ServeConfig(model_dir="nowhere", http_port=0, host=host))


def test_a_missing_model_is_told(tmp_path):
    for folder in ("nowhere", str(tmp_path)):
        with pytest.raises(UserError, match="has no version of a model. Received: "):
            serve(ServeConfig(model_dir=folder, http_port=0))


def test_a_damaged_model_is_told(served_bundle, tmp_path, capfd):
    shutil.copytree(served_bundle, tmp_path / "1")
    (tmp_path / "1/labels.txt").write_text("zero\n")
    with pytest.raises(
        UserError,
        match=r"no version in .* is valid; the newest: .*the SHA-256 of .* does not match",
    ):
        serve(ServeConfig(model_dir=str(tmp_path), http_port=0))
    assert capfd.readouterr().err.startswith("version 1 is refused: bundle")


def test_a_model_that_gives_nan_is_told(served_bundle, tmp_path):
    write_fragile(served_bundle, tmp_path / "1", fails_above=-1.0)
    with pytest.raises(
        UserError, match="the newest: bundle .*/1: the model.s outputs are not finite"
    ):
        serve(ServeConfig(model_dir=str(tmp_path), http_port=0))


def test_a_version_is_no_model(served_bundle):
    with pytest.raises(UserError, match="is one version"):
        serve(ServeConfig(model_dir=str(served_bundle), http_port=0))


def test_a_missing_kserve_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "kserve", None)
    with pytest.raises(UserError, match=r"Run: pip install 'supcon_tf\[serve\]'"):
        serve(ServeConfig(model_dir="nowhere"))


def test_importing_the_package_imports_no_kserve():
    code = "import sys, supcon_tf.serving; print({'kserve', 'tensorflow'} & set(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "set()"
