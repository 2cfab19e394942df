"""The plan of a pretraining run: its data, steps and memory, and every check that would fail."""

import dataclasses
import math
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from supcon_tf.config import PretrainConfig
from supcon_tf.core.errors import UserError
from supcon_tf.core.files import format_bytes
from supcon_tf.engine.devices import check_cluster, make_strategy
from supcon_tf.networks.initial import initial_weights
from supcon_tf.stages import building, checks
from supcon_tf.stages.estimates import images_at_once, memory_bytes
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


@dataclasses.dataclass(frozen=True)
class Plan:
    """The result of `plan`.

    Attributes:
        rows: name and value, as they are shown; a name of '' continues the row above.
        problems: a line for every check that would fail.
        numbers: the values in the rows, by name: sizes in bytes, chances as shares of 1. Values
            that a failed check leaves unknown are missing.
    """

    rows: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]
    numbers: dict[str, Any]


def print_plan(config: PretrainConfig) -> None:
    """Prints the plan of a pretraining run and every check that would fail.

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
    """Plans a pretraining run: opens the data set, builds the networks, counts; writes nothing.

    Args:
        config: the settings.

    Returns:
        The plan. Whatever cannot be used is not an error but one of its `problems`.
    """
    planner = _Planner(config)
    planner.check()
    planner.describe()
    sheet = planner.sheet
    return Plan(tuple(sheet.rows), tuple(dict.fromkeys(planner.problems)), sheet.numbers)


class _Planner:
    """Collects rows, numbers and problems; each part needs the results of those before it."""

    def __init__(self, config: PretrainConfig):
        self.config, self.sheet, self.problems = config, Sheet(), []
        self.run = RunDirectory(config.run_dir)
        self.replicas, self.devices, self.dataset, self.batch = 1, None, None, None

    def attempt(self, make: Callable, *arguments):
        """Returns `make(*arguments)`; or None, and adds a problem."""
        try:
            return make(*arguments)
        except (UserError, OSError, tf.errors.OpError) as error:
            self.problems.append(" ".join(str(error).split()))
            return None

    def check(self) -> None:
        """Finds every fault that would stop the training, and opens the data."""
        for check in checks.settings_checks(self.config):
            self.attempt(check)
        self.attempt(_check_writable, self.run.path)
        with self.run:
            self.attempt(self.run.check, "pretrain", self.config)
        self.replicas, self.devices = self.attempt(_devices, self.config.strategy) or (1, None)
        self.dataset = self.attempt(self.run.open_checked, self.config)
        if self.dataset:
            found = self.config, self.dataset, self.replicas
            batches = [self.attempt(check) for check in checks.data_checks(*found)]
            self.batch = next(filter(None, batches), None)
            self.attempt(self._check_same_data)

    def _check_same_data(self):
        if self.config.resume and "pretrain" in self.run.stages():
            self.run.check_same_data("pretrain", self.dataset.describe())

    def describe(self) -> None:
        """Adds the rows for which everything needed is known."""
        sheet, config, dataset = self.sheet, self.config, self.dataset
        if dataset:
            add_data(sheet, dataset)
        if self.devices:
            add_devices(sheet, config, self.replicas, self.devices)
        steps = building.steps_per_epoch_of(config, dataset) if self.batch else 0
        optimizer = self.attempt(_built_optimizer, config, steps) if steps else None
        if optimizer:
            schedule = building.schedule_of(config, steps)
            add_steps(sheet, config, schedule, steps)
            add_optimizer(sheet, config, optimizer)
        size = dataset.image_size_px if dataset else config.image_size_px
        kinds = (len(dataset.class_names), dataset.multi_label) if dataset else (2, False)
        model = self.attempt(_built_model, config, size, *kinds) if size else None
        if model:
            add_networks(sheet, config, model)
        if model and dataset:
            add_labels(sheet, config, model, dataset)
        if model and optimizer and self.batch:
            self._add_memory(model, optimizer)
            self.attempt(self._add_disk, steps)

    def _add_memory(self, model, optimizer):
        images = images_at_once(self.batch, self.config.micro_batch_size, self.replicas)
        sizes = memory_bytes(self.config, model, optimizer, self.batch, self.replicas)
        add_memory(self.sheet, self.config, sizes, images)

    def _add_disk(self, steps):
        """Disk space; raises if there is too little."""
        config, total = self.config, self.config.epochs * steps
        every, saved = config.checkpoint_steps, config.epochs
        if every:
            saved += total // every - total // math.lcm(every, steps)
        kept = min(config.keep_checkpoints + bool(config.best_metric), saved)
        place = _existing(self.run.path)
        free = shutil.disk_usage(place).free
        held = ("weight_bytes", "optimizer_bytes", "ema_bytes", "queue_bytes")
        one = sum(self.sheet.numbers[name] for name in held)
        add_disk(self.sheet, one, kept, min(kept + 1, saved), free)
        replaced = 0
        if config.resume or config.overwrite:
            files = self.run.checkpoints("pretrain").rglob("*")
            replaced = sum(file.stat().st_size for file in files if file.is_file())
        # As in `checkpoints.save`, which allows a tenth more.
        needed = 1.1 * self.sheet.numbers["disk_bytes"] + 2**20
        if free + replaced < needed:
            raise UserError(
                f"the disk of {place} has {format_bytes(free)} free; the checkpoints and the "
                f"encoder take up to {format_bytes(needed)}. Free some space, or lower "
                "keep_checkpoints."
            )


def _devices(strategy):
    """The number of replicas in all, and the names of this machine's devices that they are on."""
    tf_config = os.environ.get("TF_CONFIG", "")
    workers = 1
    if strategy == "multi_worker" or (strategy == "auto" and tf_config):
        # The strategy itself would wait for all workers.
        cluster = check_cluster(tf_config)
        workers = sum(len(cluster.get(job, ())) for job in ("worker", "chief"))
        here = max(1, len(tf.config.list_logical_devices("GPU")))
    else:
        here = make_strategy(strategy).num_replicas_in_sync
    kinds = (tf.config.list_logical_devices(kind) for kind in ("TPU", "GPU", "CPU"))
    devices = next(devices for devices in kinds if devices)[:here]
    return workers * here, [device.name.split("device:")[-1] for device in devices]


def _existing(path):
    """The path itself or the nearest folder above it that exists."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def _check_writable(path: Path) -> None:
    place = _existing(path if path.is_dir() else path.parent)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        reason = "may not be written to" if place.is_dir() else "is not a folder"
        raise UserError(f"cannot write to run_dir {path}: {place} {reason}. Give another one.")


def _built_optimizer(config, steps):
    """The optimizer, built for one variable of one element: this shows how many states it keeps."""
    optimizer = building.optimizer_of(config, steps)
    with tf.device("CPU:0"):
        optimizer.build([keras.Variable([[0.0]])])
    return optimizer


def _built_model(config, image_size_px, num_classes, multi_label):
    """The model in the CPU's memory; if it has a queue, with one row."""
    small = config.replace(queue_size=min(config.queue_size, 1))
    with tf.device("CPU:0"), initial_weights(config.seed):
        encoder = building.encoder_of(config, image_size_px, config.precision)
        return building.method_of(small, encoder, num_classes, 1, multi_label=multi_label)
