"""CIFAR-10 from pretraining to the test split's top-1: SupCon and cross entropy.

python scripts/benchmarks/gpu/cifar10.py --data_dir=PATH --output_dir=runs/benchmark_gpu
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from _shared import GpuConfig, Results

from supcon_tf.cli import flags

_RECIPES = {"SupCon": "cifar10_resnet18", "cross entropy": "cifar10_resnet18_cross_entropy"}


def _run(command, *arguments):
    program = [sys.executable, "-m", "supcon_tf.cli", command]
    subprocess.run([*program, *arguments], check=True, stdout=sys.stderr)


def main(config):
    """Runs the check."""
    results = Results(config, "cifar10")
    header = ["method", "epochs", "training", "a later epoch", "all stages", "test top-1"]
    results.table("CIFAR-10, ResNet-18, bfloat16, full test split", header)
    for (title, recipe), count in zip(_RECIPES.items(), config.epochs(), strict=True):
        run_dir = Path(config.output_dir, "cifar10", recipe).resolve()
        started = time.monotonic()
        try:
            given = [f"--recipe={recipe}", f"--epochs={count}", f"--data_dir={config.data_dir}"]
            _run("pretrain", *given, f"--run_dir={run_dir}")
            if title == "SupCon":
                _run("classify", f"--run_dir={run_dir}")
            _run("evaluate", f"--run_dir={run_dir}")
            metrics = json.loads((run_dir / "metrics.json").read_text())
            history = json.loads((run_dir / "history.json").read_text())["pretrain"]
            settings = json.loads((run_dir / "config.json").read_text())
            Path(config.output_dir, f"{recipe}.json").write_text(
                json.dumps({"metrics": metrics, "history": history, "config": settings})
            )
            results.row(title, count, *_cells(metrics, history, started))
        except (subprocess.CalledProcessError, OSError, ValueError) as error:
            results.failed(title, count, error=error)


def _cells(metrics, history, started):
    epoch = statistics.median(history["seconds"][1:] or history["seconds"])
    training, all_stages = metrics["pretrain"]["seconds"], time.monotonic() - started
    top1 = f"{100 * metrics['test']['top1']:.2f} %"
    return f"{training:.0f} s", f"{epoch:.2f} s", f"{all_stages:.0f} s", top1


if __name__ == "__main__":
    flags.run(main, GpuConfig, __doc__)
