"""Whether TensorFlow uses the GPU correctly, and the card's own rates.

python scripts/benchmarks/gpu/devices.py --output_dir=runs/benchmark_gpu
"""

import subprocess
import time
from pathlib import Path

import numpy as np
from _shared import GpuConfig, Results, median_seconds

from supcon_tf.cli import flags
from supcon_tf.core.files import write_json

_PRODUCT_SIDE = 8192
_COPIED_BYTES = 2**31


def _card(results):
    import importlib.metadata

    import tensorflow as tf

    results.table("Machine", ["what", "value"])
    query = "name,memory.total,driver_version,power.limit"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    found = subprocess.run(command, capture_output=True, text=True)
    results.row("nvidia-smi", found.stdout.strip())
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        results.row(gpu.name, tf.config.experimental.get_device_details(gpu))
    build = tf.sysconfig.get_build_info()
    results.row("built for", f"CUDA {build['cuda_version']}, cuDNN {build['cudnn_version']}")
    for name in ("tensorflow", "keras", "numpy"):
        results.row(name, importlib.metadata.version(name))
    results.row("date", time.strftime("%Y-%m-%d"))
    if not gpus:
        raise SystemExit("TensorFlow sees no GPU.")


def _agreement(results):
    """A convolution and a matrix product compared with the CPU's float64."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    tasks = {
        "matrix product": (tf.matmul, rng.normal(size=(2, 1024, 1024))),
        "convolution": (
            lambda images, kernel: tf.nn.conv2d(images, kernel, 1, "SAME"),
            (rng.normal(size=(8, 32, 32, 64)), rng.normal(size=(3, 3, 64, 64))),
        ),
    }
    modes = {
        "float32, TF32 off": ("float32", False),
        "float32, TF32": ("float32", True),
        "bfloat16": ("bfloat16", True),
        "float16": ("float16", True),
    }
    results.table("Agreement with float64", ["operation", "arithmetic", "compiled", "error"])
    for name, (operation, sides) in tasks.items():
        sides = [tf.constant(side) for side in sides]
        with tf.device("/CPU:0"):
            exact = operation(*sides).numpy()
        for title, (dtype, tf32) in modes.items():
            tf.config.experimental.enable_tensor_float_32_execution(tf32)
            given = [tf.cast(side, dtype) for side in sides]
            for compiled in (False, True):
                found = tf.function(operation, jit_compile=compiled)(*given)
                found = tf.cast(found, tf.float64).numpy()
                error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
                results.row(name, title, compiled, f"{error:.1e}")
    tf.config.experimental.enable_tensor_float_32_execution(True)


def _rates(config, results):
    """Rates of a large matrix product and a copy: what a step is compared with."""
    import tensorflow as tf

    results.table("The card's rates", ["what", "rate"])
    found = {}
    for title, dtype, tf32 in (
        ("float32", "float32", False),
        ("tf32", "float32", True),
        ("bfloat16", "bfloat16", True),
    ):
        tf.config.experimental.enable_tensor_float_32_execution(tf32)
        sides = [_PRODUCT_SIDE, _PRODUCT_SIDE]
        left, right = (tf.cast(tf.random.normal(sides, seed=n), dtype) for n in (1, 2))

        @tf.function
        def product(left=left, right=right):
            for _ in range(10):
                left = tf.matmul(left, right) * tf.cast(1 / 90, left.dtype)
            return tf.reduce_sum(tf.cast(left[:1], tf.float32))

        product().numpy()
        found[title] = 20 * _PRODUCT_SIDE**3 / median_seconds(lambda: product().numpy())
        results.row(
            f"{title} product of side {_PRODUCT_SIDE}", f"{found[title] / 1e12:.0f} TFLOP/s"
        )
    tf.config.experimental.enable_tensor_float_32_execution(True)
    values = tf.random.normal([_COPIED_BYTES // 4])

    def copy():
        total = values
        for _ in range(10):
            total = total + 1.0
        return total[0].numpy()

    copy()
    seconds = median_seconds(copy)
    results.row("copy, read and written", f"{20 * _COPIED_BYTES / seconds / 1e12:.2f} TB/s")
    host = values[: 2**26].numpy()
    seconds = median_seconds(lambda: tf.constant(host)[0].numpy())
    results.row("from the machine's memory", f"{host.nbytes / seconds / 1e9:.1f} GB/s")
    write_json(Path(config.output_dir, "rates.json"), found)


def main(config):
    """Runs the check."""
    results = Results(config, "devices")
    _card(results)
    _agreement(results)
    _rates(config, results)


if __name__ == "__main__":
    flags.run(main, GpuConfig, __doc__)
