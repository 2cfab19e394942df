"""Batches as methods take them: views, labels and weights, checked and encoded."""

import functools
import inspect
import weakref

import keras
import tensorflow as tf

from supcon_tf.engine.workers import num_replicas
from supcon_tf.losses.label_overlap import are_several


def unpack_views(batch):
    """Splits a batch `(views, labels, sample_weight)` into its views and the rest.

    Its last parts may be missing.

    Args:
        batch: views [b, ...], or a tuple of views of several sizes; labels int [b] or [b, 1], or
            bool [b, C] for several classes; weights float [b] or [b, 1].

    Returns:
        The views, and a dict of `labels` and `sample_weight`, unchanged, as far as given.

    Raises:
        ValueError: if labels or weights have a different shape.
    """
    views, *rest = keras.utils.unpack_x_y_sample_weight(batch)
    images = tf.nest.flatten(views)[0].shape[0]
    given = dict(zip(("labels", "sample_weight"), rest, strict=True))
    given = {name: values for name, values in given.items() if values is not None}
    for name, values in given.items():
        size, *further = values.shape
        other = None not in (size, images) and size != images
        if other or (further not in ([], [1]) and not are_several(values)):
            raise ValueError(
                f"{name} must have one value per image, of shape [{images}] or [{images}, 1]. "
                f"Received: {values.shape}."
            )
    return views, given


def weights_need_labels(function, *names):
    """Makes a function of `keras.Model` refuse weights that Keras would ignore for want of labels.

    Args:
        function: `fit`, `evaluate` or `train_on_batch`.
        *names: its arguments that Keras would ignore.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(self, *args, **kwargs):
        given = signature.bind(self, *args, **kwargs).arguments
        validation = given.get("validation_data")
        if isinstance(validation, tuple) and len(validation) == 3:
            pieces = dict(zip(("x", "y", "sample_weight"), validation, strict=True))
            _check_weights(pieces, ("sample_weight",))
        _check_weights(given, names)
        return function(self, *args, **kwargs)

    return checked


def _check_weights(given, names):
    is_array = hasattr(given.get("x"), "shape") or isinstance(given.get("x"), list | tuple)
    for name in names:
        if is_array and given.get("y") is None and given.get(name) is not None:
            raise ValueError(
                f"{name} needs labels; without them Keras ignores it. Received: y=None. Pass "
                "y; a loss that uses no labels takes any."
            )


def non_empty_batch(batch):
    """Strips the `None`s from the end of a batch; stops the step if a replica got no image."""
    if isinstance(batch, tuple):  # Keras's `train_on_batch` adds them.
        batch = batch[: max(i + 1 for i, part in enumerate(batch) if part is not None)]
    tensors = [tensor for tensor in tf.nest.flatten(batch) if tensor is not None]
    if num_replicas() == 1 or all(tensor.shape[0] is not None for tensor in tensors):
        return batch
    message = (
        "a replica got no image of the last batch, which has fewer images than replicas; use "
        "batch(..., drop_remainder=True) or another batch size"
    )
    sizes = [tf.shape(tensor)[0] for tensor in tensors]
    with tf.control_dependencies([tf.debugging.assert_positive(sizes, message)]):
        return tf.nest.map_structure(lambda t: None if t is None else tf.identity(t), batch)


# From an encoder of images of one size to the same one of any size; see `of_any_size`.
_OF_ANY_SIZE = weakref.WeakKeyDictionary()


def of_any_size(encoder: keras.Model) -> keras.Model:
    """The same layers as a model of images of any size.

    Args:
        encoder: a functional model from images [N, H, W, C], perhaps of one size only.

    Raises:
        ValueError: if a layer takes images of one size only.
    """
    if encoder.input_shape[1:3] == (None, None):
        return encoder
    if encoder not in _OF_ANY_SIZE:
        with tf.init_scope():  # The model outlives the graph that first asks for it.
            images = keras.Input((None, None, encoder.input_shape[-1]))
            _OF_ANY_SIZE[encoder] = keras.models.clone_model(encoder, images, lambda layer: layer)
    return _OF_ANY_SIZE[encoder]


def encode_views(encoder, views, training=True):
    """Encodes all views of a batch in one pass for each size of view.

    Args:
        encoder: a model from images [N, H, W, C] to features [N, F].
        views: float [B, V, H, W, C]; [B, H, W, C] is taken as one view; or a tuple of such, of
            different sizes, whose views follow one another.
        training: passed on to the encoder.

    Returns:
        float32 [B, V, F], where V counts all views.
    """
    if isinstance(views, tuple | list):
        encoder = of_any_size(encoder)
        return tf.concat([encode_views(encoder, one, training) for one in views], axis=1)
    if views.shape.rank == 4:
        views = views[:, None]
    _, num_views, *size = views.shape
    features = tf.cast(encoder(tf.reshape(views, [-1, *size]), training=training), tf.float32)
    return tf.reshape(features, [views.shape[0] or -1, num_views, features.shape[-1]])
