"""One device, MirroredStrategy on one GPU, and on two logical GPUs of one card: the same training?

python scripts/benchmarks/gpu/strategies.py --output_dir=runs/benchmark_gpu
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from _shared import GpuConfig, Results

from supcon_tf.cli import flags

_CASES = {
    "one device, compiled": {"strategy": "one_device", "compile": "on", "gpus": 1},
    "one device": {"strategy": "one_device", "compile": "off", "gpus": 1},
    "mirrored, one GPU": {"strategy": "mirrored", "compile": "off", "gpus": 1},
    "mirrored, one GPU, compiled": {"strategy": "mirrored", "compile": "on", "gpus": 1},
    "mirrored, two logical GPUs": {"strategy": "mirrored", "compile": "off", "gpus": 2},
    "the CPU": {"strategy": "one_device", "compile": "off", "gpus": 0},
}
_EPOCHS = 3
_MEMORY_MIB = 6000


def _train(case, run_dir, data_dir):
    """In a process of its own: trains on the digits in full float32, and prints the curve."""
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(False)
    gpus = tf.config.list_physical_devices("GPU")
    if not case["gpus"]:
        tf.config.set_visible_devices([], "GPU")
    elif gpus:
        part = tf.config.LogicalDeviceConfiguration(memory_limit=_MEMORY_MIB)
        tf.config.set_logical_device_configuration(gpus[0], [part] * case["gpus"])

    from supcon_tf import PretrainConfig, pretrain
    from supcon_tf.stages.run_directory import RunDirectory

    settings = {name: case[name] for name in ("strategy", "compile")}
    settings |= {"data_dir": data_dir, "dataset": "digits", "learning_rate": 0.02}
    metrics = pretrain(PretrainConfig(run_dir=run_dir, epochs=_EPOCHS, overwrite=True, **settings))
    curves = json.loads((RunDirectory(run_dir).path / "history.json").read_text())["pretrain"]
    print(json.dumps({"loss": curves["loss"], "seconds": metrics["seconds"]}))


def main(config):
    """Runs the check."""
    results = Results(config, "strategies")
    header = [
        "strategy",
        *(f"loss of epoch {n + 1}" for n in range(_EPOCHS)),
        "largest deviation from the first",
    ]
    results.table("ResNet-8 on the digits, float32 without TF32, deterministic kernels", header)
    first = None
    folder = Path(config.output_dir, "strategies").resolve()
    environment = {**os.environ, "TF_DETERMINISTIC_OPS": "1", "TF_CUDNN_DETERMINISTIC": "1"}
    for number, (title, case) in enumerate(_CASES.items()):
        work = [json.dumps(case), str(folder / str(number)), str(folder / "data")]
        command = [sys.executable, __file__, "train", *work]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        try:
            losses = json.loads(done.stdout.strip().splitlines()[-1])["loss"]
        except (IndexError, ValueError):
            Path(config.output_dir, f"strategies_{number}.log").write_text(done.stderr[-20000:])
            results.failed(title, error="".join(done.stderr.strip().splitlines()[-1:]))
            continue
        first = first or losses
        off = max(abs(one / other - 1) for one, other in zip(losses, first, strict=True))
        results.row(title, *(f"{value:.6f}" for value in losses), f"{off:.1e}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:
        _train(json.loads(sys.argv[2]), *sys.argv[3:])
    else:
        flags.run(main, GpuConfig, __doc__)
