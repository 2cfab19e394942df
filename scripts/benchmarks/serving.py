"""Loads the server of an exported model, and times the runtimes without a server.

    python scripts/benchmarks/serving.py --model_dir=saved_models/digits

For each number of clients the servers take turns: the SavedModel in batches and one image at a
time, and TFLite in float32 and int8. Every client sends one image after the other, encoded, over
the V1 protocol. Server and clients share the machine. Then each runtime by itself: the encoder on
images in memory, beside PyTorch and ONNX Runtime where --peer_python has them (residual networks of
basic blocks with the CIFAR stem). Prints tables and writes results.json. Linux only (it reads
/proc). Nothing else should run meanwhile. Says whether the servers' memory stayed flat. Ends with
status 1 if a request failed.
"""

import base64
import contextlib
import dataclasses
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from _contestants import Contestant, hardware, numbers, open_output
from _serving_server import PERCENTILES, Server, memory_growth, run_load

from supcon_tf.cli import flags
from supcon_tf.config import RUNTIMES
from supcon_tf.config.settings import Config, setting
from supcon_tf.core.errors import UserError

_HERE = Path(__file__).parent
_SERVERS = {
    "SavedModel, batches": [],
    "SavedModel, one by one": ["--max_batch_size=1"],
    "TFLite float32, batches": ["--runtime=float32"],
    "TFLite int8, batches": ["--runtime=int8"],
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Config):
    """Settings of the benchmark."""

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


def held_out_images(bundle, count):
    """Encoded held-out images of the data set that the model was trained on."""
    from supcon_tf.config import PretrainConfig
    from supcon_tf.data.datasets import from_config

    settings = bundle.metadata["settings"]["pretrain"]
    bad = bundle.metadata["training"]["pretrain"]["dataset"].get("bad_images", [])
    dataset = from_config(PretrainConfig.from_dict(settings), bad_images=bad)
    return [encoded.numpy() for encoded, _ in dataset.test.sample(count)]


def write_requests(path, images):
    """Writes one V1 request per image, one per line."""
    with open(path, "w") as file:
        for image in images:
            instance = {"b64": base64.b64encode(image).decode()}
            file.write(json.dumps({"instances": [instance]}) + "\n")


def load_servers(config, bundle, requests):
    """Every server under every number of clients, taking turns."""
    results = []
    with contextlib.ExitStack() as stack:
        servers = {}
        there = runtimes(bundle)
        for title, flags in _SERVERS.items():
            if any(f"--runtime={kind}" in flags for kind in set(RUNTIMES) - set(there)):
                continue
            print(f"starting: {title}", file=sys.stderr)
            servers[title] = Server(config.model_dir, flags)
            stack.callback(servers[title].close)
        for concurrency in numbers(config.concurrency, "concurrency"):
            for title, server in servers.items():
                found = run_load(server, bundle.name, requests, concurrency, config)
                print(
                    f"{title}, {concurrency} clients: {found['per_second']:.0f} per second, errors "
                    f"{found['errors'] or 'none'}",
                    file=sys.stderr,
                )
                results.append({"server": title, "clients": concurrency, **found})
    return results


def time_runtimes(config, bundle, images, folder):
    """Milliseconds per call and busy cores, by runtime and batch size: medians over the rounds."""
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
        for kind in runtimes(bundle) + (["torch", "onnxruntime"] if config.peer_python else []):
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
        kind: {str(size): medians(answers) for size, answers in by_size.items()}
        for kind, by_size in found.items()
    }


def medians(answers):
    """By name, the medians of what a contestant answered each time."""
    return {name: statistics.median(one[name] for one in answers) for name in answers[0]}


def runtimes(bundle):
    """The runtimes that the bundle has models for."""
    return [
        name
        for name in RUNTIMES
        if name == "saved_model" or (bundle.path / "tflite" / f"{name}.tflite").exists()
    ]


def tables(results):
    """The results as Markdown."""
    from supcon_tf.stages.tables import format_table

    header = ["server", "clients", "requests/s"]
    header += [f"p{percentile}" for percentile in PERCENTILES]
    header += ["errors", "memory before", "after"]
    rows = [
        [
            row["server"],
            str(row["clients"]),
            f"{row['per_second']:.0f}",
            *(amount(row[f"p{percentile}_ms"], "ms") for percentile in PERCENTILES),
            str(sum(row["errors"].values())),
            *(f"{row[key] / 2**20:.0f} MiB" for key in ("memory_before", "memory_after")),
        ]
        for row in results["loads"]
    ]
    sizes = list(next(iter(results["runtimes"].values())))
    alone = [
        [
            kind,
            *(f"{times[size]['milliseconds']:.3f} ms" for size in sizes),
            f"{times[sizes[-1]]['cores']:.1f}",
        ]
        for kind, times in results["runtimes"].items()
    ]
    names = ["runtime by itself", *(f"batch of {size}" for size in sizes), "cores busy, last"]
    lines = [
        f"memory of {title}: {memory['before'] / 2**20:.0f} MiB, in the end "
        f"{memory['after'] / 2**20:.0f} MiB; {'flat' if memory['flat'] else 'IT GREW'}"
        for title, memory in results["memory"].items()
    ]
    parts = [format_table(header, rows), "\n".join(lines), format_table(names, alone)]
    return "\n\n".join(parts)


def amount(value, unit):
    """A number with its unit; a dash if there is none, as when every request failed."""
    return "-" if value is None else f"{value:.1f} {unit}"


def check(config):
    """Refuses wrong settings before any work.

    Raises:
        UserError: naming the setting.
    """
    for name in ("concurrency", "batch_sizes"):
        numbers(getattr(config, name), name)
    if config.peer_python and shutil.which(config.peer_python) is None:
        raise UserError(
            f"peer_python must be a program. Received: {config.peer_python!r}. Give the path of a "
            "Python with torch and onnxruntime."
        )


def main(config):
    """Runs everything, prints the tables, and writes results.json."""
    from supcon_tf.core.files import write_json
    from supcon_tf.exporting.bundle import load_bundle
    from supcon_tf.exporting.layout import newest_bundle

    check(config)
    bundle = load_bundle(newest_bundle(config.model_dir))
    images = held_out_images(bundle, config.images)
    output = open_output(config.output_dir)
    with tempfile.TemporaryDirectory() as folder:
        requests = Path(folder) / "requests.jsonl"
        write_requests(requests, images)
        started = time.time()
        alone = time_runtimes(config, bundle, images, folder)
        loads = load_servers(config, bundle, requests)
    results = {
        "hardware": hardware(),
        "settings": config.to_dict(),
        "seconds": time.time() - started,
        "model": {"name": bundle.name, "version": bundle.version},
        "loads": loads,
        "memory": memory_growth(loads),
        "runtimes": alone,
    }
    write_json(output / "results.json", results)
    print(tables(results))
    if any(row["errors"] for row in loads):
        print("some requests failed", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig, __doc__)
