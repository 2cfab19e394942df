"""One line per cell of a comparison: its score, its time, and the time left."""

import sys
import time

from supcon_tf.search.results import Result


class Progress:
    """Prints a line on standard error whenever a cell has ended.

    Args:
        cells: how many there are in all.
    """

    def __init__(self, cells: int):
        self.cells, self.ended, self.ran = cells, 0, 0
        self.started = self.last = time.monotonic()

    def trial_ended(self, name: str, result: Result) -> None:
        """Reports a tuning cell, by which a learning rate is chosen."""
        score = f"failed: {(result.reason or '').rstrip('.')}"
        if result.score is not None:
            score = f"validation top-1 {100 * result.score:.1f} %"
        rate = result.values["learning_rate"]
        self._say(f"tuning {name.rsplit('-', 2)[0]} at rate {rate:g}: {score}")

    def cell_ended(self, name: str, run: dict) -> None:
        """Reports a final cell; its held-out score is shown only in the report."""
        self._say(f"{name}: {run['seconds']:.0f} s of training")

    def _say(self, text: str) -> None:
        now = time.monotonic()
        seconds, self.last = now - self.last, now
        self.ended += 1
        self.ran += seconds > 1  # What was there already takes no time.
        left = self.cells - self.ended
        minutes = left * (now - self.started) / max(1, self.ran) / 60
        when = f", about {minutes:.0f} min left" if left and self.ran else ""
        print(
            f"cell {self.ended} of {self.cells}, {text}; {seconds:.0f} s in all{when}",
            file=sys.stderr,
            flush=True,
        )
