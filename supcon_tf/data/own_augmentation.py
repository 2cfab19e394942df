"""Augmentations of the user's own: a function of an image and a seed, or a Keras model."""

import os
import zipfile
from collections.abc import Callable

import keras
import tensorflow as tf

from supcon_tf.config import PretrainConfig
from supcon_tf.core.errors import UserError
from supcon_tf.data.images import central_square
from supcon_tf.data.policies import Augmentation, named_augmentation

# From an image float32 [H, W, 3] in [0, 1] and a seed int64 [2] to a view float32 [H', W', 3].
ImageFunction = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def augmentation_of(config: PretrainConfig) -> Augmentation | ImageFunction | keras.Layer:
    """The augmentation that a configuration names: of `AUGMENTATIONS`, or a `.keras` file.

    Raises:
        UserError: if it is unknown, cannot be loaded, or its arguments are wrong.
    """
    if not config.augmentation.endswith(".keras"):
        return named_augmentation(config.augmentation, config.augmentation_args)
    if config.augmentation_args:
        raise UserError(
            "augmentation_args has no effect on an augmentation from a file. Received: "
            f"{config.augmentation_args}. Leave it out."
        )
    return _load(config.augmentation)


def _load(path):
    if not os.path.isfile(path):
        raise UserError(f"augmentation not found. Received: {path!r}. Check the path.")
    advice = "Give a .keras file that Keras saved, of a model from images to images of 3 channels."
    if not zipfile.is_zipfile(path):
        raise UserError(f"augmentation is not a .keras file. Received: {path!r}. {advice}")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        _checked_view(model(tf.zeros([1, 32, 32, 3]), training=True)[0])
    except Exception as error:  # Whatever the model's own layers raise.
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"augmentation cannot be used. Received: {path!r} ({reason}). {advice}"
        ) from error
    return model


def own_views(augmentation, images, count, size_px, seed, first=0):
    """Views that a function or a Keras layer of the user makes, one at a time.

    Each view has a seed of its own, which depends on the place of its image in the whole batch; so
    it is the same whichever worker makes the rest of the batch.

    Args:
        augmentation: an `ImageFunction`, or a built Keras layer or model from images [1, S, S, 3]
            to [1, H, W, 3], whose random numbers then come from the seed.
        images: float32 [n, H, W, 3] in [0, 1].
        count: views V of each image.
        size_px: side S of a view; one of a different size is resized.
        seed: int64 [2], of the whole batch.
        first: place of the first image in the whole batch.

    Returns:
        float32 [n * V, S, S, 3], clipped to [0, 1], image-major.

    Raises:
        ValueError: if the augmentation does not return an image of 3 channels.
    """
    if isinstance(augmentation, keras.Layer):
        # Keras's layers need to know the size.
        images, function = central_square(images, size_px), _seeded(augmentation)
    else:
        function = tf.function(augmentation)  # It may use Python's `if` and `for` on tensors.

    def one_view(place):
        image = images[place // count]
        whole_place = tf.cast(first * count + place, tf.int64)
        view = _checked_view(function(image, tf.random.fold_in(seed, whole_place)))
        view = tf.image.resize(view, [size_px, size_px])  # A view of that size is unchanged.
        return tf.clip_by_value(tf.ensure_shape(view, [size_px, size_px, 3]), 0.0, 1.0)

    places = tf.range(tf.shape(images)[0] * count)
    signature = tf.TensorSpec([size_px, size_px, 3], tf.float32)
    return tf.map_fn(one_view, places, fn_output_signature=signature)


def _checked_view(view):
    view = tf.convert_to_tensor(view)
    if view.shape.rank != 3 or view.shape[-1] not in (3, None) or not view.dtype.is_floating:
        raise ValueError(
            "augmentation must return a float image [H, W, 3]. Received: "
            f"{view.dtype.name} {view.shape}."
        )
    return view


def _seeded(layer):
    """A Keras layer as a function of image and seed: its generators' states are set for a call."""
    weights = {id(weight) for weight in layer.weights}

    def function(image, seed):
        # Read in the call: a layer may make its generators when it is built, as its weights.
        generators = [one for one in layer.variables if id(one) not in weights]
        states = [
            (state, tf.cast(tf.random.fold_in(seed, number), state.dtype))
            for number, state in enumerate(generators)
        ]
        with keras.StatelessScope(state_mapping=states):
            return layer(image[None], training=True)[0]

    return function
