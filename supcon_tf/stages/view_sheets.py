"""Sheets of training images and their views, so that a person sees what the network sees."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from supcon_tf.config import PretrainConfig, ShowViewsConfig
from supcon_tf.core.files import writing
from supcon_tf.data.datasets import from_config, naming_lost_images
from supcon_tf.data.images import decode
from supcon_tf.data.own_augmentation import augmentation_of
from supcon_tf.data.splits import Split
from supcon_tf.data.views import Position, Views, views_of_elements
from supcon_tf.methods.spec import kinds_of

_LEAST_CELL_PX, _GAP_PX, _WHITE = 64, 4, 255


def show_views(config: ShowViewsConfig, pretraining: PretrainConfig) -> tuple[int, int]:
    """Writes a sheet: one training image per row, first the image itself and then its views.

    The images are spread evenly over the training split.

    Args:
        config: where to write, and how many images.
        pretraining: the data, and how views are made; a method's own views (`weak` and `strong` of
            CoMatch) are not shown.

    Returns:
        The height and width of the sheet in pixels.

    Raises:
        UserError: if a setting is wrong, or the data cannot be read.
    """
    augmentation_of(pretraining)  # Before the data, which may take long.
    dataset = from_config(pretraining)
    side = dataset.image_size_px
    kinds = kinds_of(pretraining, side)
    kinds = (kinds,) if isinstance(kinds, Views) else kinds
    part = dataset.all_images.spread(config.num_images)
    with naming_lost_images(part):
        originals = [_whole(encoded, side) for encoded, _ in part.records()]
        views = _views_of(part, kinds, Position(pretraining.seed, config.step))
    rows = [
        [original, *(view for of_one_size in views for view in of_one_size[number])]
        for number, original in enumerate(originals)
    ]
    sheet = arrange(rows, side)
    with writing(Path(config.output_file)) as temporary:
        temporary.write_bytes(tf.io.encode_png(sheet).numpy())
    return sheet.shape[:2]


def _whole(encoded, side):
    """A whole image within a square, float32 [S, S, 3] in [0, 1]; the rest is black."""
    image = tf.image.resize_with_pad(decode(encoded), side, side, antialias=True)
    return image.numpy() / 255


def _views_of(part: Split, kinds: Sequence[Views], position: Position) -> list[np.ndarray]:
    """Views float32 [N, V, S, S, 3] of all images, of each size."""
    elements = part.ordered(places=part.held is not None)
    stream = views_of_elements(part, elements, kinds, part.num_examples, position)
    views, _ = next(iter(stream))
    return [one.numpy() for one in views]


def arrange(rows: Sequence[Sequence[np.ndarray]], side_px: int) -> np.ndarray:
    """Puts images into cells of one size, with white between them.

    Args:
        rows: images float [s, s, 3] in [0, 1], s <= S; a smaller one lies in its cell's corner.
        side_px: side S of the largest; small images are magnified to 64 pixels or more.

    Returns:
        uint8 [H, W, 3].
    """
    factor = math.ceil(_LEAST_CELL_PX / side_px)
    pitch = factor * side_px + _GAP_PX
    shape = [len(rows) * pitch + _GAP_PX, len(rows[0]) * pitch + _GAP_PX, 3]
    sheet = np.full(shape, _WHITE, np.uint8)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            levels = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
            magnified = levels.repeat(factor, axis=0).repeat(factor, axis=1)
            top, left = _GAP_PX + row * pitch, _GAP_PX + column * pitch
            sheet[top : top + len(magnified), left : left + len(magnified)] = magnified
    return sheet
