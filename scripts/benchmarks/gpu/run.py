"""Checks and times everything on this machine's GPU, one check after another.

    python scripts/benchmarks/gpu/run.py --data_dir=PATH --output_dir=runs/benchmark_gpu

Needs TensorFlow with CUDA (pip install supcon_tf[gpu]), and CIFAR-10 where TensorFlow Datasets
finds it. Each check is a program of this folder in a process of its own; what one has found is kept
when another fails. --checks=steps,losses runs some of them again. Writes report.md, and a log and a
file of tables for each check. Most of the time is compilation: on an H200 the losses took three
minutes, and the first compiled step of ResNet-18 47 s.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from _shared import GpuConfig, open_output

from supcon_tf.cli import flags
from supcon_tf.core.errors import UserError
from supcon_tf.core.files import read_json

_HERE = Path(__file__).parent
_CHECKS = "devices", "losses", "steps", "strategies", "production", "cifar10"
_PEER_CHECKS = "peer_losses", "peer_steps"


def _command(check, config):
    if check == "peer_losses":
        target = str(Path(config.output_dir, "peer_losses.json"))
        program = str(_HERE / "peer_losses.py")
        return [config.python_of_peer(), program, config.peer_path(), target]
    given = [f"--{name}={value}" for name, value in config.to_dict().items() if value]
    return [sys.executable, str(_HERE / f"{check}.py"), *given]


def _run(check, config):
    """Runs a check; returns what went wrong, or ''."""
    started = time.monotonic()
    log = Path(config.output_dir, f"{check}.log")
    Path(config.output_dir, f"{check}.json").unlink(missing_ok=True)  # Of an earlier run.
    variables = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "TF_CPP_MIN_LOG_LEVEL": "1", **os.environ}
    with open(log, "w") as file:
        try:
            limit = 60 * config.limit_minutes
            command = _command(check, config)
            done = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, timeout=limit, env=variables
            )
            failed = f"status {done.returncode}, see {log}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            failed = f"stopped after {config.limit_minutes:g} minutes"
    print(f"{check}: {failed or 'done'}, {time.monotonic() - started:.0f} s", file=sys.stderr)
    return failed


def _report(output, failures):
    lines = ["# Measured on a GPU", ""]
    for check in (*_CHECKS, *_PEER_CHECKS):
        path = output / f"{check}.json"
        if failures.get(check):
            lines += [f"**{check}: {failures[check]}**", ""]
        try:
            tables = read_json(path)["tables"] if path.exists() else ()
        except (UserError, KeyError, TypeError) as error:  # The others' results are kept.
            lines += [f"**{check}: its tables cannot be read ({error})**", ""]
            continue
        for table in tables:
            lines += [f"## {table['title']}", "", "| " + " | ".join(table["header"]) + " |"]
            lines += ["|" + "---|" * len(table["header"])]
            lines += ["| " + " | ".join(row) + " |" for row in table["rows"]] + [""]
    return "\n".join(lines)


def _check_peer(config):
    if not config.peer_path() or not Path(config.peer_path()).is_dir():
        raise UserError(f"peer must be supcontrast:PATH, a checkout. Received: {config.peer!r}.")
    if shutil.which(config.python_of_peer()) is None:
        raise UserError(f"peer_python must be a program. Received: {config.peer_python!r}.")


def _check_gpu():
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        raise UserError(
            "TensorFlow sees no GPU. Check whether nvidia-smi shows one, and whether its CUDA "
            "libraries are installed: pip install supcon_tf[gpu]."
        )


def main(config):
    """Runs the checks, and reports."""
    known = (*_CHECKS, *(_PEER_CHECKS if config.peer else ()))
    checks = config.checks.split(",") if config.checks else known
    for check in checks:
        if check not in known:
            raise UserError(f"checks must be among {', '.join(known)}. Received: {check!r}.")
    if config.peer:
        _check_peer(config)
    _check_gpu()
    output = open_output(config.output_dir)
    failures = {check: _run(check, config) for check in checks}
    report = _report(output, failures)
    (output / "report.md").write_text(report)
    print(report)
    raise SystemExit(1 if any(failures.values()) else 0)


if __name__ == "__main__":
    flags.run(main, GpuConfig, __doc__)
