"""The loop that every stage trains with: progress, checkpoints, logs, resumption."""

import dataclasses
import io
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from supcon_tf.core.errors import UserError
from supcon_tf.core.files import has_lost_lock
from supcon_tf.engine import checkpoints
from supcon_tf.engine.logs import Logs
from supcon_tf.engine.method import shown
from supcon_tf.engine.progress import Progress
from supcon_tf.engine.saving import History, Saving, best_epoch, forget_lost
from supcon_tf.engine.signals import StopSignals
from supcon_tf.engine.workers import (
    agreed,
    chief_first,
    distribute_stream,
    everywhere,
    is_chief,
    num_workers,
)


@dataclasses.dataclass(frozen=True)
class Watching:
    """Functions that are called at the end of every epoch, and what is shown.

    Attributes:
        measure: a function from the epoch, counted from 0, to further metrics of it.
        warn: a function from the curves so far to a warning, or None.
        stop_when: a function from the curves so far to whether to stop at the end of this epoch;
            everything is then saved, and a later call continues. None never stops. With several
            workers, the chief's answer counts.
        images_per_step: images per step, for the rate shown in the progress; 0 shows no rate.
        verbose: whether the progress shows every metric.
    """

    measure: Callable[[int], Mapping[str, float | None]] = lambda epoch: {}
    warn: Callable[[History], str | None] = lambda history: None
    stop_when: Callable[[History], bool] | None = None
    images_per_step: int = 0
    verbose: bool = False


def fit(
    model: keras.Model,
    make_stream: Callable[[int, int, int], tf.data.Dataset],
    *,
    epochs: int,
    steps_per_epoch: int,
    folder: Path,
    stage: str,
    saving: Saving | None = None,
    watching: Watching | None = None,
) -> History:
    """Trains a compiled model, continuing from the newest checkpoint of the stage.

    Resuming is exact: however often the training is interrupted, it ends with the weights, metrics
    and curves of an uninterrupted one (on a CPU; a GPU's kernels add up in varying order). After
    SIGTERM or Ctrl-C it saves before it ends, unless several workers train: those would wait for
    each other.

    Args:
        model: compiled and built, its metrics too.
        make_stream: a function from the first step, this worker's index and the number of workers
            to an endless dataset of this worker's share of every batch from that step on.
        epochs: epochs in all.
        steps_per_epoch: batches per epoch.
        folder: where checkpoints/<stage> and logs/<stage> go.
        stage: name of the stage, for paths and messages.
        saving: when checkpoints are written; None for the defaults.
        watching: what is done at the end of every epoch; None for nothing.

    Returns:
        One value per finished epoch for each metric, for `learning_rate` and for `seconds`.

    Raises:
        UserError: if the loss or the weights are no longer finite, or no checkpoint is intact.
        SystemExit: after SIGTERM, once a checkpoint is written.
        KeyboardInterrupt: after Ctrl-C, once a checkpoint is written.
    """
    saving, watching = saving or Saving(), watching or Watching()
    strategy = model.distribute_strategy
    with strategy.scope(), StopSignals(num_workers(strategy) == 1) as stop:
        model.optimizer.build(model.trainable_variables)
        saved = checkpoints.folder_of(folder, stage)
        found = chief_first(strategy, lambda: checkpoints.newest(saved))
        step = agreed(strategy, found.step if found else 0)
        # All workers first check that they find the checkpoint, since loading makes them wait for
        # each other.
        state = everywhere(strategy, lambda: checkpoints.read(saved, step))
        checkpoints.load(saved, state, model)
        if saving.best_metric and is_chief(strategy):
            forget_lost(state.history, saving.best_metric, saved, steps_per_epoch)
        training = _Training(model, folder, stage, epochs, steps_per_epoch, saving, watching, state)
        if not training.is_over():
            training.run(make_stream, stop)
        stop.check()
    return state.history


def train_function(model: keras.Model):
    """One step on the next batch of an iterator, as a graph.

    Keras's own fails on several workers: it takes the mean of a scalar along an axis.

    Args:
        model: compiled and built.

    Returns:
        A function from an iterator of (distributed) batches to the metrics, each the mean over the
        replicas.
    """
    strategy = model.distribute_strategy
    step = model.train_step
    if model.jit_compile:
        step = tf.function(step, jit_compile=True, autograph=False)

    def train(iterator):
        values = strategy.run(step, args=(next(iterator),))
        if strategy.num_replicas_in_sync == 1:
            return values
        mean = tf.distribute.ReduceOp.MEAN
        return {name: strategy.reduce(mean, value, axis=None) for name, value in values.items()}

    return tf.function(train, autograph=False)


@dataclasses.dataclass
class _Training:
    """One training run, from its saved state to its end; attributes as `fit`'s arguments."""

    model: keras.Model
    folder: Path
    stage: str
    epochs: int
    steps_per_epoch: int
    saving: Saving
    watching: Watching
    state: checkpoints.State

    def __post_init__(self):
        self.total = self.epochs * self.steps_per_epoch
        self.saved = self.state.step  # Step of the newest checkpoint.
        self.saved_at, self.save_seconds = time.monotonic(), 0.0
        self.chief = is_chief(self.model.distribute_strategy)

    def is_over(self):
        """Whether all epochs are done, or `stop_when` stops the run at the end of the latest."""
        if self.state.step >= self.total:
            return True
        stop_when = self.watching.stop_when
        if stop_when is None or not self.state.step or not self._at_epoch_end():
            return False
        stops = int(self.chief and stop_when(self.state.history))
        return bool(agreed(self.model.distribute_strategy, stops))

    def _at_epoch_end(self):
        return self.state.step % self.steps_per_epoch == 0

    def run(self, make_stream, stop):
        """Trains to the end, or until `stop_when` or a signal stops it."""
        state = self.state
        self.logs = Logs(self.folder / "logs" / self.stage, state.history) if self.chief else None
        output = None if self.chief else io.StringIO()  # Only the chief shows it.
        shown = self.watching.images_per_step, self.watching.verbose
        self.progress = Progress(
            self.stage, self.epochs, self.steps_per_epoch, state.step, output, *shown
        )
        stream = distribute_stream(
            self.model.distribute_strategy,
            lambda index, count: make_stream(state.step, index, count),
        )
        self.started = time.monotonic() - state.seconds
        try:
            self._run(iter(stream), train_function(self.model), stop)
        finally:
            self.progress.close()

    def _run(self, batches, train, stop):
        state, every_steps = self.state, self.saving.every_steps
        before, over = None, False
        while not over:
            if self._at_epoch_end():
                self.model.reset_metrics()
            values = train(batches)
            state.step += 1
            # The previous step is done by now: checking it does not delay this one.
            self._check(before)
            before = state.step, values
            self.progress.after_step(lambda now=values: _numbers(now))
            if self._at_epoch_end():
                self._check(before)
                self._end_epoch(values)
                over = self.is_over()
            elif every_steps and state.step % every_steps == 0:
                self._check(before)
                self._save()
            if stop.signal is not None:
                self._check(before)
                self._stop(stop)
        if self.saved != state.step:
            self._save()

    def _check(self, step_and_values):
        """Stops if the loss of a step is not finite, which makes the epoch's mean not finite."""
        if step_and_values is None:
            return
        step, values = step_and_values
        loss = float(values["loss"])
        if not math.isfinite(loss):
            epoch = (step - 1) // self.steps_per_epoch + 1
            kept = f"the weights of step {self.saved} are kept" if self.saved else "nothing is kept"
            raise UserError(
                f"the loss is {loss} at step {step} (epoch {epoch}) of {self.stage}; {kept}. Lower "
                "learning_rate, lengthen the warm-up or raise temperature."
            )

    def _end_epoch(self, values):
        history, epoch = self.state.history, self.state.step // self.steps_per_epoch - 1
        values = _numbers(values)
        values |= {m.name: float(m.result()) for m in self.model.metrics if not shown(m)}
        values |= self.watching.measure(epoch)
        values["learning_rate"] = _last_rate(self.model.optimizer)
        self.progress.after_epoch(values)
        values["seconds"] = time.monotonic() - self.started
        self.started = time.monotonic()
        for name, value in values.items():
            history.setdefault(name, []).append(value)
        warning = self.watching.warn(history)
        if warning:
            self.progress.warn(warning)
        if self.chief:
            self.logs.write(history, epoch)
        if self._is_due(epoch):
            self._save()

    def _is_due(self, epoch):
        """Whether a checkpoint is worth its time at the end of an epoch."""
        if num_workers(self.model.distribute_strategy) > 1:
            return True  # The workers' clocks differ.
        metric, since = self.saving.best_metric, time.monotonic() - self.saved_at
        best = bool(metric) and best_epoch(self.state.history, metric) == epoch
        return best or since * self.saving.share >= self.save_seconds

    def _save(self):
        state, protect, started = self.state, None, time.monotonic()
        if not all(np.isfinite(np.sum(weight)) for weight in self.model.get_weights()):
            raise UserError(
                f"weights of the model are not finite at step {state.step} of {self.stage}; the "
                f"checkpoint of step {self.saved} is the last good one. Lower learning_rate."
            )
        state.seconds = 0.0 if self._at_epoch_end() else time.monotonic() - self.started
        if self.saving.best_metric:
            best = best_epoch(state.history, self.saving.best_metric)
            protect = None if best is None else (best + 1) * self.steps_per_epoch
        checkpoints.save(
            checkpoints.folder_of(self.folder, self.stage),
            state,
            self.model,
            keep=self.saving.keep,
            protect=protect,
            # Another run may have replaced this one; the end of the stage reports that.
            chief=self.chief and not has_lost_lock(self.folder),
        )
        self.saved, self.saved_at = state.step, time.monotonic()
        self.save_seconds = self.saved_at - started

    def _stop(self, stop):
        if self.saved != self.state.step:
            self._save()
        self.progress.close()
        gone = f"{self.folder} was removed or replaced; nothing is saved"
        saved = gone if has_lost_lock(self.folder) else f"step {self.state.step} is saved"
        self.progress.warn(f"stopped: {saved}")
        stop.check()


def _last_rate(optimizer):
    """The learning rate of the last update."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    schedule = optimizer._learning_rate
    if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        last = max(0, int(keras.ops.convert_to_numpy(optimizer.iterations)) - 1)
        return float(schedule(last))
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def _numbers(values):
    return {name: float(value) for name, value in values.items()}
