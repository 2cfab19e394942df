"""One way to run a bundle's encoder, in a process of its own; no server, no preprocessing.

    python _serving_worker.py TASK

TASK is JSON: `kind` is saved_model, float32, ... int8 with `bundle`; or torch or onnxruntime, whose
Python needs neither TensorFlow nor this package; `arrays` is an .npz file of the encoder's weights
("weight/NAME"), `images` float32 [N, S, S, 3] in [0, 1] and their `embeddings`, which must come
out. Then a line of JSON says that it is ready, and each line read, a batch size, is answered with
the `milliseconds` of one call and the `cores` busy meanwhile. Each runtime may use all cores.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

_CALLS, _LEAST_SECONDS = 20, 1.0
_TOLERANCE = {"int8": 0.2, "dynamic": 0.2, "float16": 0.02}  # Of embeddings of unit norm.


def bundle_runner(task, arrays):
    """The model that the server calls."""
    from supcon_tf.exporting.bundle import load_bundle

    bundle = load_bundle(Path(task["bundle"]), task["kind"])
    return lambda images: bundle.classify(images)["embeddings"]


def conv_norm(weights, name, stride=1):
    """A convolution and its batch normalization in PyTorch.

    Args:
        weights: arrays by their names in Keras.
        name: of the pair.
        stride: of the convolution.
    """
    import torch
    from torch import nn

    kernel = weights[f"{name}_conv/kernel"]  # [k, k, in, out]
    side, _, inputs, outputs = kernel.shape
    conv = nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False)
    norm = nn.BatchNorm2d(outputs, eps=1e-5)
    conv.weight.data = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var = (
        torch.from_numpy(weights[f"{name}_norm/{part}"])
        for part in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    return nn.Sequential(conv, norm)


def torch_network(weights):
    """The same residual network of basic blocks and CIFAR stem in PyTorch.

    Args:
        weights: arrays by their names in Keras.

    Returns:
        A module from images float32 [B, 3, S, S] in [0, 1] to embeddings [B, F], unit norm.
    """
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, name, stride):
            super().__init__()
            self.first = conv_norm(weights, f"{name}_1", stride)
            self.second, self.short = conv_norm(weights, f"{name}_2"), nn.Identity()
            if f"{name}_shortcut_conv/kernel" in weights:
                self.short = conv_norm(weights, f"{name}_shortcut", stride)

        def forward(self, x):
            found = self.second(torch.relu(self.first(x)))
            return torch.relu(found + self.short(x))

    names = sorted({name.split("_1_conv")[0] for name in weights if "_1_conv" in name})
    blocks = [Block(name, 2 if "stage1" not in name and "block1" in name else 1) for name in names]

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.blocks = conv_norm(weights, "stem"), nn.Sequential(*blocks)

        def forward(self, images):
            x = torch.relu(self.stem((images - 0.45) / 0.25))
            return nn.functional.normalize(self.blocks(x).mean(dim=(2, 3)))

    return Encoder().eval()


def torch_runner(task, arrays):
    """PyTorch, eager, channels last."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    network = torch_network(_weights(arrays)).to(memory_format=torch.channels_last)

    def run(images):
        with torch.inference_mode():
            return network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()

    return run


def onnxruntime_runner(task, arrays):
    """The same network exported from PyTorch to ONNX."""
    import onnxruntime
    import torch

    network = torch_network(_weights(arrays))
    side = arrays["images"].shape[1]
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/encoder.onnx"
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, side, side),),
            path,
            input_names=["images"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images):
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return session.run(None, {"images": images})[0]

    return run


def _weights(arrays):
    prefix = "weight/"
    return {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}


def measure(run, images):
    """Median time of a call, and the cores that were busy: processor time over time."""
    seconds, started, worked = [], time.perf_counter(), time.process_time()
    while len(seconds) < _CALLS or time.perf_counter() < started + _LEAST_SECONDS:
        begun = time.perf_counter()
        run(images)
        seconds.append(time.perf_counter() - begun)
    cores = (time.process_time() - worked) / (time.perf_counter() - started)
    return {"milliseconds": 1000 * statistics.median(seconds), "cores": cores}


def main(task):
    """Builds the contestant, compares its embeddings, then obeys."""
    answers, sys.stdout = sys.stdout, sys.stderr
    task = json.loads(task)
    arrays = dict(np.load(task["arrays"]))
    make = {"torch": torch_runner, "onnxruntime": onnxruntime_runner}
    run = make.get(task["kind"], bundle_runner)(task, arrays)
    images = arrays["images"]
    difference = float(np.abs(run(images) - arrays["embeddings"]).max())
    if difference > _TOLERANCE.get(task["kind"], 1e-4):
        raise SystemExit(f"embeddings differ by {difference:.1e}")
    print(json.dumps({"difference": difference}), file=answers, flush=True)
    for line in sys.stdin:
        batch = images[np.arange(int(line)) % len(images)]
        run(batch)
        print(json.dumps(measure(run, batch)), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
