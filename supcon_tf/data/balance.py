"""Classes of equal and of unequal size: balanced and repeated batches, long tails."""

from collections.abc import Callable

import numpy as np

from supcon_tf.core.errors import UserError


def places_by_class(labels: np.ndarray) -> dict[int, np.ndarray]:
    """The places of each class in `labels`, the classes in the order of their first occurrence.

    A draw class by class in this order does not depend on the names of the classes.

    Args:
        labels: int [N].
    """
    classes, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    places = np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])
    return {int(classes[at]): places[at] for at in np.argsort(first)}


def class_counts(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The number of images of each class, int64 [C]; those of unknown class are not counted.

    Args:
        labels: int [N], or bool [N, C] for images with several classes, which count in each.
        num_classes: C.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2:
        return labels.sum(axis=0)
    return np.bincount(labels[labels >= 0], minlength=num_classes)


def stratified_places(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draws images so that each class keeps its share, by the largest-remainder method.

    Args:
        labels: int [N].
        count: images to draw.
        seed: int >= 0.

    Returns:
        int [count], places in `labels`, ascending.

    Raises:
        UserError: if there are fewer images, or a class would be left without any.
    """
    members, drawn_of = list(places_by_class(labels).values()), min(count, len(labels))
    shares = np.array([len(own) for own in members]) * drawn_of / len(labels)
    counts = np.floor(shares).astype(int)
    counts[np.argsort(counts - shares, kind="stable")[: drawn_of - counts.sum()]] += 1
    if count > len(labels) or counts.min() < 1:
        raise UserError(
            f"train_images must be at most the {len(labels)} training images, and leave one of "
            f"each class. Received: {count}. Give another number."
        )
    rng = np.random.default_rng([seed, 4])
    drawn = [rng.permutation(own)[:n] for own, n in zip(members, counts, strict=True)]
    return np.sort(np.concatenate(drawn))


def balanced_order(
    labels: np.ndarray, classes_per_batch: int, images_per_class: int, seed: int
) -> Callable[[int], np.ndarray]:
    """Draws batches that hold the same number of images of each of some classes.

    In every round each class has its turn once, in an order drawn for that round. At its turn a
    class gives its next images; whenever too few are left, the order of all of them is drawn again,
    so that no image occurs twice in a batch.

    Args:
        labels: int [N].
        classes_per_batch: classes of each batch.
        images_per_class: images of each of them.
        seed: int >= 0.

    Returns:
        A function from a step to int [images_per_class * classes_per_batch], places in `labels`:
        the first image of each class, then the second of each, ...

    Raises:
        ValueError: if the classes cannot be divided into such batches, or a class has fewer images.
    """
    given = {"classes_per_batch": classes_per_batch, "images_per_class": images_per_class}
    for name, value in given.items():
        if not isinstance(value, int):
            raise ValueError(f"{name} must be a whole number. Received: {value!r}.")
    members = list(places_by_class(labels).values())
    if not 1 <= classes_per_batch <= len(members) or len(members) % classes_per_batch:
        raise ValueError(
            f"classes_per_batch must divide the {len(members)} classes. Received: "
            f"{classes_per_batch}."
        )
    smallest = min(map(len, members))
    if not 1 <= images_per_class <= smallest:
        raise ValueError(
            f"images_per_class must be from 1 to {smallest}, the images of the smallest class. "
            f"Received: {images_per_class}."
        )

    def images_of(index, turn):
        """The images that a class gives at a turn."""
        own = members[index]
        number, place = divmod(turn, len(own) // images_per_class)
        order = np.random.default_rng([seed, 1, index, number]).permutation(own)
        return order[place * images_per_class :][:images_per_class]

    def batch(step):
        turn, part = divmod(step * classes_per_batch, len(members))
        chosen = np.random.default_rng([seed, 0, turn]).permutation(len(members))
        chosen = chosen[part : part + classes_per_batch]
        return np.stack([images_of(index, turn) for index in chosen], axis=1).reshape(-1)

    return batch


def repeated_order(num_examples: int, batch_size: int, seed: int) -> Callable[[int], np.ndarray]:
    """Draws batches that continue from one permutation of the examples into the next.

    Args:
        num_examples: N.
        batch_size: images per batch; may exceed N.
        seed: int >= 0.

    Returns:
        A function from a step to int [batch_size], places below N.
    """

    def permutation(epoch):
        return np.random.default_rng([seed, 2, epoch]).permutation(num_examples)

    def batch(step):
        first, last = step * batch_size, (step + 1) * batch_size
        epochs = range(first // num_examples, (last - 1) // num_examples + 1)
        places = np.concatenate([permutation(epoch) for epoch in epochs])
        skipped = first - epochs[0] * num_examples
        return places[skipped : skipped + batch_size]

    return batch


def long_tail(labels: np.ndarray, imbalance_factor: float, seed: int) -> np.ndarray:
    """Draws images so that the classes' sizes fall exponentially.

        n_c = floor(n factor^(-c / (C - 1)))

    images of class c = 0 .. C - 1 are drawn, where n is the size of the smallest class: the first
    class keeps n images and the last one n / factor.

    Args:
        labels: int [N], from 0 to C - 1 with C >= 2.
        imbalance_factor: at least 1.
        seed: int >= 0, from which the images are drawn.

    Returns:
        int [n], places in `labels`, ascending.

    Raises:
        ValueError: if a class would be left without images.

    Reference:
        Cui et al. 2019, section 5.1, and Cao et al. 2019, "Learning Imbalanced Datasets with
        Label-Distribution-Aware Margin Loss" (CIFAR-10-LT and CIFAR-100-LT). Differs: they take the
        first images of a shuffled order, so the images differ.
    """
    members = [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]
    largest, last = min(map(len, members)), len(members) - 1
    counts = [int(largest * imbalance_factor ** (-label / last)) for label in range(last + 1)]
    if counts[-1] < 1:
        raise ValueError(
            f"imbalance_factor must be at most {largest}, the images of a class. Received: "
            f"{imbalance_factor:g}."
        )
    drawn = [
        np.random.default_rng([seed, 3, label]).permutation(own)[:count]
        for label, (own, count) in enumerate(zip(members, counts, strict=True))
    ]
    return np.sort(np.concatenate(drawn))
