"""Loads the server of an exported model, and times the runtimes without a server.

    python scripts/benchmark_serving.py --model_dir=saved_models/digits

For each number of clients the servers take turns: the SavedModel in batches and one image at a
time, and TFLite in float32 and int8. Every client sends one image after the other, encoded, over
the V1 protocol. Server and clients share the machine. Then each runtime by itself: the encoder on
images in memory, beside PyTorch and ONNX Runtime where --peer_python has them (residual networks of
basic blocks with the CIFAR stem). Prints tables and writes results.json. Linux only (it reads
/proc). Nothing else should run meanwhile. Ends with status 1 if a request failed.
"""

import base64
import contextlib
import dataclasses
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import _flags
from _contestants import Contestant, hardware

from supcon_tf.config import RUNTIMES
from supcon_tf.errors import UserError
from supcon_tf.settings import Config, setting

_HERE = Path(__file__).parent
_SERVERS = {
    "SavedModel, batches": [],
    "SavedModel, one by one": ["--max_batch_size=1"],
    "TFLite float32, batches": ["--runtime=float32"],
    "TFLite int8, batches": ["--runtime=int8"],
}
_PERCENTILES = (50, 90, 99)
_START_SECONDS = 120


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Config):
    """What to time."""

    model_dir: str = setting("", "Exported model: saved_models/NAME.")
    output_dir: str = setting("runs/benchmark_serving", "Where the results are written.")
    concurrency: str = setting("1,8,32,128", "Numbers of clients.")
    seconds: float = setting(60.0, "Length of each load.", above=0)
    warm_up_seconds: float = setting(3.0, "Time before it that is not counted.", at_least=0)
    images: int = setting(
        64, "Different images that are sent, from the held-out split.", at_least=1
    )
    batch_sizes: str = setting("1,8,32", "Batches of the runtimes by themselves.")
    repeats: int = setting(5, "Rounds of the runtimes by themselves.", at_least=1)
    peer_python: str = setting("", "Python with torch and onnxruntime ('': leave them out).")


def numbers(text, name):
    """The positive whole numbers of a setting, such as "1,8"."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"{name} must be whole numbers with commas between. Received: {text!r}.")
    return [int(part) for part in parts]


class Server:
    """A server of the model, on free ports.

    Args:
        model_dir: the exported model.
        flags: of serve.py.
    """

    def __init__(self, model_dir, flags):
        command = [sys.executable, str(_HERE / "serve.py"), f"--model_dir={model_dir}"]
        command += ["--http_port=0", "--max_queue=4096", *flags]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
        )
        self.lines, self._ready = [], threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        if not self._ready.wait(_START_SECONDS) or self.url is None:
            self.close()
            raise UserError(f"the server did not start: {' '.join(self.lines[-1:]) or 'no output'}")

    def _read(self):
        self.url = None
        for line in self.process.stderr:
            self.lines.append(line.strip())
            found = re.search(r"http://[^\s/]+", line)
            if found and self.url is None:
                self.url = found.group()
                self._ready.set()
        self._ready.set()

    def memory(self):
        """Resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmRSS:\s+(\d+)", status).group(1))

    def close(self):
        """Ends it as an operator would."""
        self.process.terminate()
        return self.process.wait(timeout=60)


def held_out_images(bundle, count):
    """Encoded held-out images of the data set that the model was trained on."""
    from supcon_tf.config import PretrainConfig
    from supcon_tf.data.datasets import from_config

    settings = bundle.metadata["settings"]["pretrain"]
    bad = bundle.metadata["training"]["pretrain"]["dataset"].get("bad_images", [])
    dataset = from_config(PretrainConfig.from_dict(settings), bad_images=bad)
    return [encoded.numpy() for encoded, _ in dataset.test.sample(count)]


def write_requests(path, images):
    """One V1 request an image, a line each."""
    with open(path, "w") as file:
        for image in images:
            instance = {"b64": base64.b64encode(image).decode()}
            file.write(json.dumps({"instances": [instance]}) + "\n")


def run_load(server, name, requests, concurrency, config):
    """One load; the result without the single latencies."""
    task = {
        "url": f"{server.url}/v1/models/{name}:predict",
        "requests": str(requests),
        "concurrency": concurrency,
        "seconds": config.seconds,
        "warm_up_seconds": config.warm_up_seconds,
    }
    before = server.memory()
    command = [sys.executable, str(_HERE / "_serving_load.py"), json.dumps(task)]
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        raise UserError(f"the load could not be run: {finished.stderr.strip().splitlines()[-1]}")
    found = json.loads(finished.stdout)
    latencies = sorted(found.pop("latencies_ms"))
    found["per_second"] = len(latencies) / found["seconds"]
    for percentile in _PERCENTILES:
        at = min(len(latencies) - 1, len(latencies) * percentile // 100)
        found[f"p{percentile}_ms"] = latencies[at] if latencies else None
    found["memory_before"], found["memory_after"] = before, server.memory()
    return found


def load_servers(config, name, requests):
    """Every server under every number of clients, taking turns."""
    results = []
    with contextlib.ExitStack() as stack:
        servers = {}
        for title, flags in _SERVERS.items():
            print(f"starting: {title}", file=sys.stderr)
            servers[title] = Server(config.model_dir, flags)
            stack.callback(servers[title].close)
        for concurrency in numbers(config.concurrency, "concurrency"):
            for title, server in servers.items():
                found = run_load(server, name, requests, concurrency, config)
                print(
                    f"{title}, {concurrency} clients: {found['per_second']:.0f} a second, errors "
                    f"{found['errors'] or 'none'}",
                    file=sys.stderr,
                )
                results.append({"server": title, "clients": concurrency, **found})
    return results


def time_runtimes(config, bundle, images, folder):
    """Milliseconds of one call by runtime and batch size, medians over rounds that take turns."""
    import numpy as np

    arrays = Path(folder) / "arrays.npz"
    ready = np.stack([bundle.decode(image) for image in images])
    weights = {
        "weight/" + variable.name.removesuffix(":0"): variable.numpy()
        for variable in bundle.model.encoder_variables
    }
    np.savez(arrays, images=ready, embeddings=bundle.classify(ready)["embeddings"], **weights)
    contestants, sizes = {}, numbers(config.batch_sizes, "batch_sizes")
    try:
        for kind in runtimes(config, bundle):
            python = config.peer_python if kind in ("torch", "onnxruntime") else sys.executable
            task = {"kind": kind, "bundle": str(bundle.path), "arrays": str(arrays)}
            command = [python, str(_HERE / "_serving_worker.py"), json.dumps(task)]
            contestants[kind] = Contestant(kind, command)
        found = {kind: {size: [] for size in sizes} for kind in contestants}
        for _ in range(config.repeats):
            for size in sizes:
                for kind, contestant in contestants.items():
                    found[kind][size].append(contestant.ask(size))
    finally:
        for contestant in contestants.values():
            contestant.close()
    return {
        kind: {str(size): statistics.median(times) for size, times in by_size.items()}
        for kind, by_size in found.items()
    }


def runtimes(config, bundle):
    """What can be timed: the bundle's models and, with --peer_python, its peers."""
    there = [
        name
        for name in RUNTIMES
        if name == "saved_model" or (bundle.path / "tflite" / f"{name}.tflite").exists()
    ]
    return there + (["torch", "onnxruntime"] if config.peer_python else [])


def tables(results):
    """The results as Markdown."""
    from supcon_tf.reporting import format_table

    header = ["server", "clients", "requests/s"]
    header += [f"p{percentile}" for percentile in _PERCENTILES]
    header += ["errors", "memory before", "after"]
    rows = [
        [
            row["server"],
            str(row["clients"]),
            f"{row['per_second']:.0f}",
            *(f"{row[f'p{percentile}_ms']:.1f} ms" for percentile in _PERCENTILES),
            str(sum(row["errors"].values())),
            *(f"{row[key] / 2**20:.0f} MiB" for key in ("memory_before", "memory_after")),
        ]
        for row in results["loads"]
        if row["answers"]
    ]
    sizes = list(next(iter(results["runtimes"].values())))
    alone = [
        [kind, *(f"{times[size]:.3f} ms" for size in sizes)]
        for kind, times in results["runtimes"].items()
    ]
    names = ["runtime by itself", *(f"batch of {size}" for size in sizes)]
    return format_table(header, rows) + "\n\n" + format_table(names, alone)


def main(config):
    """Runs everything, prints the tables, and writes results.json."""
    from supcon_tf.bundles import load_bundle, newest_bundle
    from supcon_tf.files import write_json

    for name in ("concurrency", "batch_sizes"):
        numbers(getattr(config, name), name)
    bundle = load_bundle(newest_bundle(config.model_dir))
    images = held_out_images(bundle, config.images)
    with tempfile.TemporaryDirectory() as folder:
        requests = Path(folder) / "requests.jsonl"
        write_requests(requests, images)
        started = time.time()
        alone = time_runtimes(config, bundle, images, folder)
        loads = load_servers(config, bundle.name, requests)
    results = {
        "hardware": hardware(),
        "settings": config.to_dict(),
        "seconds": time.time() - started,
        "model": {"name": bundle.name, "version": bundle.version},
        "loads": loads,
        "runtimes": alone,
    }
    write_json(Path(config.output_dir) / "results.json", results)
    print(tables(results))
    if any(row["errors"] for row in loads):
        print("some requests failed", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    _flags.run(main, BenchmarkConfig, __doc__)
