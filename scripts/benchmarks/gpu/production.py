"""From a GPU to production: SIGKILL and resumption, the head, the export, and its CPU reload.

python scripts/benchmarks/gpu/production.py --output_dir=runs/benchmark_gpu
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from _shared import GpuConfig, Results

from supcon_tf.cli import flags

_IMAGES = 64


def _script(name, *arguments, **environment):
    command = [sys.executable, "-m", "supcon_tf.cli", name, *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )


def _finish(process):
    text, _ = process.communicate()
    if process.returncode:
        lines = text.strip().splitlines()
        raise RuntimeError(f"status {process.returncode}: {lines[-1] if lines else ''}")
    return text


def _weights(run_dir):
    """The encoder's weights, in a process that leaves the GPU alone."""
    path = Path(run_dir, "weights.npz")
    code = (
        "import sys, numpy, keras, supcon_tf; "
        "model = keras.models.load_model(sys.argv[1]); "
        "numpy.savez(sys.argv[2], *model.get_weights())"
    )
    command = [sys.executable, "-c", code, f"{run_dir}/encoder.keras", str(path)]
    subprocess.run(command, check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"})
    with np.load(path) as arrays:
        return [arrays[name] for name in arrays]


def _resumption(config, results, deterministic):
    """Trains twice, once with a kill after the first checkpoint, and compares the weights."""
    folder = Path(config.output_dir, "production").resolve()
    title = "deterministic kernels" if deterministic else "default kernels"
    environment = {"TF_DETERMINISTIC_OPS": "1"} if deterministic else {}
    runs = [str(folder / f"{name}_{int(deterministic)}") for name in ("whole", "killed")]
    shared = ["--epochs=12", "--checkpoint_steps=5", "--precision=mixed_bfloat16"]
    shared += [f"--data_dir={folder}/data", "--dataset=digits"]
    started = [_script("pretrain", f"--run_dir={run}", *shared, **environment) for run in runs[1:]]
    checkpoints, killed = Path(runs[1], "checkpoints"), started[0]
    while killed.poll() is None and not any(checkpoints.rglob("*.index")):
        if any(checkpoints.glob("*/*")):
            break
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    status = killed.wait()
    _finish(_script("pretrain", f"--run_dir={runs[1]}", *shared, "--resume", **environment))
    _finish(_script("pretrain", f"--run_dir={runs[0]}", *shared, **environment))
    whole, resumed = (_weights(run) for run in runs)
    same = all(np.array_equal(one, other) for one, other in zip(whole, resumed, strict=True))
    off = max(float(np.abs(a - b).max()) for a, b in zip(whole, resumed, strict=True))
    results.row(f"killed (status {status}) and resumed, {title}", f"bit for bit: {same}; {off:.1e}")
    return runs[0]


def _export(config, results, run_dir):
    folder = Path(config.output_dir, "production").resolve()
    _finish(_script("classify", f"--run_dir={run_dir}"))
    _finish(_script("evaluate", f"--run_dir={run_dir}"))
    bundles = folder / "saved_models"
    _finish(
        _script("export", f"--run_dir={run_dir}", f"--saved_models_dir={bundles}", "--name=gpu")
    )
    metrics = json.loads(Path(run_dir, "metrics.json").read_text())
    results.row("top-1 after training on the GPU", f"{100 * metrics['test']['top1']:.1f} %")
    for name, found in metrics["export"].items():
        if isinstance(found, dict) and "max_difference" in found:
            results.row(f"export, {name}", f"{found['max_difference']:.1e} from Keras at most")
    answers = {}
    for device in ("GPU", "CPU"):
        hidden = {"CUDA_VISIBLE_DEVICES": "-1"} if device == "CPU" else {}
        target = folder / f"{device}.npz"
        command = [sys.executable, __file__, "predict", str(bundles / "gpu"), str(target)]
        subprocess.run(command, check=True, env={**os.environ, **hidden})
        with np.load(target) as arrays:
            answers[device] = dict(arrays)
    for name in answers["GPU"]:
        if name != "images":
            off = np.abs(answers["GPU"][name] - answers["CPU"][name]).max()
            results.row(f"export on the GPU and on the CPU, {name}", f"{off:.1e} at most")
    shutil.make_archive(str(Path(config.output_dir, "exported")), "gztar", bundles)
    shutil.copy(folder / "GPU.npz", Path(config.output_dir, "exported_answers.npz"))


def _predict(bundle, target):
    """Answers of an exported SavedModel to fixed images."""
    import tensorflow as tf

    version = max(Path(bundle).iterdir(), key=lambda path: path.name)
    model = tf.saved_model.load(str(version))
    shape = [_IMAGES, 32, 32, 3]
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    found = model.signatures["serving_uint8"](images=tf.constant(images))
    found = {name: value.numpy() for name, value in found.items() if value.dtype.is_floating}
    np.savez(target, images=images, **found)


def main(config):
    """Runs the check."""
    results = Results(config, "production")
    results.table("From the GPU to production", ["what", "found"])
    run_dir = None
    for deterministic in (True, False):
        try:
            run_dir = _resumption(config, results, deterministic)
        except (RuntimeError, subprocess.CalledProcessError) as error:
            results.failed("killed and resumed", error=error)
    if run_dir:
        _export(config, results, run_dir)


if __name__ == "__main__":
    if sys.argv[1:2] == ["predict"]:
        _predict(*sys.argv[2:])
    else:
        flags.run(main, GpuConfig, __doc__)
