"""Comparing runs, and stopping or killing one at a given step."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap

import keras
import numpy as np

from supcon_tf.engine.progress import Progress
from supcon_tf.stages.run_directory import RunDirectory


def weights(run_dir, name="encoder"):
    """The arrays of a model that a run keeps."""
    model = keras.saving.load_model(f"{run_dir}/{name}.keras", compile=False)
    return [weight.numpy() for weight in model.weights]


def curves(run_dir):
    """Every curve of pretraining but the seconds."""
    history = RunDirectory(str(run_dir)).history()["pretrain"]
    return {name: values for name, values in history.items() if name != "seconds"}


def assert_equal_runs(left_dir, right_dir):
    """Encoders and curves are equal bit for bit."""
    for left, right in zip(weights(left_dir), weights(right_dir), strict=True):
        np.testing.assert_array_equal(left, right)
    assert curves(left_dir) == curves(right_dir)


def signal_at(monkeypatch, step, number=signal.SIGTERM):
    """Sends this process a signal after this many steps of a run."""
    after_step = Progress.after_step

    def signalling(self, values):
        after_step(self, values)
        if self.step == step:
            signal.raise_signal(number)

    monkeypatch.setattr(Progress, "after_step", signalling)


class CrashError(Exception):
    """What `crash_at` raises."""


def crash_at(monkeypatch, step):
    """Ends a run after this many steps with an error that nothing expects."""
    after_step = Progress.after_step

    def crashing(self, values):
        after_step(self, values)
        if self.step == step:
            raise CrashError

    monkeypatch.setattr(Progress, "after_step", crashing)


# Trains as the script does, but kills itself after this many steps of the run (0: never).
_WORKER = textwrap.dedent(
    """
    import json, os, signal, sys
    from supcon_tf import PretrainConfig, pretrain
    from supcon_tf.engine.progress import Progress

    settings, kill_at = json.loads(sys.argv[1]), int(sys.argv[2])
    after_step = Progress.after_step

    def killing(self, values):
        after_step(self, values)
        if self.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    Progress.after_step = killing
    pretrain(PretrainConfig(**settings), maps=False)
    """
)


def start(settings, kill_at=0, **environment):
    """Begins a run in a process of its own, which kills itself after this many steps."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    command = [sys.executable, "-W", "ignore", "-c", _WORKER, json.dumps(settings), str(kill_at)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process, seconds=300):
    """The status and the errors of a process that `start` began."""
    _, error = process.communicate(timeout=seconds)
    return process.returncode, error


def cluster_of_two():
    """The environments of two workers on this machine."""
    sockets = [socket.socket() for _ in range(2)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    workers = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    tasks = [{"type": "worker", "index": index} for index in range(2)]
    cluster = {"worker": workers}
    return [{"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})} for task in tasks]


def lock_elsewhere(run):
    """The error of another process that locks a run directory."""
    lock = str(run.path.resolve() / ".lock")
    code = f"import fcntl; fcntl.flock(open({lock!r}), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr
