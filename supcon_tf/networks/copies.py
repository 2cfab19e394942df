"""The encoder as it is trained, and as it is kept.

What is saved is made of Keras's own layers in float32 and loads wherever Keras is. What is trained
computes the same with a faster batch norm, over all replicas, and in the precision asked for.
"""

import keras
import tensorflow as tf

from supcon_tf.core.errors import UserError
from supcon_tf.networks.convolution import SubsampledConv2D, is_strided_pointwise

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@keras.saving.register_keras_serializable("supcon_tf")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch norm with TensorFlow's fused kernel where it applies.

    It applies to images on one replica. Elsewhere this is Keras's own layer, whose statistics are
    those of all replicas if `synchronized`. The statistics and what becomes of them are the same:
    the moving variance averages the biased one, as Keras does.

    Args:
        **kwargs: as `keras.layers.BatchNormalization`.

    Call arguments:
        inputs: float [B, H, W, C] for the fused kernel; any that Keras takes.
        training: whether the batch's statistics are used.
        mask: as in Keras.

    Returns:
        As the inputs, in the layer's compute dtype.
    """

    def call(self, inputs, training=None, mask=None):
        """Normalizes over all axes but the last."""
        channels_last = self.axis in (-1, 3) and len(inputs.shape) == 4
        usual = self.scale and self.center and mask is None and not getattr(self, "renorm", False)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if not (training and self.trainable and channels_last and usual and replicas == 1):
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            tf.cast(inputs, self.compute_dtype),
            tf.convert_to_tensor(self.gamma),
            tf.convert_to_tensor(self.beta),
            epsilon=self.epsilon,
            is_training=True,
        )
        count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:3]), tf.float32)
        biased = variance * (tf.maximum(count - 1.0, 1.0) / count)  # The kernel's is unbiased.
        for moving, now in ((self.moving_mean, mean), (self.moving_variance, biased)):
            moving.assign(moving * self.momentum + tf.stop_gradient(now) * (1.0 - self.momentum))
        return outputs


def check_precision(precision: str) -> None:
    """Raises `UserError` unless it is one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise UserError(
            f"precision must be one of {', '.join(PRECISIONS)}. Received: {precision!r}."
        )


def training_copy(
    encoder: keras.Model, precision: str = "float32", any_size: bool = False
) -> keras.Model:
    """The same encoder as it is trained: fused, synchronized batch norm; perhaps half precision.

    Weights stay float32 under the mixed policies, and so do the layers that put out the features.

    Args:
        encoder: a functional model.
        precision: "float32", "mixed_bfloat16" or "mixed_float16".
        any_size: whether the copy takes images of any size, for views of several sizes.

    Returns:
        A model of its own with the same weights in the same order.

    Raises:
        UserError: if `precision` is unknown, or the encoder is not built of layers (a subclass of
            `keras.Model`), which cannot be copied.
    """
    check_precision(precision)
    last = {id(tensor._keras_history.operation) for tensor in _outputs(encoder)}

    def copy(layer):
        config = layer.get_config()
        kind = type(layer)
        if kind is keras.layers.BatchNormalization:
            kind = FusedBatchNormalization
            config["synchronized"] = True
        if is_strided_pointwise(layer):
            kind = SubsampledConv2D
        if id(layer) not in last and _computes(layer):
            config["dtype"] = precision
        return kind.from_config(config)

    inputs = keras.Input((None, None, encoder.input_shape[-1])) if any_size else None
    return _clone(encoder, copy, inputs)


def portable_copy(encoder: keras.Model) -> keras.Model:
    """The inverse of `training_copy`: Keras's own layers, float32.

    Args:
        encoder: what `training_copy` returned.

    Returns:
        A model of its own with the same weights in the same order.
    """

    def copy(layer):
        config = layer.get_config()
        kind = type(layer)
        if kind is FusedBatchNormalization:
            kind = keras.layers.BatchNormalization
        if kind is SubsampledConv2D:
            kind = keras.layers.Conv2D
        if _computes(layer):
            config["dtype"] = "float32"
        return kind.from_config(config)

    return _clone(encoder, copy)


def _computes(layer):
    """Whether it is a layer with a dtype of its own: neither an input nor a bare operation."""
    is_layer = isinstance(layer, keras.layers.Layer)
    return is_layer and not isinstance(layer, keras.layers.InputLayer)


def _outputs(encoder):
    if not isinstance(encoder, keras.Function | keras.Sequential):
        raise UserError(
            "the encoder must be a functional or sequential Keras model. Received: "
            f"{type(encoder).__name__}. Rebuild it with keras.Model(inputs, outputs)."
        )
    return keras.tree.flatten(encoder.outputs)


def _clone(encoder, copy, inputs=None):
    _outputs(encoder)
    clone = keras.models.clone_model(encoder, inputs, clone_function=copy, recursive=True)
    clone.set_weights(encoder.get_weights())
    if not encoder.trainable:  # The layers' own flags are in their settings.
        clone.trainable = False
    return clone


def frozen_copy(network, input_shape=None):
    """A copy of a model, or of a layer, with the same weights; not trainable."""
    if isinstance(network, keras.Model):
        copy = keras.models.clone_model(network)
    else:
        copy = type(network).from_config(network.get_config())
        copy.build(input_shape)
    copy.set_weights(network.get_weights())
    copy.trainable = False
    return copy
