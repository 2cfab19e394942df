"""One loss in a process of its own, which the benchmark tells when to run a step.

    python _loss_worker.py KIND PATH N

KIND is `ours:LOSS:blocks` (what a user gets), `ours:LOSS:full` (our loss with the whole matrix),
`ours:plain:full` (L_out as written in the paper), `supcontrast` (PATH is its checkout) or
`pml:LOSS`. LOSS is a method's name; triplet may be followed by its mining, as in triplet_hard.
Prints a line of JSON when ready; then, for each line read, runs a forward and backward pass and
prints `{"seconds": ..., "extra_bytes": ...}`: the peak of resident memory over what was resident
before the first pass at this size, compilation included.
"""

import dataclasses
import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

DIM, VIEWS, CLASSES = 128, 2, 100


def make_batch(num_rows):
    """Unit-norm embeddings float32 [B, 2, 128] and labels int [B]."""
    rng = np.random.default_rng(0)
    batch = num_rows // VIEWS
    embeddings = rng.normal(size=(batch, VIEWS, DIM)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return embeddings, rng.integers(0, CLASSES, batch)


def plain_formula(labels, embeddings):
    """L_out from the matrix of all pairs, as one would write it down; temperature 0.1."""
    import tensorflow as tf

    batch, views, dim = embeddings.shape
    rows = tf.reshape(tf.transpose(tf.math.l2_normalize(embeddings, axis=-1), [1, 0, 2]), [-1, dim])
    labels = tf.tile(labels, [views])
    logits = tf.matmul(rows, rows, transpose_b=True) / 0.1
    others = 1.0 - tf.eye(batch * views)
    positives = tf.cast(labels[:, None] == labels[None, :], tf.float32) * others
    logits -= tf.stop_gradient(tf.reduce_max(logits, axis=1, keepdims=True))
    sums = tf.reduce_sum(tf.exp(logits) * others, axis=1, keepdims=True)
    log_probability = logits - tf.math.log(sums)
    counts = tf.maximum(tf.reduce_sum(positives, axis=1), 1.0)
    return tf.reduce_mean(-tf.reduce_sum(positives * log_probability, axis=1) / counts)


def mining_of(name):
    """The mining of a triplet loss."""
    return name.removeprefix("triplet").removeprefix("_") or "semi_hard"


def ours(name, path):
    """A step of one of our losses, compiled where the training step is: on a GPU."""
    import tensorflow as tf

    from supcon_tf.losses import blocks, supcon
    from supcon_tf.methods import METHODS

    if path == "full":
        blocks.sizes = supcon.sizes = lambda: dataclasses.replace(blocks.ON_CPU, matrix=2**40)
    if name == "plain":
        loss = plain_formula
    elif name.startswith("triplet"):
        loss = METHODS["triplet"].settings[0](mining=mining_of(name))
    else:
        loss = METHODS[name].settings[0]()

    @tf.function(jit_compile=bool(tf.config.list_physical_devices("GPU")))
    def step(labels, embeddings):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            value = loss(labels, embeddings)
        return value, tape.gradient(value, embeddings)

    def run(embeddings, labels):
        value, gradient = step(labels, embeddings)
        gradient.numpy()
        return float(value)

    return run, lambda embeddings, labels: (tf.constant(embeddings), tf.constant(labels))


def peer(kind, path):
    """A step of a peer on PyTorch."""
    import torch

    if kind == "supcontrast":
        sys.path.insert(0, path)
        from losses import SupConLoss

        loss = SupConLoss(temperature=0.1, base_temperature=0.1)
        arguments = lambda x, y: (x, y)  # noqa: E731
    else:
        loss = metric_learning(path)
        arguments = lambda x, y: (x.flatten(0, 1), y.repeat_interleave(VIEWS))  # noqa: E731

    def run(embeddings, labels):
        embeddings = embeddings.detach().requires_grad_()
        value = loss(*arguments(embeddings, labels))
        value.backward()
        return float(value)

    return run, lambda embeddings, labels: (torch.tensor(embeddings), torch.tensor(labels))


def metric_learning(name):
    """The loss of pytorch-metric-learning that equals ours, or is nearest to it."""
    from pytorch_metric_learning import distances, losses, miners

    if not name.startswith("triplet"):
        loss = {
            "supcon_out": lambda: losses.SupConLoss(temperature=0.1),
            "max_margin": lambda: losses.ContrastiveLoss(pos_margin=0, neg_margin=1),
            "npairs": losses.NPairsLoss,
        }
        return loss[name]()
    squared = distances.LpDistance(normalize_embeddings=True, power=2)
    loss = losses.TripletMarginLoss(margin=0.2, distance=squared)
    miner = {
        "all": lambda: None,
        "hard": lambda: miners.BatchHardMiner(distance=squared),
        "semi_hard": lambda: miners.TripletMarginMiner(0.2, "semihard", distance=squared),
    }[mining_of(name)]()
    return lambda x, y: loss(x, y, miner(x, y) if miner else None)


def _status(name):
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(name))


def main(kind, path, num_rows):
    """Builds the step, warms it up on a small batch, then obeys."""
    first, *rest = kind.split(":")
    run, load = ours(*rest) if first == "ours" else peer(first, path or "".join(rest))
    run(*load(*make_batch(64)))
    batch = load(*make_batch(int(num_rows)))
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # Forget the peak so far.
    before = _status("VmRSS")
    value = run(*batch)
    print(json.dumps({"value": value}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        run(*batch)
        seconds = time.perf_counter() - started
        extra = _status("VmHWM") - before
        print(json.dumps({"seconds": seconds, "extra_bytes": extra}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
