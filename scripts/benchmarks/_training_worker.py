"""One contestant of the training benchmark, in a process of its own.

    python _training_worker.py TASK

TASK is JSON: `kind` is ours, or supcontrast with `path` (its checkout); `settings` are those of
`PretrainConfig`; `keras_batch_norm` asks for Keras's own layer, `torch_compile` compiles the
peer, and `hold` waits for a line before the first step. Two steps trace and compile. Then
a line of JSON says what is known, and every line read is answered by another:

    step              one step on a batch that is in memory
    alone SECONDS     many such steps
    pipeline SECONDS  the input pipeline without the step
    whole SECONDS     both, as training runs them
    prefetched SECONDS  the same, with the batches brought to the GPU in advance
    product SECONDS   the rate of a large matrix product
    profile           where the time of a step goes, by type of operation
"""

import collections
import itertools
import json
import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from _contestants import forget_peak, resident_bytes

_WARM_UP_STEPS, _PROFILED_STEPS = 2, 3
_PRODUCT_SIDE, _PRODUCTS = 3000, 2
# From this size on our residual networks have the ImageNet stem; the peer's come from torchvision.
_IMAGENET_STEM_PX = 128


def make_batch(settings):
    """Noise float32 [B, V, S, S, 3] in [0, 1) and labels int32 [B]."""
    rng = np.random.default_rng(0)
    images, side = settings["batch_size"], settings["image_size_px"]
    views = rng.random((images, settings["num_views"], side, side, 3), np.float32)
    return views, rng.integers(0, 10, images).astype(np.int32)


def forward_flops(*networks):
    """Multiplications and additions of the convolutions and dense layers, for one image."""
    total = 0
    for layer in (layer for network in networks for layer in network._flatten_layers()):
        for name in ("kernel", "depthwise_kernel", "pointwise_kernel"):
            shape = getattr(getattr(layer, name, None), "shape", ())
            positions = layer.output.shape[1:-1] if len(shape) > 2 else ()
            total += 2 * int(np.prod((*shape, *positions))) if shape else 0
    return total


def ours(task):
    """The parts that `pretrain` trains with: its compiled model and its stream of views.

    Returns:
        A function that runs a step on a batch and returns the loss; by name, what else can be asked
        for; and what is known.
    """
    import keras
    import tensorflow as tf

    from supcon_tf.config import PretrainConfig
    from supcon_tf.data.datasets import from_config
    from supcon_tf.engine.loop import train_function
    from supcon_tf.networks import copies
    from supcon_tf.stages import building

    if task.get("keras_batch_norm"):
        copies.FusedBatchNormalization = keras.layers.BatchNormalization
    config = PretrainConfig(**task["settings"])
    dataset = from_config(config)
    model = building.compiled_model(config, dataset, steps=1000, replicas=1)
    model.optimizer.build(model.trainable_variables)
    train = train_function(model)
    in_memory = itertools.repeat(tuple(map(tf.constant, make_batch(task["settings"]))))

    def step(batches=in_memory):
        return train(batches)["loss"]

    def stream_of(part):
        stream = building.stream_of(config, dataset)()
        ahead = tf.data.experimental.prefetch_to_device("/GPU:0", 2)
        return stream.apply(ahead) if part == "prefetched" else stream

    def pull(batches):
        next(batches)

    def rate(part, seconds):
        started = time.perf_counter()
        batches = in_memory if part == "alone" else iter(stream_of(part))
        advance = pull if part == "pipeline" else step
        float(advance(batches) or 0.0)
        start_seconds = time.perf_counter() - started
        _repeat(lambda: advance(batches), seconds / 4)
        return {**_repeat(lambda: advance(batches), seconds), "start_seconds": start_seconds}

    names = "alone", "pipeline", "whole", "prefetched"
    parts = {name: lambda seconds, name=name: rate(name, float(seconds)) for name in names}
    return step, {**parts, "product": _product, "profile": lambda: _profile(step)}, _sizes(model)


def _sizes(model):
    """Arithmetic for one image, parameters, and whether the step is compiled."""
    heads = [model.projection_head] if hasattr(model, "projection_head") else []
    return {
        "forward_flops": forward_flops(model.encoder, *heads),
        "parameters": sum(int(np.prod(v.shape)) for v in model.trainable_variables),
        "xla": bool(model.jit_compile),
    }


def _repeat(advance, seconds):
    """Runs until the time is up, twice at least; a step's loss is read when the next one is run."""
    started, count, before = time.perf_counter(), 0, None
    while count < 2 or time.perf_counter() - started < seconds:
        now = advance()
        float(before or 0.0)
        before, count = now, count + 1
    float(before or 0.0)
    return {"steps": count, "seconds": time.perf_counter() - started}


def _product(least_seconds):
    """FLOP per second of a float32 matrix product that fills the machine: the median of many."""
    import tensorflow as tf

    left, right = tf.random.normal([2, _PRODUCT_SIDE, _PRODUCT_SIDE])
    seconds = []
    while len(seconds) < _PRODUCTS or sum(seconds) < float(least_seconds):
        started = time.perf_counter()
        tf.linalg.trace(left @ right).numpy()
        seconds.append(time.perf_counter() - started)
    return {"flops_per_second": 2 * _PRODUCT_SIDE**3 / statistics.median(seconds)}


def _profile(step):
    """Calls and seconds of a step by type of operation, summed over the threads that run them."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace

    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            started = time.perf_counter()
            for _ in range(_PROFILED_STEPS):
                float(step())
            seconds = time.perf_counter() - started
        trace = XSpace.FromString(next(Path(folder).rglob("*.xplane.pb")).read_bytes())
    calls, busy = collections.Counter(), collections.Counter()
    for plane in trace.planes:
        kind_of = {number: _kind(event.name) for number, event in plane.event_metadata.items()}
        hlo = {number for number, stat in plane.stat_metadata.items() if stat.name == "hlo_op"}
        for event in (event for line in plane.lines for event in line.events):
            kind = kind_of[event.metadata_id]
            if any(stat.metadata_id in hlo for stat in event.stats):  # XLA's, such as MatMul_1.2.
                name = plane.event_metadata[event.metadata_id].name
                kind = re.sub(r"(_\d+)?(\.\d+)*$", "", name)
            if kind:
                calls[kind] += 1 / _PROFILED_STEPS
                busy[kind] += event.duration_ps / 1e12 / _PROFILED_STEPS
    kinds = [[kind, calls[kind], spent] for kind, spent in busy.most_common()]
    return {"seconds": seconds / _PROFILED_STEPS, "kinds": kinds}


def _kind(event):
    """Conv2D of `model/stem_conv/convolution:Conv2D`, without the prefix of oneDNN's variants."""
    node, colon, kind = event.rpartition(":")
    named = colon and not node.endswith(":") and kind.isidentifier()
    return kind.removeprefix("_Mkl").removeprefix("Native") if named else ""


def supcontrast(task):
    """SupContrast's network, loss and optimizer on PyTorch; returns as `ours`."""
    import torch

    sys.path.insert(0, task["path"])
    from losses import SupConLoss

    settings = task["settings"]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True  # As in its training script.
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as in TensorFlow.
    half = settings["precision"] == "mixed_bfloat16"
    model = _supcontrast_network(settings).to(device, memory_format=torch.channels_last).train()
    network = torch.compile(model) if task.get("torch_compile") else model
    loss = SupConLoss(settings["temperature"], base_temperature=settings["temperature"])
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=settings["learning_rate"],
        momentum=settings["momentum"],
        weight_decay=settings["weight_decay"],
    )
    views, labels = (torch.from_numpy(array).to(device) for array in make_batch(settings))
    # [V * B, 3, S, S], view-major as its training script has them.
    images = views.permute(1, 0, 4, 2, 3).flatten(0, 1)
    images = images.contiguous(memory_format=torch.channels_last)

    def step():
        with torch.autocast(device, torch.bfloat16, enabled=half):
            rows = network(images)
        features = torch.stack(rows.float().split(len(labels)), dim=1)
        value = loss(features, labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        return value

    parameters = sum(parameter.numel() for parameter in model.parameters())
    asked = {"alone": lambda seconds: _repeat(step, float(seconds))}
    return step, asked, {"parameters": parameters, "versions": {"torch": torch.__version__}}


def _supcontrast_network(settings):
    """SupContrast's encoder and head; from ImageNet's image size on, torchvision's encoder."""
    import torch
    from networks.resnet_big import SupConResNet

    model = SupConResNet(settings["encoder"], head="mlp")
    if settings["image_size_px"] >= _IMAGENET_STEM_PX:
        import torchvision

        model.encoder = getattr(torchvision.models, settings["encoder"])()
        model.encoder.fc = torch.nn.Identity()
    return model


def device_bytes():
    """Peak GPU memory of this process; 0 without a GPU."""
    if "torch" in sys.modules:
        return sys.modules["torch"].cuda.max_memory_allocated()
    import tensorflow as tf

    gpus = tf.config.list_logical_devices("GPU")
    return tf.config.experimental.get_memory_info("GPU:0")["peak"] if gpus else 0


def main(task):
    """Builds the contestant, warms it up, then obeys."""
    answers, sys.stdout = sys.stdout, sys.stderr  # What libraries print is no answer.
    task = json.loads(task)
    step, asked, known = (ours if task["kind"] == "ours" else supcontrast)(task)
    if task.get("hold"):
        sys.stdin.readline()
    before = forget_peak()

    def one_step():
        started = time.perf_counter()
        loss = float(step())
        seconds, peak = time.perf_counter() - started, resident_bytes()
        memory = {"extra_bytes": peak - before, "peak_bytes": peak, "device_bytes": device_bytes()}
        return {"seconds": seconds, "loss": loss, **memory}

    warm = [one_step() for _ in range(_WARM_UP_STEPS)]
    first = {"loss": warm[0]["loss"], "first_seconds": warm[0]["seconds"]}
    print(json.dumps({**known, **warm[-1], **first}), file=answers, flush=True)
    for line in sys.stdin:
        name, *arguments = line.split()
        answer = one_step() if name == "step" else asked[name](*arguments)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
