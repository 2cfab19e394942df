"""The plan before the work: what a pretraining would be, what it takes, what would stop it."""

import dataclasses
import json
import math
import os
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from supcon_tf.config import PretrainConfig
from supcon_tf.core.errors import UserError
from supcon_tf.data.datasets import from_config
from supcon_tf.engine.devices import check_cluster, make_strategy
from supcon_tf.engine.loop import initial_weights
from supcon_tf.methods import build_model
from supcon_tf.stages import building, checks
from supcon_tf.stages.estimates import format_bytes
from supcon_tf.stages.plan_rows import (
    Sheet,
    add_data,
    add_devices,
    add_disk,
    add_labels,
    add_memory,
    add_networks,
    add_optimizer,
    add_steps,
)
from supcon_tf.stages.run_directory import RunDirectory

# Above it, counting the labels is announced: it may take minutes.
_MANY_IMAGES = 100_000


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `plan` found.

    Attributes:
        rows: name and value, as they are shown; a name of '' continues the row above.
        problems: a line for every check that would fail.
        numbers: what the rows say, by name: sizes in bytes, chances as shares of 1. What a failed
            check leaves unknown is missing.
    """

    rows: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]
    numbers: dict[str, Any]


def print_plan(config: PretrainConfig) -> None:
    """Prints the plan of a pretraining and every check that would fail.

    Args:
        config: the settings.

    Raises:
        UserError: if there is one.
    """
    found = plan(config)
    width = max(len(name) for name, _ in found.rows) if found.rows else 0
    for name, value in found.rows:
        print(f"{name:<{width}}  {value}")
    for problem in found.problems:
        print(f"would fail: {problem}")
    count = len(found.problems)
    if count:
        sys.stdout.flush()
        raise UserError(f"nothing written; {count} check{'s' * (count > 1)} would fail")
    print("nothing written; ready")


def plan(config: PretrainConfig) -> Plan:
    """Plans a pretraining: opens the data set, builds the networks, counts; writes nothing.

    Args:
        config: the settings.

    Returns:
        The plan. What cannot be used is no error but one of its `problems`.
    """
    sheet, problems = Sheet(), []

    def attempt(make: Callable, *arguments):
        """What `make` returns; or None, and a problem more."""
        try:
            return make(*arguments)
        except (UserError, OSError, tf.errors.OpError) as error:
            problems.append(" ".join(str(error).split()))
            return None

    for check in checks.settings_checks(config):
        attempt(check)
    run = RunDirectory(config.run_dir)
    attempt(_check_writable, run.path)
    attempt(run.check, "pretrain", config)
    replicas, devices = attempt(_devices, config.strategy) or (1, None)
    dataset = attempt(from_config, config)
    if dataset:
        add_data(sheet, dataset)
        for check in checks.data_checks(config, dataset, replicas):
            attempt(check)
        attempt(_check_same_data, config, run, dataset)
        attempt(_add_labels, sheet, config, dataset)
    if devices:
        add_devices(sheet, config, replicas, devices)
    _plan_training(sheet, attempt, config, dataset, replicas)
    return Plan(tuple(sheet.rows), tuple(dict.fromkeys(problems)), sheet.numbers)


def _plan_training(sheet, attempt, config, dataset, replicas):
    """What depends on the data: steps, and the networks with their memory and disk."""
    images = dataset.train.num_examples if dataset else 0
    steps = images // config.batch_size
    optimizer = attempt(_built_optimizer, config, steps) if steps else None
    if optimizer:
        add_steps(sheet, config, building.schedule_of(config, steps), images)
        add_optimizer(sheet, config, optimizer)
    size = dataset.image_size_px if dataset else config.image_size_px
    classes = len(dataset.class_names) if dataset else 2
    model = attempt(_built_model, config, size, classes) if size else None
    if model:
        add_networks(sheet, config, model)
    if model and optimizer:
        add_memory(sheet, config, model, optimizer, replicas)
        attempt(_add_disk, sheet, config, steps)


def _devices(strategy):
    """The number of replicas in all, and the names of this machine's devices that they are on."""
    tf_config = os.environ.get("TF_CONFIG", "")
    workers = 1
    if strategy == "multi_worker" or (strategy == "auto" and tf_config):
        # The strategy itself would wait for all workers.
        check_cluster(tf_config)
        cluster = json.loads(tf_config)["cluster"]
        workers = sum(len(cluster.get(job, ())) for job in ("worker", "chief"))
        here = max(1, len(tf.config.list_logical_devices("GPU")))
    else:
        here = make_strategy(strategy).num_replicas_in_sync
    kinds = (tf.config.list_logical_devices(kind) for kind in ("TPU", "GPU", "CPU"))
    devices = next(devices for devices in kinds if devices)[:here]
    return workers * here, [device.name.split("device:")[-1] for device in devices]


def _existing(path):
    """The path itself or the nearest folder above it that is there."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def _check_writable(path: Path) -> None:
    place = _existing(path if path.is_dir() else path.parent)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        reason = "may not be written to" if place.is_dir() else "is no folder"
        raise UserError(f"cannot write to run_dir {path}: {place} {reason}. Give another one.")


def _check_same_data(config, run, dataset):
    if config.resume and "pretrain" in run.stages():
        run.check_same_data("pretrain", dataset.describe())


def _add_labels(sheet, config, dataset):
    if dataset.train.num_examples > _MANY_IMAGES:
        print(f"counting the labels of {dataset.train.num_examples:,} images", file=sys.stderr)
    add_labels(sheet, config, dataset.class_names, dataset.train.labels())


def _built_optimizer(config, steps):
    """The optimizer, built for one variable of one element: it shows how many states it keeps."""
    optimizer = building.optimizer_of(config, steps)
    with tf.device("CPU:0"):
        optimizer.build([keras.Variable([[0.0]])])
    return optimizer


def _built_model(config, image_size_px, num_classes):
    """The model in the CPU's memory, with a queue of one row where there is one."""
    sized = types.SimpleNamespace(image_size_px=image_size_px)
    with tf.device("CPU:0"), initial_weights(config.seed):
        encoder, head = building.build_networks(config, sized, config.precision)
        return build_model(
            config.method,
            encoder,
            head,
            num_classes,
            config.temperature,
            config.method_args,
            queue_size=min(config.queue_size, 1),
            ema_momentum=config.ema_momentum,
        )


def _add_disk(sheet, config, steps):
    """Disk space; raises where it is too little."""
    total, every = config.epochs * steps, config.checkpoint_steps
    saved = config.epochs
    if every:
        saved += total // every - total // math.lcm(every, steps)
    kept = min(config.keep_checkpoints + bool(config.best_metric), saved)
    run, most = RunDirectory(config.run_dir), min(kept + 1, saved)
    place = _existing(run.path)
    free = shutil.disk_usage(place).free
    add_disk(sheet, kept, most, free)
    replaced = 0
    if config.resume or config.overwrite:
        files = run.checkpoints("pretrain").rglob("*")
        replaced = sum(file.stat().st_size for file in files if file.is_file())
    # As `checkpoints.save`, which leaves a tenth.
    needed = 1.1 * sheet.numbers["disk_bytes"] + 2**20
    if free + replaced < needed:
        raise UserError(
            f"the disk of {place} has {format_bytes(free)} free; the checkpoints and the encoder "
            f"take up to {format_bytes(needed)}. Free some space, or lower keep_checkpoints."
        )
