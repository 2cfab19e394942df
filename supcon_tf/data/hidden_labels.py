"""Training images whose labels are not used, for methods that learn from few labels."""

import dataclasses

import numpy as np

from supcon_tf.core.errors import UserError
from supcon_tf.data.balance import places_by_class
from supcon_tf.data.splits import ImageDataset


def hide_labels(
    dataset: ImageDataset, labels_per_class: int | None, labelled_fraction: float | None, seed: int
) -> ImageDataset:
    """Keeps the labels of some images of each class; the other training images become unlabelled.

    Args:
        dataset: the data.
        labels_per_class: images of each class that keep their label; None for no such number.
        labelled_fraction: share in (0, 1] of each class, rounded, at least one image; or None.
        seed: decides which images they are.

    Raises:
        UserError: if both are given, the fraction is out of range, or a class has fewer images.
    """
    if labels_per_class is None and labelled_fraction is None:
        return dataset
    _check_amount(labels_per_class, labelled_fraction)
    if dataset.multi_label:
        raise UserError(
            "labels_per_class and labelled_fraction are for images of one class each. Received: "
            f"dataset={dataset.name!r}, whose images have several. Leave them out."
        )
    labels = dataset.train.labels()
    found = places_by_class(labels)
    members = [found.get(label, []) for label in range(len(dataset.class_names))]
    if labels_per_class is None:
        counts = [min(len(own), max(1, round(labelled_fraction * len(own)))) for own in members]
    else:
        counts = [labels_per_class] * len(members)
    for name, own, count in zip(dataset.class_names, members, counts, strict=True):
        if count > len(own):
            raise UserError(
                f"class {name!r} has {len(own)} training images, fewer than are to be labelled. "
                f"Received: labels_per_class={count}. Lower it."
            )
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(own)[: counts[label]] for label, own in found.items() if label >= 0]
    taken = np.sort(np.concatenate(drawn))
    whole = dataset.all_images
    rest = np.setdiff1d(np.arange(whole.num_examples), taken)
    key = f"{labels_per_class} {labelled_fraction} {seed}"
    return dataclasses.replace(
        dataset,
        train=dataset.train.subset(taken, f"{dataset.train.fingerprint} {key} labelled"),
        unlabelled=whole.subset(rest, f"{whole.fingerprint} {key} rest") if len(rest) else None,
        with_unlabelled=whole,
    )


def _check_amount(labels_per_class, labelled_fraction):
    if labels_per_class is not None and labelled_fraction is not None:
        raise UserError(
            "labels_per_class and labelled_fraction are mutually exclusive. Received: "
            f"{labels_per_class} and {labelled_fraction}. Give one of them."
        )
    if labels_per_class is not None and labels_per_class < 1:
        raise UserError(f"labels_per_class must be at least 1. Received: {labels_per_class}.")
    if labelled_fraction is not None and not 0 < labelled_fraction <= 1:
        raise UserError(
            f"labelled_fraction must be above 0 and at most 1. Received: {labelled_fraction}."
        )
