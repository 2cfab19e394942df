"""Ctrl-C and SIGTERM: a script ends with one clear line, and its run can be resumed."""

import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from run_contents import assert_equal_runs


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_resume_continues(script, small_config, finished_run, tmp_path):
    flags = [f"--{name}={value}" for name, value in small_config.items()]
    flags += [f"--run_dir={tmp_path / 'run'}"]
    command = [sys.executable, str(ROOT / "scripts/pretrain.py"), *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "epoch 1/10" in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == 130
    assert f"kept. Continue: {command[1]} --run_dir={tmp_path / 'run'} --resume\n" in rest
    assert "Traceback" not in rest
    again = script("pretrain", *flags)
    assert again.returncode == 2
    assert "Pass --resume" in again.stderr
    other = script("pretrain", *flags, "--resume", "--seed=1")
    assert other.returncode == 2
    assert "a different configuration: seed was 0. Received: 1" in other.stderr
    # The run knows its other settings.
    resumed = script("pretrain", f"--run_dir={tmp_path / 'run'}", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "epoch 1/10" not in resumed.stderr
    assert_equal_runs(tmp_path / "run", finished_run)


@pytest.mark.slow
def test_sigterm_ends_without_a_traceback(small_config, tmp_path):
    flags = [f"--{name}={value}" for name, value in small_config.items()]
    command = [sys.executable, "scripts/pretrain.py", *flags, f"--run_dir={tmp_path / 'run'}"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "run/config.json").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.terminate()
        errors = process.stderr.read()
    assert process.returncode == 143
    assert "Traceback" not in errors
