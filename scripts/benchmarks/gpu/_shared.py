"""Settings and results that the checks of this folder share."""

import dataclasses
import sys
from pathlib import Path

__all__ = ["BENCHMARKS", "GpuConfig", "Results", "median_seconds", "mib", "open_output"]

BENCHMARKS = Path(__file__).parents[1]
sys.path.insert(0, str(BENCHMARKS))

from _contestants import numbers, open_output  # noqa: E402

from supcon_tf.config.settings import Config, setting  # noqa: E402
from supcon_tf.core.errors import UserError  # noqa: E402


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuConfig(Config):
    """Settings of the checks."""

    output_dir: str = setting("runs/benchmark_gpu", "Where results are written.")
    data_dir: str = setting("", "Where TensorFlow Datasets keeps CIFAR-10 ('': its own default).")
    checks: str = setting("", "Which checks, by name, in this order ('': all).")
    peer: str = setting("", "supcontrast:PATH, a checkout of it, timed beside ours ('': none).")
    peer_python: str = setting("", "Python with PyTorch, CUDA and torchvision ('': this one).")
    training_epochs: str = setting("60,60", "Epochs on CIFAR-10: SupCon, cross entropy.")
    limit_minutes: float = setting(10.0, "A check that takes longer is broken off.", above=0)

    def __post_init__(self):
        super().__post_init__()
        if len(self.epochs()) != 2:
            raise UserError(
                "training_epochs must be two numbers, such as 60,60. Received: "
                f"{self.training_epochs!r}."
            )

    def epochs(self):
        """The epochs on CIFAR-10 of SupCon and of cross entropy."""
        return numbers(self.training_epochs, "training_epochs")

    def peer_path(self):
        """The peer's checkout."""
        return self.peer.partition(":")[2]

    def python_of_peer(self):
        """The program that runs the peer."""
        return self.peer_python or sys.executable


class Results:
    """Tables of one check, kept as soon as they grow, so that what was found survives a failure.

    Args:
        config: the settings.
        check: its name.
    """

    def __init__(self, config, check):
        self.path = Path(config.output_dir) / f"{check}.json"
        self.tables = []
        self._save()

    def table(self, title, header):
        """Begins a table; `row` adds to it."""
        self.tables.append({"title": title, "header": header, "rows": []})
        self._say(title)
        self._say("  ".join(header))

    def row(self, *cells):
        """Adds a row to the last table."""
        self.tables[-1]["rows"].append([str(cell) for cell in cells])
        self._say("  ".join(str(cell) for cell in cells))
        self._save()

    def failed(self, *cells, error):
        """Adds a row that says why there is no number."""
        lines = str(error).strip().splitlines() or [type(error).__name__]
        self.row(*cells, f"failed: {lines[0][:200]}")

    def _save(self):
        from supcon_tf.core.files import write_json

        write_json(self.path, {"tables": self.tables})

    @staticmethod
    def _say(text):
        print(text, file=sys.stderr, flush=True)


def median_seconds(run, repeats=7, least_seconds=0.5):
    """Median time of a function that waits for its result; it must have been called before."""
    import statistics
    import time

    seconds = []
    while len(seconds) < repeats or (sum(seconds) < least_seconds and len(seconds) < 100):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
        if sum(seconds) > 5:
            break
    return statistics.median(seconds)


def mib(number):
    """Bytes as text."""
    return f"{number / 2**20:,.0f} MiB"
