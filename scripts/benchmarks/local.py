r"""Memory and time of a step with local losses: end to end, LoCo and Greedy InfoMax.

    python scripts/benchmarks/local.py --encoder=resnet50 --image_size_px=64 --batch_size=16 \
        --output_dir=runs/benchmark_local

Every arm is a process of its own, one after the other, with the same decoders. Prints a table and
writes results.json. Linux only (it reads /proc); the memory is that of a CPU.
"""

import dataclasses
import json
import statistics
import sys
from pathlib import Path

from _contestants import Contestant, hardware, open_output

from supcon_tf.cli import flags
from supcon_tf.config import PretrainConfig
from supcon_tf.config.settings import Config, setting
from supcon_tf.core.errors import UserError

_WORKER = Path(__file__).with_name("_training_worker.py")
_NOTE = (
    "Extra memory is the peak of resident memory (VmHWM) over all steps, tracing and compilation "
    "included,\nless what was resident just before the first. Total is that peak itself."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Config):
    """Settings of the benchmark."""

    output_dir: str = setting("runs/benchmark_local", "Where the results are written.")
    data_dir: str = setting("", "Where TensorFlow Datasets keeps data ('': its own default).")
    encoder: str = setting("resnet18", "A residual network.")
    width_multiplier: float = setting(1.0, "Factor on its channels.", above=0)
    image_size_px: int = setting(32, "Side of the square image.", at_least=8)
    batch_size: int = setting(32, "Images per step, of two views each.", at_least=2)
    decoder_blocks: int = setting(1, "Convolutions of each decoder.", at_least=0)
    local_loss: str = setting("simclr", "simclr or supcon.")
    compile: str = setting("off,on", "Compile the step with XLA: off, on or both.")
    repeats: int = setting(3, "Timed steps of each arm.", at_least=1)


def _settings(config, compiled, overlap):
    """The settings of a pretraining run, checked as far as possible without reading the data."""
    from supcon_tf.stages.checks import settings_checks

    settings = {
        "method": "loco",
        "dataset": "digits",
        "augmentation": "symbols",
        "data_dir": config.data_dir,
        "encoder": config.encoder,
        "width_multiplier": config.width_multiplier,
        "image_size_px": config.image_size_px,
        "batch_size": config.batch_size,
        "num_views": 2,
        "compile": compiled,
        "strategy": "one_device",
        "method_args": {
            "overlap": overlap,
            "decoder_blocks": config.decoder_blocks,
            "local_loss": config.local_loss,
        },
    }
    for check in settings_checks(PretrainConfig(**settings)):
        check()
    return settings


def _arms(config):
    """The settings of each arm by its name; end to end is the first of each way to compile."""
    from supcon_tf.networks.stages import num_stages

    last = num_stages(config.encoder) - 1
    overlaps = {"end to end": max(0, last), "LoCo": 1, "Greedy InfoMax": 0}
    arms = {}
    for compiled in config.compile.split(","):
        if compiled not in ("off", "on"):
            raise UserError(f"compile must be off, on or off,on. Received: {config.compile!r}.")
        for name, overlap in overlaps.items():
            shown = f"{name}, XLA" if compiled == "on" else name
            arms[shown] = _settings(config, compiled, overlap)
    return arms


def _measure(name, settings, repeats):
    task = {"kind": "ours", "settings": settings, "keras_batch_norm": False}
    arm = Contestant(name, [sys.executable, str(_WORKER), json.dumps(task)])
    try:
        answers = [arm.ask("step") for _ in range(repeats)]
    finally:
        arm.close()
    last = answers[-1]
    found = {
        "overlap": settings["method_args"]["overlap"],
        "median_seconds": statistics.median(answer["seconds"] for answer in answers),
        "extra_bytes": last["extra_bytes"],
        "peak_bytes": last["peak_bytes"],
    }
    print(name, json.dumps(found), file=sys.stderr, flush=True)
    return found


def _table(arms):
    from supcon_tf.stages.tables import format_table

    rows = []
    for name, one in arms.items():
        whole = arms["end to end, XLA" if name.endswith("XLA") else "end to end"]
        rows.append(
            [
                name,
                f"{one['extra_bytes'] / 2**20:,.0f} MiB",
                f"{one['extra_bytes'] / whole['extra_bytes']:.2f}",
                f"{one['peak_bytes'] / 2**20:,.0f} MiB",
                f"{one['median_seconds']:.2f} s",
                f"{one['median_seconds'] / whole['median_seconds']:.2f}",
            ]
        )
    header = ["arm", "extra memory", "of end to end", "total", "step", "of end to end"]
    return f"{format_table(header, rows)}\n{_NOTE}"


def main(config):
    """Measures every arm, and reports."""
    from supcon_tf.core.files import write_json

    settings, arms = _arms(config), {}
    output = open_output(config.output_dir)
    for name, one in settings.items():
        arms[name] = _measure(name, one, config.repeats)
        results = {"hardware": hardware(), "settings": config.to_dict(), "arms": arms}
        write_json(output / "results.json", results)
    print(_table(arms))
    print(f"results: {output}/results.json")


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig, __doc__)
