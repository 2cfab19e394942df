"""Our training step, the input pipeline and both together, on one GPU.

python scripts/benchmarks/gpu/steps.py --data_dir=PATH --output_dir=runs/benchmark_gpu
"""

import sys
from pathlib import Path

import numpy as np
from _shared import GpuConfig, Results, mib
from _step_tasks import NETWORKS, PRECISIONS, SECONDS, each, start

from supcon_tf.cli import flags
from supcon_tf.core.files import read_json

_PHOTOS, _PHOTO_SHAPE, _CLASSES = 1024, (375, 500, 3), 8


def write_photos(folder):
    """Writes JPEG files of a photograph's size in folders of classes: coarse and fine noise."""
    import tensorflow as tf

    if (folder / "done").exists():
        return
    rng = np.random.default_rng(0)
    for number in range(_CLASSES):
        (folder / f"class_{number}").mkdir(parents=True, exist_ok=True)
    coarse = rng.uniform(0, 255, (_PHOTOS, 12, 16, 3)).astype(np.float32)

    def encoded(number, small):
        height, width, _ = _PHOTO_SHAPE
        fine = tf.random.stateless_normal(_PHOTO_SHAPE, [0, number], stddev=6.0)
        image = tf.image.resize(small, (height, width), "bicubic") + fine
        return number, tf.io.encode_jpeg(tf.cast(tf.clip_by_value(image, 0, 255), tf.uint8))

    with tf.device("/CPU:0"):
        stream = tf.data.Dataset.from_tensor_slices((tf.range(_PHOTOS), coarse))
        for number, data in stream.map(encoded, num_parallel_calls=tf.data.AUTOTUNE):
            path = folder / f"class_{number % _CLASSES}" / f"{number:05d}.jpeg"
            path.write_bytes(data.numpy())
    (folder / "done").touch()


def _data_of(network, config, photos):
    if NETWORKS[network]["image_size_px"] == 32:
        return {"dataset": "cifar10", "data_dir": config.data_dir}
    return {"dataset": f"folder:{photos}"}


def main(config):
    """Runs the check."""
    results = Results(config, "steps")
    photos = Path(config.output_dir, "photos").resolve()
    import subprocess

    # In a process of its own, which leaves the GPU's memory alone.
    subprocess.run([sys.executable, __file__, "write", str(photos)], check=True)
    rates = Path(config.output_dir, "rates.json")
    rates = read_json(rates) if rates.exists() else {}
    header = ["network", "arithmetic", "--compile", "views per second", "a step", "memory"]
    header += ["share of the product's rate", "first step"]
    header += ["input pipeline", "both", "both, on the GPU ahead"]
    results.table("Our step; views per second of the pipeline and both together", header)
    timed = []
    for compiled in ("on", "off"):
        for network in NETWORKS:
            for precision in reversed(PRECISIONS):
                settings = {"compile": compiled, **_data_of(network, config, photos)}
                task = {"kind": "ours", "settings": settings}
                timed.append(start(sys.executable, network, (precision, compiled), **task))
    for one, error in each(timed):
        if error:
            results.failed(one.network, *one.cells, error=error)
            continue
        results.row(one.network, *one.cells, *_measured(one, rates))


def _measured(one, rates):
    known, ask = one.contestant.ready, one.contestant.ask
    found = ask(f"alone {SECONDS}")
    rate = one.views() * found["steps"] / found["seconds"]
    peak = rates.get("bfloat16" if one.cells[0] == "bfloat16" else "tf32")
    share = f"{100 * 3 * known['forward_flops'] * rate / peak:.0f} %" if peak else ""
    cells = [f"{rate:,.0f}", f"{1e3 * found['seconds'] / found['steps']:.1f} ms"]
    cells += [mib(known["device_bytes"]), share, f"{known['first_seconds']:.0f} s"]
    if one.cells == ("bfloat16", "on"):
        for part in ("pipeline", "whole", "prefetched"):
            found = ask(f"{part} {SECONDS}")
            cells.append(f"{one.views() * found['steps'] / found['seconds']:,.0f}")
    return cells


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"]:
        write_photos(Path(sys.argv[2]))
    else:
        flags.run(main, GpuConfig, __doc__)
