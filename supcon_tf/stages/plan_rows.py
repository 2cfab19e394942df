"""The rows of a plan: each function adds those of one kind, in words and numbers."""

import math
import sys

import numpy as np

from supcon_tf.config import PretrainConfig
from supcon_tf.core.files import format_bytes
from supcon_tf.data.balance import class_counts
from supcon_tf.data.splits import ImageDataset
from supcon_tf.engine import precision
from supcon_tf.engine.method import Method
from supcon_tf.stages import building
from supcon_tf.stages.estimates import (
    chance_alone,
    expected_positives,
    share_of_pairs_in_common,
)

# Above it, counting the labels is announced: it may take minutes.
_MANY_IMAGES = 100_000


class Sheet:
    """Rows of name and value, and the numbers in them by names of their own."""

    def __init__(self):
        self.rows, self.numbers = [], {}

    def add(self, name: str, value: str, **numbers) -> None:
        """Adds a row."""
        self.rows.append((name, value))
        self.numbers |= numbers


def _percent(share):
    return "below 0.001 %" if 0 < share < 1e-5 else f"{100 * share:.3g} %"


def add_data(sheet: Sheet, dataset: ImageDataset) -> None:
    """The splits."""
    sizes = {
        "train_images": dataset.train.num_examples,
        "unlabelled_images": dataset.unlabelled.num_examples if dataset.unlabelled else 0,
        "validation_images": dataset.validation.num_examples if dataset.validation else 0,
        "test_images": dataset.test.num_examples,
    }
    text = "{train_images:,} training, "
    text += "{unlabelled_images:,} unlabelled, " * (dataset.unlabelled is not None)
    text += "{validation_images:,} validation, {test_images:,} held-out"
    side, bad = dataset.image_size_px, len(dataset.bad_images)
    left_out = f"; {bad} unreadable left out" * bool(bad)
    value = f"{text.format(**sizes)} images of {side} x {side} pixels{left_out}"
    sheet.add("data set", f"{dataset.name}: {value}", **sizes, bad_images=bad)
    splits = (dataset.all_images, dataset.validation)
    held = sum(split.held_bytes(side) for split in splits if split is not None)
    how = f"once, and held in up to {format_bytes(held)} of memory" if held else "in every epoch"
    sheet.add("  images are decoded", how, held_bytes=held)
    for remark in dataset.remarks:
        sheet.add("", remark)


def add_devices(sheet: Sheet, config: PretrainConfig, replicas: int, names: list[str]) -> None:
    """The method, devices and arithmetic."""
    batch = f"{config.batch_size:,} images x {config.views_per_image()} views per step"
    sheet.add("method", f"{config.method}, {batch}, augmented as {config.augmentation}")
    where = f"{replicas}, here on {', '.join(names)}"
    sheet.add("replicas", where, replicas=replicas)
    scaled = ", with loss scaling" * (config.precision == "mixed_float16")
    sheet.add("precision", config.precision + scaled)
    slowness = precision.slowness_warning(config.precision)
    if slowness:
        sheet.add("", slowness)
    compiled = building.is_compiled(config, replicas)
    how = "with XLA" if compiled else "without XLA"
    sheet.add("train step", f"{how} (compile={config.compile})", compiled=compiled)


def add_steps(sheet: Sheet, config: PretrainConfig, schedule, steps: int) -> None:
    """Steps and learning rate."""
    total, warmup, peak = schedule.total_steps, schedule.warmup_steps, schedule.peak
    value = f"{total:,}: {config.epochs:,} epochs of {steps:,}"
    sheet.add("steps", value, steps_per_epoch=steps, total_steps=total)
    epochs = round(warmup / steps, 2)
    rise = f"rises from 0 in {warmup:,} steps ({epochs:,g} epochs) to " * bool(warmup)
    sheet.add("learning rate", f"{rise}{peak:g}", warmup_steps=warmup, peak_rate=peak)
    last = float(schedule(total - 1))
    at = ", ".join(f"{step:,}" for step in schedule.decay_steps)
    falls = f"falls along a cosine to {float(schedule(total)):g} at step {total:,}"
    then = {
        "cosine": falls,
        "partial_cosine": falls,
        "step": f"is multiplied by {schedule.decay_rate:g} at step {at}",
        "exponential": f"is multiplied by {schedule.decay_rate:g} every {at} steps",
        "constant": "stays there",
    }[schedule.kind]
    sheet.add("  after that", f"{then}; {last:.4g} in the last step", last_rate=last)


def add_optimizer(sheet: Sheet, config: PretrainConfig, optimizer) -> None:
    """The optimizer and what it does to gradients."""
    momentum = getattr(optimizer, "momentum", None)
    parts = [config.optimizer]
    if momentum is not None:
        parts.append(f"momentum {momentum:g}{' (Nesterov)' * config.nesterov}")
    parts.append(f"weight decay {config.weight_decay:g} of kernels")
    clip = config.clip_norm
    parts.append("no clipping" if clip is None else f"gradient clipped to norm {clip:g}")
    sheet.add("optimizer", ", ".join(parts))


def add_networks(sheet: Sheet, config: PretrainConfig, model: Method) -> None:
    """Parameters."""
    encoder, features = model.encoder.count_params(), model.encoder.output_shape[-1]
    own = {id(weight) for weight in model.encoder.weights}
    heads = sum(math.prod(w.shape) for w in model.trainable_weights if id(w) not in own)
    origin = config.initial_run or config.encoder_weights
    begun = f"; begins from {origin}" if origin else ""
    value = f"{config.encoder}: {encoder:,} parameters, {features:,} features{begun}"
    sheet.add("encoder", value, encoder_parameters=encoder)
    sheet.add("heads", f"{heads:,} parameters", head_parameters=heads)


def add_labels(sheet: Sheet, config: PretrainConfig, model: Method, dataset: ImageDataset) -> None:
    """Classes, and what the labels of a batch can be expected to hold."""
    if dataset.train.num_examples > _MANY_IMAGES:
        print(f"counting the labels of {dataset.train.num_examples:,} images", file=sys.stderr)
    labels = dataset.train.labels()
    if dataset.multi_label:
        _add_several(sheet, config, model, dataset, labels)
        return
    found, counts = np.unique(labels, return_counts=True)
    names = [dataset.class_names[label] if label >= 0 else "unlabelled" for label in found]
    spread = f"{counts.min():,} / {np.median(counts):,.0f} / {counts.max():,}"
    spread += f"; smallest: {names[counts.argmin()]!r}"
    missing = len(dataset.class_names) - np.sum(found >= 0)
    absent = f" ({missing} not in training)" * bool(missing)
    sheet.add(
        "classes",
        f"{len(dataset.class_names):,}{absent}; images of each, least / median / most: {spread}",
        classes=len(dataset.class_names),
        images_per_class=dict(zip(names, counts.tolist(), strict=True)),
    )
    loss, views = getattr(model, "pairwise_loss", None), config.views_per_image()
    if loss is None or config.batch_size > counts.sum():
        return
    if getattr(loss, "uses_labels", True) and config.classes_per_batch:
        _add_balanced_positives(sheet, config, loss)
    elif getattr(loss, "uses_labels", True):
        _add_positives(sheet, config, loss, names, counts)
    else:
        _add_views_alone(sheet, views)


def _add_views_alone(sheet, views) -> None:
    sheet.add("positives per anchor", f"{views - 1}: labels are not used", positives=views - 1)
    without = float(views == 1)
    sheet.add("  anchors without any", _percent(without), share_without_positive=without)


def _add_several(sheet, config, model, dataset, labels) -> None:
    """Classes and positives of images that have several classes each."""
    counts, each = class_counts(labels, len(dataset.class_names)), labels.sum(axis=1)
    names = dataset.class_names
    spread = f"{counts.min():,} / {np.median(counts):,.0f} / {counts.max():,}"
    sheet.add(
        "classes",
        f"{len(names):,}; images of each, least / median / most: {spread}; smallest: "
        f"{names[counts.argmin()]!r}",
        classes=len(names),
        images_per_class=dict(zip(names, counts.tolist(), strict=True)),
    )
    value = f"{each.mean():.2f} on average, from {each.min()} to {each.max()}"
    sheet.add("classes per image", value, classes_per_image=float(each.mean()))
    loss, views = getattr(model, "pairwise_loss", None), config.num_views
    if loss is None or config.batch_size > len(labels):
        return
    if not getattr(loss, "uses_labels", True):
        _add_views_alone(sheet, views)
        return
    positives = views - 1 + views * (config.batch_size - 1) * share_of_pairs_in_common(labels)
    value = f"{positives:,.1f} expected, with a class in common; weighted by their overlap"
    sheet.add("positives per anchor", value, positives=float(positives))


def _add_balanced_positives(sheet, config, loss) -> None:
    images, views = config.images_per_class, config.views_per_image()
    positives = images if getattr(loss, "pairs_views", False) else images * views - 1
    value = f"{positives}: batches of {config.classes_per_batch} classes x {images} images"
    sheet.add("positives per anchor", value, positives=float(positives))
    without = float(positives == 0)
    sheet.add("  anchors without any", _percent(without), share_without_positive=without)


def _add_positives(sheet, config, loss, names, counts) -> None:
    views = config.views_per_image()
    # Some losses contrast the first view with the second alone.
    paired = getattr(loss, "pairs_views", False)
    expected = paired + expected_positives(counts, config.batch_size, 1 if paired else views)
    mean, least = np.average(expected, weights=counts), np.argmin(expected)
    queued = config.queue_size * np.sum((counts / counts.sum()) ** 2)
    sheet.add(
        "positives per anchor",
        f"{mean:,.1f} expected (fewest in class {names[least]!r}: {expected[least]:,.1f})"
        + f"; about {queued:,.1f} more in a full queue" * bool(config.queue_size),
        positives=float(mean),
        positives_by_class=dict(zip(names, expected.tolist(), strict=True)),
    )
    alone = chance_alone(counts, config.batch_size)
    mean, most = np.average(alone, weights=counts), np.argmax(alone)
    without = float(mean) if views == 1 else 0.0
    why = ": the other views of an anchor's image are positives" * (views > 1)
    sheet.add("  anchors without any", _percent(without) + why, share_without_positive=without)
    sheet.add(
        "  only one of their class in a batch",
        f"{_percent(mean)} (most in class {names[most]!r}: {_percent(alone[most])})",
        chance_alone=float(mean),
        chance_alone_by_class=dict(zip(names, alone.tolist(), strict=True)),
    )


def add_memory(sheet: Sheet, config: PretrainConfig, sizes: dict[str, int], images: int) -> None:
    """Memory of each replica, by what it is for.

    Args:
        sheet: where the rows go.
        config: the settings.
        sizes: as from `memory_bytes`.
        images: views that a replica encodes at once.
    """
    total = sum(sizes.values())
    value = f"about {format_bytes(total)}, an estimate:"
    sheet.add("memory of each replica", value, **sizes, memory_bytes=total)
    rows = {
        "activation_bytes": f"activations of {images:,} views encoded at once",
        "block_bytes": "similarities, at most",
        "weight_bytes": "weights",
        "gradient_bytes": "gradients",
        "optimizer_bytes": "optimizer",
        "ema_bytes": "moving average",
        "queue_bytes": f"queue of {config.queue_size:,} embeddings",
        "views_bytes": "views of one batch",
    }
    for name, text in rows.items():
        if sizes[name]:
            sheet.add("", f"{format_bytes(sizes[name]):>10}  {text}")


def add_disk(sheet: Sheet, one: int, kept: int, most: int, free: int) -> None:
    """Disk space; to be called after `add_networks`.

    Args:
        sheet: where the rows go.
        one: bytes of a checkpoint.
        kept: checkpoints kept in the end.
        most: checkpoints that exist at once.
        free: free bytes.
    """
    needed = most * one + 4 * sheet.numbers["encoder_parameters"]
    numbers = {"checkpoint_bytes": one, "kept_bytes": kept * one, "disk_bytes": needed}
    sheet.add("disk for checkpoints", f"{format_bytes(free)} free:", free_bytes=free, **numbers)
    sheet.add("", f"{format_bytes(one):>10}  each")
    sheet.add("", f"{format_bytes(kept * one):>10}  for those kept: {kept:,}")
    sheet.add("", f"{format_bytes(needed):>10}  at most, with the encoder")
