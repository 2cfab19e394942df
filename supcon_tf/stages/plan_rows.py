"""The rows of a plan: each function adds what one kind of thing will be, in words and numbers."""

import math

import keras
import numpy as np

from supcon_tf.config import PretrainConfig
from supcon_tf.data.datasets import ImageDataset
from supcon_tf.engine.model import ContrastiveModel
from supcon_tf.engine.schedules import WarmupSchedule
from supcon_tf.methods import LOSSES
from supcon_tf.stages.building import is_compiled
from supcon_tf.stages.estimates import (
    activation_bytes,
    block_bytes,
    chance_alone,
    expected_positives,
    format_bytes,
    state_bytes,
)

# Arrays of the size of a block that a loss holds at a time, about.
_ARRAYS_OF_A_BLOCK = 4


class Sheet:
    """Rows of name and value, and the numbers in them by a name of their own."""

    def __init__(self):
        self.rows, self.numbers = [], {}

    def add(self, name: str, value: str, **numbers) -> None:
        """Adds a row."""
        self.rows.append((name, value))
        self.numbers |= numbers


def _percent(share):
    return "below 0.001 %" if 0 < share < 1e-5 else f"{100 * share:.3g} %"


def add_devices(sheet: Sheet, config: PretrainConfig, replicas: int, names: list[str]) -> None:
    """The method, devices and arithmetic.

    Args:
        sheet: where the rows go.
        config: the settings.
        replicas: replicas in all.
        names: this machine's devices.
    """
    batch = f"{config.batch_size:,} images x {config.num_views} views a step"
    sheet.add("method", f"{config.method}, {batch}, augmented as {config.augmentation}")
    sheet.add("replicas", f"{replicas}, here on {', '.join(names)}", replicas=replicas)
    scaled = ", with loss scaling" * (config.precision == "mixed_float16")
    sheet.add("precision", config.precision + scaled)
    how = "with XLA" if is_compiled(config, replicas) else "without XLA"
    sheet.add("train step", f"{how} (compile={config.compile})", compiled=how == "with XLA")


def add_data(sheet: Sheet, dataset: ImageDataset) -> None:
    """The splits."""
    held = dataset.validation.num_examples if dataset.validation else 0
    sizes = {
        "train_images": dataset.train.num_examples,
        "validation_images": held,
        "test_images": dataset.test.num_examples,
    }
    splits = "{train_images:,} training, {validation_images:,} validation, {test_images:,} test"
    side, bad = dataset.image_size_px, len(dataset.bad_images)
    left_out = f"; {bad} unreadable left out" * bool(bad)
    value = f"{splits.format(**sizes)} images of {side} x {side} pixels{left_out}"
    sheet.add("data set", f"{dataset.name}: {value}", **sizes, bad_images=bad)


def add_labels(sheet: Sheet, config: PretrainConfig, class_names, labels: np.ndarray) -> None:
    """Classes, and what the labels of a batch can be expected to hold.

    Args:
        sheet: where the rows go.
        config: the settings.
        class_names: name of each label.
        labels: int [N], of the training split.
    """
    found, counts = np.unique(labels, return_counts=True)
    names = [class_names[label] if label >= 0 else "unlabelled" for label in found]
    spread = f"{counts.min():,} / {np.median(counts):,.0f} / {counts.max():,}"
    missing = len(class_names) - np.sum(found >= 0)
    absent = f" ({missing} not in training)" * bool(missing)
    sheet.add(
        "classes",
        f"{len(class_names):,}{absent}; images of each, least / median / most: {spread}",
        classes=len(class_names),
        images_per_class=dict(zip(names, counts.tolist(), strict=True)),
    )
    if config.method == "simclr":
        _add_positives_of_views(sheet, config.num_views)
    elif config.method in LOSSES and config.batch_size <= counts.sum():
        _add_positives(sheet, config, names, counts)


def _add_positives_of_views(sheet, views):
    alone = float(views == 1)
    sheet.add("positives per anchor", f"{views - 1}: labels are not used", positives=views - 1)
    sheet.add("  anchors without any", _percent(alone), share_without_positive=alone)


def _add_positives(sheet, config, names, counts):
    views = config.num_views
    # N-pairs contrasts the first view with the second alone.
    paired = config.method == "npairs"
    expected = paired + expected_positives(counts, config.batch_size, 1 if paired else views)
    mean, least = np.average(expected, weights=counts), np.argmin(expected)
    queued = config.queue_size * np.sum((counts / counts.sum()) ** 2)
    cap = config.method_args.get("positives_cap")
    sheet.add(
        "positives per anchor",
        f"{mean:,.1f} expected (fewest in class {names[least]!r}: {expected[least]:,.1f})"
        + f"; about {queued:,.1f} more in a full queue" * bool(config.queue_size)
        + f"; positives_cap keeps at most {cap} beside the own views" * (cap is not None),
        positives=float(mean),
        positives_by_class=dict(zip(names, expected.tolist(), strict=True)),
    )
    alone = chance_alone(counts, config.batch_size)
    mean, most = np.average(alone, weights=counts), np.argmax(alone)
    without = float(mean) if views == 1 else 0.0
    why = ": other views of its image are there" * (views > 1)
    sheet.add("  anchors without any", _percent(without) + why, share_without_positive=without)
    sheet.add(
        "  images alone of their class",
        f"{_percent(mean)} (most in class {names[most]!r}: {_percent(alone[most])})",
        chance_alone=float(mean),
        chance_alone_by_class=dict(zip(names, alone.tolist(), strict=True)),
    )


def add_steps(sheet: Sheet, config: PretrainConfig, schedule: WarmupSchedule, images: int) -> None:
    """Steps and learning rate.

    Args:
        sheet: where the rows go.
        config: the settings.
        schedule: of the whole run.
        images: training images.
    """
    steps, left_over = divmod(images, config.batch_size)
    total, warmup, peak = schedule.total_steps, schedule.warmup_steps, schedule.peak
    value = f"{config.epochs:,} epochs of {steps:,}; {left_over:,} images of each left over"
    sheet.add("steps", f"{total:,}: {value}", steps_per_epoch=steps, total_steps=total)
    rise = f"rises from 0 in {warmup:,} steps ({round(warmup / steps, 2):,g} epochs) to " * bool(
        warmup
    )
    sheet.add("learning rate", f"{rise}{peak:g}", warmup_steps=warmup, peak_rate=peak)
    last = float(schedule(total - 1))
    at = ", ".join(f"{step:,}" for step in schedule.decay_steps)
    then = {
        "cosine": f"falls along a cosine to {schedule.floor * peak:g} at step {total:,}",
        "step": f"is multiplied by {schedule.decay_rate:g} at step {at}",
        "exponential": f"is multiplied by {schedule.decay_rate:g} every {at} steps",
        "constant": "stays there",
    }[schedule.kind]
    sheet.add("  after that", f"{then}; {last:.4g} in the last step", last_rate=last)


def add_optimizer(sheet: Sheet, config: PretrainConfig, optimizer) -> None:
    """The optimizer and what it does to gradients."""
    momentum, clip = getattr(optimizer, "momentum", None), config.clip_norm
    parts = [config.optimizer]
    if momentum is not None:
        parts.append(f"momentum {momentum:g}{' (Nesterov)' * config.nesterov}")
    parts.append(f"weight decay {config.weight_decay:g} of kernels")
    parts.append("no clipping" if clip is None else f"gradient clipped to norm {clip:g}")
    sheet.add("optimizer", ", ".join(parts))


def add_networks(sheet: Sheet, config: PretrainConfig, model: ContrastiveModel) -> None:
    """Parameters."""
    encoder, features = model.encoder.count_params(), model.encoder.output_shape[-1]
    own = {id(weight) for weight in model.encoder.weights}
    head = sum(math.prod(w.shape) for w in model.trainable_weights if id(w) not in own)
    value = f"{config.encoder}: {encoder:,} parameters, {features:,} features"
    sheet.add("encoder", value, encoder_parameters=encoder)
    name = "projection head" if config.method in LOSSES else "head"
    sheet.add(name, f"{head:,} parameters", head_parameters=head)


def add_memory(
    sheet: Sheet,
    config: PretrainConfig,
    model: ContrastiveModel,
    optimizer: keras.optimizers.Optimizer,
    replicas: int,
) -> None:
    """Memory of each replica, by what it is for.

    Args:
        sheet: where the rows go.
        config: the settings.
        model: of those settings, but with a queue of one row.
        optimizer: built for a single variable of shape [1, 1].
        replicas: replicas in all.
    """
    share, views = config.batch_size // replicas, config.num_views
    at_once = min(config.micro_batch_size or share, share) * views
    sizes = _memory_bytes(config, model, optimizer, share, at_once)
    total = sum(sizes.values())
    value = f"about {format_bytes(total)}, an estimate:"
    sheet.add("memory of each replica", value, **sizes, memory_bytes=total)
    rows = {
        "activation_bytes": f"activations of {at_once:,} views encoded at once",
        "block_bytes": "similarities, at most",
        "weight_bytes": "weights",
        "gradient_bytes": "gradients",
        "optimizer_bytes": "optimizer",
        "ema_bytes": "moving average",
        "queue_bytes": f"queue of {config.queue_size:,} embeddings",
        "views_bytes": f"views of one batch: {share:,} images x {views}",
    }
    for name, text in rows.items():
        if sizes[name]:
            sheet.add("", f"{format_bytes(sizes[name]):>10}  {text}")


def _memory_bytes(config, model, optimizer, share, at_once):
    views = config.num_views
    sizes = {
        **state_bytes(model, optimizer, config.queue_size, bool(config.micro_batch_size)),
        "activation_bytes": at_once * activation_bytes(model.encoder),
        "block_bytes": 0,
        "views_bytes": 4 * share * views * math.prod(model.encoder.input_shape[1:]),
    }
    if config.method in LOSSES:
        block = block_bytes(model.pairwise_loss, config.batch_size, views, config.queue_size)
        sizes["block_bytes"] = _ARRAYS_OF_A_BLOCK * block
    return sizes


def add_disk(sheet: Sheet, kept: int, most: int, free: int) -> None:
    """Disk space.

    Args:
        sheet: where the rows go; `add_memory` has added its own.
        kept: checkpoints kept in the end.
        most: checkpoints there at a time.
        free: bytes.
    """
    held = ("weight_bytes", "optimizer_bytes", "ema_bytes", "queue_bytes")
    one = sum(sheet.numbers[name] for name in held)
    needed = most * one + 4 * sheet.numbers["encoder_parameters"]
    numbers = {"checkpoint_bytes": one, "kept_bytes": kept * one, "disk_bytes": needed}
    sheet.add("disk for checkpoints", f"{format_bytes(free)} free:", free_bytes=free, **numbers)
    sheet.add("", f"{format_bytes(one):>10}  each")
    sheet.add("", f"{format_bytes(kept * one):>10}  for those kept: {kept:,}")
    sheet.add("", f"{format_bytes(needed):>10}  at most, with the encoder")
