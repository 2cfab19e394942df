"""The progress of training, for the person who watches it."""

import sys
import time

from tqdm import tqdm

# Seconds between two updates within an epoch, of the bar and of the lines.
_BAR_SECONDS, _LINE_SECONDS = 0.5, 30.0


# Epochs that end sooner after the last line have none, except for the last epoch.
_LEAST_SECONDS = 1.0
# The values that people watch; TensorBoard has all of them.
_WATCHED = (
    "loss",
    "accuracy",
    "label_accuracy",
    "knn_top1",
    "knn_map",
    "validation_top1",
    "validation_map",
    "pseudo_label_top1",
)


class Progress:
    """A line per epoch, at most one per second, and one every half minute or, on a terminal, a bar.

    Args:
        title: shown in front.
        epochs: epochs in all.
        steps_per_epoch: batches per epoch.
        done: steps already done.
        stream: where it is written; standard error by default.
        images_per_step: images per step, for their rate; 0 shows none.
        verbose: whether the lines show every metric.
    """

    def __init__(
        self,
        title,
        epochs,
        steps_per_epoch,
        done=0,
        stream=None,
        images_per_step=0,
        verbose=False,
    ):
        self.title, self.epochs, self.steps, self.step = title, epochs, steps_per_epoch, done
        self.images_per_step, self.verbose = images_per_step, verbose
        self.stream = stream or sys.stderr
        self.started = self.shown = time.monotonic()
        self.timed_from = self.told = None
        self.bar = None
        if self.stream.isatty():
            total = epochs * steps_per_epoch
            self.bar = tqdm(total=total, initial=done, desc=title, unit="step", file=self.stream)

    def after_step(self, values):
        """Advances, and shows the metrics now and then.

        Args:
            values: called, if metrics are shown, for a dict of the epoch's metrics so far: reading
                them waits for the device.
        """
        self.step += 1
        if self.timed_from is None:
            # The first step compiles; the time left is estimated from the other steps.
            self.timed_from, self.started = self.step, time.monotonic()
        if self.bar is not None:
            self.bar.update()
        if self.step % self.steps == 0:
            return  # The end of the epoch shows it.
        if self.bar is not None and time.monotonic() - self.shown > _BAR_SECONDS:
            self._beside_bar(values())
        if self.bar is None and time.monotonic() - self.shown > _LINE_SECONDS:
            self._line(values(), self.step // self.steps + 1)

    def after_epoch(self, values):
        """Shows the epoch's metrics."""
        if self.bar is not None:
            self._beside_bar(values)
        now, last = time.monotonic(), self.step == self.epochs * self.steps
        if last or self.told is None or now - self.told >= _LEAST_SECONDS:
            self.told = now
            self._line(values, self.step // self.steps)

    def warn(self, text):
        """Prints a line of its own."""
        tqdm.write(f"{self.title} {text}", file=self.stream)

    def _beside_bar(self, values):
        self.shown = time.monotonic()
        self.bar.set_postfix_str(_text(_watched(values)))

    def _line(self, values, epoch):
        self.shown = time.monotonic()
        step = f"step {self.step - (epoch - 1) * self.steps}/{self.steps}"
        place = f"{self.title} epoch {epoch}/{self.epochs} {step}"
        shown = _text(values if self.verbose else _watched(values))
        tqdm.write(f"{place} {shown}{self._rate()}", file=self.stream)
        self.stream.flush()

    def _rate(self):
        """Images per second and the time left; '' after the first step, which compiles."""
        timed = self.step - (self.timed_from or self.step)
        if not timed:
            return ""
        seconds = (self.shown - self.started) / timed
        left = f"{seconds * (self.epochs * self.steps - self.step):.0f} s left"
        if self.images_per_step and seconds:
            left = f"{self.images_per_step / seconds:.0f} images/s, {left}"
        return f" ({left})"

    def close(self):
        """Closes the bar; later lines appear below it."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def _watched(values):
    return {name: value for name, value in values.items() if name in _WATCHED}


def _text(values):
    return " ".join(f"{name} {value:.4g}" for name, value in values.items() if value is not None)
