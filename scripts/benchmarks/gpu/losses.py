"""The losses on a GPU: whether they are right in every arithmetic, their time and their memory.

python scripts/benchmarks/gpu/losses.py --output_dir=runs/benchmark_gpu
"""

import contextlib
import dataclasses
import itertools

import numpy as np
from _shared import GpuConfig, Results, median_seconds, mib

from supcon_tf.cli import flags

_LOSSES = "supcon_out", "supcon_in", "simclr", "triplet", "npairs", "max_margin"
# Rows, and the sides of the square blocks that are tried; 0: the whole matrix.
_SIZES = {
    1024: (0,),
    2048: (0, 512, 2048),
    8192: (0, 512, 2048, 8192),
    16384: (0, 4096, 16384),
    65536: (8192, 16384, 32768),
    262144: (32768,),
    524288: (32768,),
}
_DIM, _CLASSES = 128, 100


def _batch(num_rows):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, _CLASSES, num_rows // 2)
    centres = rng.normal(size=(_CLASSES, 1, _DIM))
    embeddings = centres[labels] + rng.normal(size=(num_rows // 2, 2, _DIM))
    embeddings /= np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return labels.astype(np.int32), embeddings.astype(np.float32)


def _step(loss, compiled):
    import tensorflow as tf

    @tf.function(jit_compile=compiled)
    def step(labels, embeddings):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            value = loss(labels, embeddings)
        return value, tape.gradient(value, embeddings)

    return step


@contextlib.contextmanager
def _blocks_of(side):
    """Blocks of a different size from the package's: 0 for the whole matrix."""
    from supcon_tf.losses import blocks

    before = blocks.ON_GPU
    matrix, square = (0, side) if side else (2**40, 1)
    blocks.ON_GPU = dataclasses.replace(before, matrix=matrix, square=square)
    yield
    blocks.ON_GPU = before


def _accuracy(results):
    """Value and gradient compared with the CPU's float32, which the tests compare with float64."""
    import tensorflow as tf

    from supcon_tf.losses import products
    from supcon_tf.methods import METHODS

    tested = products._rounds_to_tf32
    header = ["loss", "rows", "embeddings", "products", "compiled", "value", "gradient"]
    results.table("Losses: relative difference from the CPU in float32", header)
    modes = {
        "TF32 off": (False, tested),
        "as they are": (True, tested),
        "plain TF32": (True, lambda: False),
    }
    for name, rows in [("supcon_out", 512), *((name, 2048) for name in _LOSSES)]:
        labels, embeddings = _batch(rows)
        embeddings = tf.cast(tf.cast(embeddings, tf.float16), tf.float32)
        loss = METHODS[name].settings[0]()
        with tf.device("/CPU:0"):
            products._rounds_to_tf32 = lambda: False
            value, gradient = (part.numpy() for part in _step(loss, False)(labels, embeddings))
        cases = [("float32", *case) for case in modes.items()]
        if rows == 512:
            cases.append(("float16", "as they are", modes["as they are"]))
        for dtype, title, (tf32, rounds) in cases:
            products._rounds_to_tf32 = rounds
            tf.config.experimental.enable_tensor_float_32_execution(tf32)
            for compiled in (False, True) if title == "as they are" else (False,):
                try:
                    found = _step(loss, compiled)(labels, tf.cast(embeddings, dtype))
                    found = [tf.cast(part, tf.float32).numpy() for part in found]
                    off = abs(found[0] / value - 1)
                    grad = np.linalg.norm(found[1] - gradient) / np.linalg.norm(gradient)
                    results.row(name, rows, dtype, title, compiled, f"{off:.1e}", f"{grad:.1e}")
                except tf.errors.OpError as error:
                    results.failed(name, rows, dtype, title, compiled, error=error)
        products._rounds_to_tf32 = tested
    tf.config.experimental.enable_tensor_float_32_execution(True)


def _time(results, loss, labels, embeddings, *cells, compiled=True):
    import tensorflow as tf

    step = _step(loss, compiled)
    labels, embeddings = tf.constant(labels), tf.constant(embeddings)

    def run():
        value, gradient = step(labels, embeddings)
        float(gradient[0, 0, 0])
        return float(value)

    try:
        run()
        tf.config.experimental.reset_memory_stats("GPU:0")
        before = tf.config.experimental.get_memory_info("GPU:0")["current"]
        value, seconds = run(), median_seconds(run, 5, 0.2)
        peak = tf.config.experimental.get_memory_info("GPU:0")["peak"] - before
        results.row(*cells, f"{1e3 * seconds:.2f} ms", mib(peak), f"{value:.6f}")
    except tf.errors.OpError as error:
        results.failed(*cells, error=error)


def _speed(results):
    from supcon_tf.methods import METHODS

    header = ["loss", "rows", "blocks", "compiled", "time", "memory", "value"]
    results.table("SupCon (L_out), forward and backward, by the side of the blocks", header)
    loss = METHODS["supcon_out"].settings[0]()
    for rows, sides in _SIZES.items():
        batch = _batch(rows)
        for side in sides:
            with _blocks_of(side):
                _time(results, loss, *batch, "supcon_out", rows, side or "whole", True)
        if rows in (2048, 8192):
            for side in (0, 2048):
                with _blocks_of(side):
                    cells = "supcon_out", rows, side or "whole", False
                    _time(results, loss, *batch, *cells, compiled=False)
    results.table("Every loss as it is, forward and backward", header)
    for name, rows in itertools.product(_LOSSES, (8192,)):
        loss = METHODS[name].settings[0]()
        _time(results, loss, *_batch(rows), name, rows, "default", True)


def main(config):
    """Runs the check."""
    results = Results(config, "losses")
    _accuracy(results)
    _speed(results)


if __name__ == "__main__":
    flags.run(main, GpuConfig, __doc__)
