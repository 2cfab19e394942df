"""Comparing runs, and stopping one at a given step."""

import signal

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
    """Sends this process a signal when so many steps of a run are done."""
    after_step = Progress.after_step

    def signalling(self, values):
        after_step(self, values)
        if self.step == step:
            signal.raise_signal(number)

    monkeypatch.setattr(Progress, "after_step", signalling)
