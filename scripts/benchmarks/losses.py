"""Times the losses, forward and backward: whole matrix against blocks, and against a peer.

    python scripts/benchmarks/losses.py --output_dir=runs/benchmark_losses

Every contestant is a process of its own; they take turns step by step. Prints a table of medians
and writes results.json and growth.png. Linux only (it reads /proc).
"""

import dataclasses
import statistics
import sys
from pathlib import Path

from _contestants import Contestant, hardware, numbers, open_output

from supcon_tf.cli import flags
from supcon_tf.config.settings import Config, setting
from supcon_tf.core.errors import UserError

_WORKER = Path(__file__).with_name("_loss_worker.py")
# The whole matrix of more rows than this would not fit into an ordinary machine several times over.
_FULL_ROWS = 8192
_MOST_REPEATS = 30
_MININGS = ("all", "hard", "semi_hard")
# Losses of pytorch-metric-learning that equal ours, or are nearest: see `_loss_worker.py`.
_OF_PML = ("supcon_out", "max_margin", "npairs", *(f"triplet_{mining}" for mining in _MININGS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Config):
    """Settings of the benchmark."""

    output_dir: str = setting("runs/benchmark_losses", "Where the results are written.")
    sizes: str = setting("512,1024,2048,4096,8192,16384,32768,65536", "Rows, two views per image.")
    losses: str = setting(
        "supcon_out,supcon_in,simclr,triplet_all,triplet_hard,triplet_semi_hard,npairs,max_margin",
        "Losses, by method name; triplet also with its mining.",
    )
    repeats: int = setting(5, "Timed steps of each contestant, at least.", at_least=1)
    max_seconds: float = setting(60.0, "Leave out what a step is expected to exceed.", above=0)
    peer: str = setting(
        "", "supcontrast:PATH (a checkout), timed beside supcon_out; or pml, beside its losses."
    )
    peer_python: str = setting("", "Python that can import the peer ('': this one).")


def _contestants(config, loss, rows, expected):
    """Kinds to run at this size, without those expected to take too long."""
    kinds = [f"ours:{loss}:blocks"] + [f"ours:{loss}:full"] * (rows <= _FULL_ROWS)
    if rows <= _FULL_ROWS:
        kinds += ["ours:plain:full"] * (loss == "supcon_out")
        kinds += [f"pml:{loss}"] * (config.peer == "pml" and loss in _OF_PML)
        kinds += ["supcontrast"] * (config.peer.startswith("supcontrast") and loss == "supcon_out")
    return [kind for kind in kinds if expected.get(kind, 0) <= config.max_seconds]


def _measure(config, kinds, rows):
    python, path = config.peer_python or sys.executable, config.peer.partition(":")[2]
    running = []
    try:
        for kind in kinds:
            of_ours = kind.startswith("ours")
            interpreter = sys.executable if of_ours else python
            command = [interpreter, str(_WORKER), kind, path, str(rows)]
            running.append(Contestant(kind, command))
        for contestant in running:
            contestant.step()
        # Quick steps are repeated for about a second each, so that noise averages out.
        slowest = max(contestant.seconds[0] for contestant in running)
        for _ in range(max(config.repeats, min(_MOST_REPEATS, int(1 / slowest))) - 1):
            for contestant in running:
                contestant.step()
    finally:
        for contestant in running:
            contestant.close()
    return {
        kind: {
            "rows": rows,
            "median_seconds": statistics.median(contestant.seconds),
            "seconds": contestant.seconds,
            "extra_bytes": contestant.extra_bytes,
            "value": contestant.ready["value"],
        }
        for kind, contestant in zip(kinds, running, strict=True)
    }


def _draw(results, path):
    from matplotlib.figure import Figure

    from supcon_tf.core.files import writing

    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    by_kind = {}
    for found in results:
        for kind, value in found.items():
            by_kind.setdefault(kind, []).append(value)
    for kind, values in by_kind.items():
        rows = [value["rows"] for value in values]
        style = "--" if kind.endswith("full") else "-" if kind.startswith("ours") else ":"
        label = kind.removeprefix("ours:").replace(":", ", ")
        left.loglog(rows, [value["median_seconds"] for value in values], style, label=label)
        memory = [max(1, value["extra_bytes"] / 2**20) for value in values]
        right.loglog(rows, memory, style, label=label)
    # Slopes to compare with.
    left.loglog([1024, 65536], [3e-3, 3e-3 * 64**2], color="grey", lw=0.8, label="square")
    right.loglog([1024, 65536], [30, 30 * 64], color="grey", lw=0.8, label="linear")
    left.set(title="forward and backward", xlabel="rows", ylabel="seconds, median")
    right.set(title="extra memory", xlabel="rows", ylabel="MiB, peak")
    right.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    with writing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _rows_of_table(results):
    rows = []
    for found in results:
        blocks = next(value for kind, value in found.items() if kind.endswith("blocks"))
        for kind, value in found.items():
            rows.append(
                [
                    kind.removeprefix("ours:").replace(":", ", "),
                    str(value["rows"]),
                    f"{1e3 * value['median_seconds']:.1f} ms",
                    f"{value['median_seconds'] / blocks['median_seconds']:.2f}",
                    f"{value['extra_bytes'] / 2**20:.0f} MiB",
                    f"{value['extra_bytes'] / max(1, blocks['extra_bytes']):.2f}",
                ]
            )
    return rows


def main(config):
    """Runs every size of every loss, and reports."""
    from supcon_tf.core.files import write_json
    from supcon_tf.methods import METHODS
    from supcon_tf.stages.tables import format_table

    known = [name for name, spec in METHODS.items() if spec.settings]
    known += [f"triplet_{mining}" for mining in _MININGS]

    sizes = numbers(config.sizes, "sizes")
    losses = config.losses.split(",")
    for loss in losses:
        if loss not in known:
            raise UserError(f"losses must be among {', '.join(known)}. Received: {loss!r}.")
    if config.peer and config.peer.partition(":")[0] not in ("supcontrast", "pml"):
        raise UserError(f"peer must be supcontrast:PATH or pml. Received: {config.peer!r}.")
    results, output = [], open_output(config.output_dir)
    for loss in losses:
        expected = {}
        for rows in sizes:
            kinds = _contestants(config, loss, rows, expected)
            if not kinds or not kinds[0].endswith("blocks"):
                print(f"{loss} from {rows} rows on left out: too slow", file=sys.stderr)
                break
            found = _measure(config, kinds, rows)
            # Twice the rows take about four times as long.
            expected = {kind: 4 * value["median_seconds"] for kind, value in found.items()}
            results.append(found)
            for line in _rows_of_table([found]):
                print("  ".join(line), file=sys.stderr, flush=True)
            write_json(output / "results.json", {"hardware": hardware(), "results": results})
    header = ["loss", "rows", "time", "of blocks", "extra memory", "of blocks"]
    print(format_table(header, _rows_of_table(results)))
    _draw(results, output / "growth.png")
    print(f"results: {output}/results.json    plot: {output}/growth.png")


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig, __doc__)
