"""The loop that every stage trains with: progress, checkpoints, logs, resumption."""

import contextlib
import math
import random
import sys
import time
from collections.abc import Callable

import keras
import tensorflow as tf
from tqdm import tqdm

from supcon_tf import checkpoints
from supcon_tf.errors import UserError
from supcon_tf.runs import RunDirectory

# Seconds between two updates within an epoch, of the bar and of the lines.
_BAR_SECONDS, _LINE_SECONDS = 0.5, 30.0


@contextlib.contextmanager
def initial_weights(seed: int):
    """Models built inside start from weights that depend on `seed` alone.

    Keras draws the seeds of its initializers from Python's generator, which is left as it was.
    """
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)


def fit(
    model: keras.Model,
    make_stream: Callable[[int], tf.data.Dataset],
    *,
    epochs: int,
    steps_per_epoch: int,
    run: RunDirectory,
    stage: str,
) -> dict[str, list[float]]:
    """Trains a compiled model, continuing from the run's newest checkpoint of the stage.

    Args:
        model: compiled and built.
        make_stream: from the epoch to begin with to a dataset of all batches from there on.
        epochs: epochs in all.
        steps_per_epoch: batches an epoch.
        run: where checkpoints and logs go.
        stage: name of the stage in the run directory.

    Returns:
        One value per epoch for each metric, for `learning_rate` and for `seconds`.

    Raises:
        UserError: if the loss is no longer finite, or no checkpoint is sound.
    """
    with model.distribute_strategy.scope():
        model.optimizer.build(model.trainable_variables)
        done, history = checkpoints.restore(run.checkpoints(stage), model)
        if done < epochs:
            model.fit(
                make_stream(done),
                initial_epoch=done,
                epochs=epochs,
                steps_per_epoch=steps_per_epoch,
                callbacks=[
                    _Checkpoints(run, stage, history),
                    Progress(stage, epochs, steps_per_epoch, done),
                    keras.callbacks.TensorBoard(run.path / "logs" / stage, write_graph=False),
                ],
                shuffle=False,
                verbose=0,
            )
    return history


class _Checkpoints(keras.callbacks.Callback):
    """Records the epoch, then saves; refuses to save weights of a loss that is not finite."""

    def __init__(self, run, stage, history):
        super().__init__()
        self.run, self.stage, self.history = run, stage, history

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise UserError(
                f"the loss is {logs['loss']} in epoch {epoch + 1} of {self.stage}; the weights "
                "before it are kept. Lower learning_rate or raise temperature."
            )
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        seconds = time.monotonic() - self.started
        for name, value in {**logs, "learning_rate": rate, "seconds": seconds}.items():
            self.history.setdefault(name, []).append(float(value))
        checkpoints.save(self.run.checkpoints(self.stage), epoch + 1, self.model, self.history)


class Progress(keras.callbacks.Callback):
    """One bar for the whole stage on a terminal; elsewhere a line an epoch and every half minute.

    Args:
        title: shown in front.
        epochs: epochs in all.
        steps_per_epoch: batches an epoch.
        done: epochs already done.
        stream: where it is written; standard error by default.
    """

    def __init__(self, title, epochs, steps_per_epoch, done=0, stream=None):
        super().__init__()
        self.title, self.epochs, self.steps, self.done = title, epochs, steps_per_epoch, done
        self.stream = stream or sys.stderr

    def on_train_begin(self, logs=None):
        """Starts the clock and, on a terminal, the bar."""
        self.started = self.shown = time.monotonic()
        self.timed_from = None
        self.epoch, self.step = self.done, self.done * self.steps
        self.bar = None
        if self.stream.isatty():
            total = self.epochs * self.steps
            self.bar = tqdm(
                total=total, initial=self.step, desc=self.title, unit="step", file=self.stream
            )

    def on_epoch_begin(self, epoch, logs=None):
        """Notes which epoch it is."""
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        """Advances, and shows the metrics now and then."""
        self.step += 1
        if self.timed_from is None:
            # The first step compiles; what is left is estimated from the others.
            self.timed_from, self.started = self.step, time.monotonic()
        if self.bar is not None:
            self.bar.update()
        if self.step % self.steps == 0:
            return  # The end of the epoch shows it.
        if time.monotonic() - self.shown > (_BAR_SECONDS if self.bar else _LINE_SECONDS):
            self._show(logs)

    def on_epoch_end(self, epoch, logs=None):
        """Shows the epoch's metrics."""
        self._show(logs)

    def _show(self, logs):
        self.shown = time.monotonic()
        values = " ".join(f"{name} {value:.4f}" for name, value in (logs or {}).items())
        epoch = f"epoch {self.epoch + 1}/{self.epochs}"
        if self.bar is not None:
            self.bar.set_postfix_str(f"{epoch} {values}")
            return
        timed = max(1, self.step - self.timed_from)
        left = (self.shown - self.started) / timed * (self.epochs * self.steps - self.step)
        step = f"step {self.step - self.epoch * self.steps}/{self.steps}"
        line = f"{self.title} {epoch} {step} {values} ({left:.0f} s left)"
        print(line, file=self.stream, flush=True)

    def on_train_end(self, logs=None):
        """Closes the bar."""
        if self.bar is not None:
            self.bar.close()
