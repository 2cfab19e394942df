r"""Seconds from a command to its first action, compared with the imports that it needs.

    make demo
    python scripts/benchmarks/start.py --model=saved_models/digits --output_dir=runs/start

Commands and imports take turns, each as a process of its own. Prints a table and writes
results.json.
"""

import base64
import contextlib
import dataclasses
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from _contestants import hardware, open_output

from supcon_tf.cli import flags
from supcon_tf.config.settings import Config, setting
from supcon_tf.core.errors import UserError

_COMMAND = [sys.executable, "-m", "supcon_tf.cli"]
_IMPORTS = {
    "import tensorflow": "import tensorflow",
    "import tensorflow, keras": "import tensorflow, keras",
}
# Trains until the first step is done.
_FIRST_STEP = """
import os, sys
from supcon_tf.cli.main import main
from supcon_tf.engine.progress import Progress

Progress.after_step = lambda self, values: (values(), os._exit(0))
sys.argv[0] = "supcon-tf"
main()
"""
_PATIENCE_SECONDS = 120


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Config):
    """Settings of the benchmark."""

    output_dir: str = setting("runs/start", "Where the results are written.")
    model: str = setting("saved_models/digits", "A model that supcon-tf export wrote.")
    repeats: int = setting(5, "Times that each is started.", at_least=1)


def _ended(command):
    """Seconds until a process ends."""
    started = time.perf_counter()
    finished = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if finished.returncode:
        lines = finished.stderr.strip().splitlines()
        raise UserError(f"{' '.join(command[:5])} failed: {lines[-1] if lines else 'no output'}.")
    return seconds


def _answered(command, model, image):
    """Seconds until a server has answered a request for one image."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/v1/models/{model.resolve().name}:predict"
    body = {"instances": [{"b64": base64.b64encode(image.read_bytes()).decode()}]}
    request = urllib.request.Request(address, json.dumps(body).encode())
    started = time.perf_counter()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*command, f"--http_port={port}"], **quiet) as server:
        try:
            while time.perf_counter() - started < _PATIENCE_SECONDS:
                with contextlib.suppress(urllib.error.URLError, ConnectionError):
                    urllib.request.urlopen(request, timeout=_PATIENCE_SECONDS).read()
                    return time.perf_counter() - started
                time.sleep(0.01)
        finally:
            server.terminate()
    raise UserError(f"the server did not answer within {_PATIENCE_SECONDS} s.")


def _starts(model, bundle, image, scratch):
    """The starts to time: by name, a function that returns seconds."""
    predict = [*_COMMAND, "predict", f"--model={model}", str(image)]
    lite = [*_COMMAND, "predict", f"--model={bundle}/tflite/float32.tflite", str(image)]
    train = [sys.executable, "-c", _FIRST_STEP, "pretrain", "--recipe=digits", "--overwrite"]
    serve = [*_COMMAND, "serve", f"--model_dir={model}"]
    imports = {
        name: lambda code=code: _ended([sys.executable, "-c", code])
        for name, code in _IMPORTS.items()
    }
    return {
        **imports,
        "`supcon-tf --help`": lambda: _ended([*_COMMAND, "--help"]),
        "`predict`, one image": lambda: _ended(predict),
        "`predict` of a TFLite file, one image": lambda: _ended(lite),
        "`pretrain --recipe=digits`, first step": lambda: _ended(
            [*train, f"--run_dir={scratch / 'run'}"]
        ),
        "`serve`, first answer": lambda: _answered(serve, model, image),
    }


def _table(found):
    from supcon_tf.stages.tables import format_table

    base = found["import tensorflow, keras"]["median_seconds"]
    rows = [
        [
            name,
            f"{one['median_seconds']:.2f} s",
            f"{one['lowest']:.2f} to {one['highest']:.2f}",
            f"{one['median_seconds'] - base:+.2f} s",
        ]
        for name, one in found.items()
    ]
    return format_table(["started", "median", "range", "beyond the imports"], rows)


def main(config):
    """Starts everything in turn, and reports."""
    from supcon_tf.core.files import write_json
    from supcon_tf.data.digits import write_digits
    from supcon_tf.exporting.layout import newest_bundle

    model, bundle = Path(config.model), newest_bundle(config.model)
    output = open_output(config.output_dir)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        write_digits(str(scratch / "digits"))
        starts = _starts(model, bundle, next((scratch / "digits/7").iterdir()), scratch)
        seconds = {name: [] for name in starts}
        for number in range(config.repeats):
            for name, measure in starts.items():
                seconds[name].append(measure())
                print(f"round {number + 1}: {name} {seconds[name][-1]:.2f} s", file=sys.stderr)
    found = {
        name: {
            "median_seconds": statistics.median(own),
            "lowest": min(own),
            "highest": max(own),
        }
        for name, own in seconds.items()
    }
    results = {"hardware": hardware(), "settings": config.to_dict(), "starts": found}
    write_json(output / "results.json", results)
    print(_table(found))
    print(f"results: {output}/results.json")


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig, __doc__)
