"""What a person watching the training sees."""

import sys
import time

from tqdm import tqdm

# Seconds between two updates within an epoch, of the bar and of the lines.
_BAR_SECONDS, _LINE_SECONDS = 0.5, 30.0


class Progress:
    """One bar for the whole stage on a terminal; elsewhere a line an epoch and every half minute.

    Args:
        title: shown in front.
        epochs: epochs in all.
        steps_per_epoch: batches an epoch.
        done: steps already done.
        stream: where it is written; standard error by default.
    """

    def __init__(self, title, epochs, steps_per_epoch, done=0, stream=None):
        self.title, self.epochs, self.steps, self.step = title, epochs, steps_per_epoch, done
        self.stream = stream or sys.stderr
        self.started = self.shown = time.monotonic()
        self.timed_from = None
        self.bar = None
        if self.stream.isatty():
            total = epochs * steps_per_epoch
            self.bar = tqdm(total=total, initial=done, desc=title, unit="step", file=self.stream)

    def after_step(self, values):
        """Advances, and shows the metrics now and then.

        Args:
            values: called, if they are shown, for a dict of the epoch's metrics so far: reading
                them waits for the device.
        """
        self.step += 1
        if self.timed_from is None:
            # The first step compiles; what is left is estimated from the others.
            self.timed_from, self.started = self.step, time.monotonic()
        if self.bar is not None:
            self.bar.update()
        if self.step % self.steps == 0:
            return  # The end of the epoch shows it.
        if time.monotonic() - self.shown > (_BAR_SECONDS if self.bar else _LINE_SECONDS):
            self._show(values(), self.step // self.steps + 1)

    def after_epoch(self, values):
        """Shows the epoch's metrics."""
        self._show(values, self.step // self.steps)

    def warn(self, text):
        """Prints a line of its own."""
        tqdm.write(f"{self.title} {text}", file=self.stream)

    def _show(self, values, epoch):
        self.shown = time.monotonic()
        shown = " ".join(
            f"{name} {value:.4g}" for name, value in values.items() if value is not None
        )
        place = f"epoch {epoch}/{self.epochs}"
        if self.bar is not None:
            self.bar.set_postfix_str(f"{place} {shown}")
            return
        timed = max(1, self.step - (self.timed_from or self.step))
        left = (self.shown - self.started) / timed * (self.epochs * self.steps - self.step)
        step = f"step {self.step - (epoch - 1) * self.steps}/{self.steps}"
        line = f"{self.title} {place} {step} {shown} ({left:.0f} s left)"
        print(line, file=self.stream, flush=True)

    def close(self):
        """Closes the bar."""
        if self.bar is not None:
            self.bar.close()
