"""Augmentations by name and their settings: how a view differs from its image.

This module loads no TensorFlow, so that a wrong setting is refused at once.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from supcon_tf.core.errors import UserError, suggestion

# The tables that `auto_augment` may name; see `supcon_tf.data.auto_augment`.
AUTO_AUGMENT_TABLES = ("imagenet", "cifar10")
_MOST_OPERATIONS = 16  # Each of them lengthens the graph.
_SWITCHES = ("flip", "alternating_flip", "trivial_augment", "centered")
_NOT_SHARES = (*_SWITCHES, "aspect", "strength", "rand_augment", "auto_augment")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How a view differs from its image; operations are applied in the order listed here.

    Attributes:
        min_area: a crop's share of the image's area is uniform from this to `max_area`; a crop that
            would stick out is made smaller.
        max_area: see `min_area`.
        aspect: a crop's width over height is between 1 / aspect and aspect.
        centered: whether crops lie in the image's centre rather than anywhere.
        shift: a view is moved by up to this share of its side, in either direction, with its
            reflection as padding; at most 0.5, and only if `min_area` is 1.
        flip: whether half of the views are mirrored left to right.
        alternating_flip: whether each image is mirrored in every other epoch, half of the images in
            the first; of several views of an image, every second one is mirrored when the others
            are not.
        strength: factor on the four colour-jitter ranges below.
        brightness: factor on the pixels, up to 1 +- this.
        contrast: factor on the distance from the image's mean grey, up to 1 +- this.
        saturation: factor on the distance from the pixel's own grey, up to 1 +- this.
        hue: rotation of the hue circle, by up to +- this share of it.
        jitter_probability: share of the views whose colours change.
        rand_augment: random operations on each view; see the function of this name for the
            operations and their ranges.
        rand_augment_magnitude: share of its range that each operation takes.
        rand_augment_probability: probability with which each of them is applied.
        auto_augment: table of learned pairs of operations, one pair for each view: "imagenet" or
            "cifar10"; '' for none.
        trivial_augment: whether one operation of random strength is applied to each view.
        grey_probability: share of the views that become grey.
        blur_probability: share of the views that are blurred.
        cutout: side of a grey square at a random place, as a share of the view's.

    Raises:
        ValueError: if a value is out of range, or two settings are mutually exclusive.

    Reference:
        Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations",
        appendix A (SimAugment: crop, flip, colours, grey, blur). Differs: the order of the colour
        changes is drawn for a batch. Alternating flip: Jordan 2024, "94% on CIFAR-10 in 3.29
        Seconds on a Single GPU". max_area: Caron et al. 2020, "Unsupervised Learning of Visual
        Features by Contrasting Cluster Assignments" (multi-crop).
    """

    min_area: float = 1.0
    max_area: float = 1.0
    aspect: float = 4 / 3
    centered: bool = False
    flip: bool = False
    alternating_flip: bool = False
    strength: float = 1.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter_probability: float = 0.8
    grey_probability: float = 0.0
    blur_probability: float = 0.0
    shift: float = 0.0
    rand_augment: int = 0
    rand_augment_magnitude: float = 1 / 3
    rand_augment_probability: float = 0.5
    auto_augment: str = ""
    trivial_augment: bool = False
    cutout: float = 0.0

    def __post_init__(self):
        self._check_kinds()
        self._check_crops()
        for name, value in dataclasses.asdict(self).items():
            if name not in _NOT_SHARES and not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1]. Received: {value}.")
        if not 0 <= max((self.strength, *self.jitter())) <= 1:
            raise ValueError(
                "strength must be at least 0, and its products with brightness, contrast, "
                f"saturation and hue at most 1. Received: {self.strength}. Lower one of them."
            )
        chosen = [bool(self.rand_augment), bool(self.auto_augment), self.trivial_augment]
        if sum(chosen) > 1:
            raise ValueError(
                "rand_augment, auto_augment and trivial_augment are mutually exclusive. Received: "
                f"{self.rand_augment}, {self.auto_augment!r} and {self.trivial_augment}."
            )
        if self.flip and self.alternating_flip:
            raise ValueError("flip and alternating_flip are mutually exclusive. Received: both.")

    def jitter(self) -> tuple[float, ...]:
        """The largest changes of brightness, contrast, saturation and hue."""
        changes = self.brightness, self.contrast, self.saturation, self.hue
        return tuple(self.strength * change for change in changes)

    def _check_kinds(self):
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            allowed = int | float if kind is float else kind
            if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
                word = {bool: "true or false", int: "a whole number", float: "a number"}
                raise ValueError(
                    f"{field.name} must be {word.get(kind, 'a word')}. Received: {value!r}."
                )
        if not 0 <= self.rand_augment <= _MOST_OPERATIONS:
            raise ValueError(
                f"rand_augment must be from 0 to {_MOST_OPERATIONS}. Received: {self.rand_augment}."
            )
        if self.auto_augment not in ("", *AUTO_AUGMENT_TABLES):
            raise ValueError(
                f"auto_augment must be one of {', '.join(AUTO_AUGMENT_TABLES)}, or ''. Received: "
                f"{self.auto_augment!r}."
            )

    def _check_crops(self):
        if not 0 < self.min_area <= self.max_area <= 1 or not 1 <= self.aspect <= 10:
            raise ValueError(
                "min_area must be above 0, max_area at least that and at most 1, aspect from 1 to "
                f"10. Received: {self.min_area}, {self.max_area} and {self.aspect}."
            )
        if not 0 <= self.shift <= (0.5 if self.min_area == 1 else 0):
            raise ValueError(
                f"shift must be in [0, 0.5], and 0 unless min_area is 1. Received: {self.shift}."
            )


_CROP_FLIP = Augmentation(0.08, flip=True)
_WEAK = Augmentation(aspect=1.0, shift=1 / 8)
_STRONG = dataclasses.replace(_WEAK, rand_augment=2, rand_augment_magnitude=1.0, cutout=0.5)
# SimAugment at full strength.
_IMAGENET = dataclasses.replace(
    _CROP_FLIP,
    brightness=0.8,
    contrast=0.8,
    saturation=0.8,
    hue=0.2,
    grey_probability=0.2,
    blur_probability=0.5,
)

AUGMENTATIONS = {
    # Digits, letters, signs: mirrored or recoloured, they may mean something else.
    "symbols": Augmentation(min_area=0.5, brightness=0.4, contrast=0.4),
    # SimAugment: at half of its strength and without blur for small images.
    "cifar": Augmentation(
        0.2, flip=True, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey_probability=0.2
    ),
    "imagenet": _IMAGENET,
    # As FixMatch and CoMatch treat CIFAR.
    "weak": dataclasses.replace(_WEAK, flip=True),
    "strong": dataclasses.replace(_STRONG, flip=True),
    # Weaker, as symbols often fill the image: less of them is turned or moved out of it.
    "weak_symbols": _WEAK,
    "strong_symbols": dataclasses.replace(_STRONG, rand_augment_magnitude=0.5),
    # As SupCon and its baselines treat ImageNet, in addition to `imagenet`.
    "crop_flip": _CROP_FLIP,
    "auto_augment": dataclasses.replace(_CROP_FLIP, auto_augment="imagenet"),
    "rand_augment": dataclasses.replace(
        _CROP_FLIP, rand_augment=2, rand_augment_magnitude=0.9, rand_augment_probability=1.0
    ),
    "stacked_rand_augment": dataclasses.replace(
        _IMAGENET, rand_augment=2, rand_augment_magnitude=1.0, rand_augment_probability=1.0
    ),
    "trivial_augment": dataclasses.replace(_CROP_FLIP, trivial_augment=True),
    # CIFAR, as cross entropy is trained on it.
    "auto_augment_cifar": dataclasses.replace(_WEAK, flip=True, auto_augment="cifar10", cutout=0.5),
    "alternating_flip": dataclasses.replace(_WEAK, shift=1 / 16, alternating_flip=True),
    "cutout": dataclasses.replace(_WEAK, flip=True, cutout=0.5),
    # The image itself; if it is not square, its central square.
    "none": Augmentation(aspect=1.0, centered=True),
}


# Shares of an image's area that small views show.
_SMALL_AREAS = 0.05, 0.14


def small_parts(augmentation: Augmentation) -> Augmentation:
    """The same augmentation of small parts of an image, for the small views of multi-crop.

    Raises:
        UserError: if it is an augmentation of the user's own, which chooses its crops itself.

    Reference:
        Caron et al. 2020, "Unsupervised Learning of Visual Features by Contrasting Cluster
        Assignments", section 3.3; the areas are those of the authors' code.
    """
    if not isinstance(augmentation, Augmentation):
        raise UserError(
            "small_views needs an augmentation by name, whose crops can be made smaller. Received: "
            "a file or a function. Leave it out, or pass another --augmentation."
        )
    least, most = _SMALL_AREAS
    return dataclasses.replace(
        augmentation, min_area=least, max_area=most, shift=0.0, centered=False
    )


def named_augmentation(name: str, changes: Mapping[str, Any] | None = None) -> Any:
    """The entry of `AUGMENTATIONS` of this name, with some of its fields changed.

    Args:
        name: the key.
        changes: values by the names of fields of `Augmentation`; refused for other entries.

    Raises:
        UserError: if the name or a field is unknown, or a value is not allowed.
    """
    if name not in AUGMENTATIONS:
        raise UserError(
            f"augmentation must be one of {', '.join(AUGMENTATIONS)}, or the path of a .keras "
            f"file. Received: {name!r}.{suggestion(name, AUGMENTATIONS)}"
        )
    found = AUGMENTATIONS[name]
    if not changes:
        return found
    if not isinstance(found, Augmentation):
        raise UserError(
            f"augmentation_args has no effect on augmentation {name}. Received: {dict(changes)}. "
            "Leave it out."
        )
    known = [field.name for field in dataclasses.fields(Augmentation)]
    for field in changes:
        if field not in known:
            raise UserError(
                f"augmentation_args must be among {', '.join(known)}. Received: {field!r}."
                f"{suggestion(field, known)}"
            )
    try:
        return dataclasses.replace(found, **changes)
    except ValueError as error:
        raise UserError(f"augmentation_args: {error}") from error
