"""Copies of an encoder: in the form that is trained, and in the form that is kept.

The kept form is made of Keras's own layers in float32 and loads wherever Keras is installed. The
trained form computes the same with a faster batch norm, over all replicas, and in the requested
precision.
"""

import keras
import numpy as np
import tensorflow as tf

from supcon_tf.core.errors import UserError
from supcon_tf.networks.convolution import SubsampledConv2D, is_strided_pointwise
from supcon_tf.networks.initial import initial_weights

# Side of the images that a copy is checked on, if it takes any size.
_ANY_SIDE = 96
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@keras.saving.register_keras_serializable("supcon_tf")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch norm with TensorFlow's fused kernel where it applies.

    It applies to images on one replica. Elsewhere this is Keras's own layer, whose statistics are
    those of all replicas if `synchronized`. The statistics and their use are the same: the moving
    variance averages the biased one, as Keras does.

    Args:
        **kwargs: as for `keras.layers.BatchNormalization`.

    Call arguments:
        inputs: float [B, H, W, C] for the fused kernel; otherwise any that Keras takes.
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
    """The encoder's form for training: fused, synchronized batch norm, optionally half precision.

    Weights stay float32 under the mixed policies, and so do the layers that output the features.

    Args:
        encoder: a functional model.
        precision: "float32", "mixed_bfloat16" or "mixed_float16".
        any_size: whether the copy takes images of any size, for views of several sizes.

    Returns:
        A separate model with the same state, weights in the same order.

    Raises:
        UserError: if `precision` is unknown, or the encoder cannot be copied: it is not built of
            layers (a subclass of `keras.Model`), or a layer has state that its configuration and
            its saved variables lack.
    """
    check_precision(precision)
    inputs = keras.Input((None, None, encoder.input_shape[-1])) if any_size else None
    if precision != "float32":
        with initial_weights(0):  # Half precision is compared less strictly.
            _clone(encoder, _trained_as("float32", encoder), inputs)
    trained = _clone(encoder, _trained_as(precision, encoder), inputs)
    for layer in trained._flatten_layers():  # Those inside other layers too.
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
    return trained


def _trained_as(precision, encoder):
    last = {id(tensor._keras_history.operation) for tensor in _outputs(encoder)}

    def copy(layer):
        config = layer.get_config()
        kind = type(layer)
        if kind is keras.layers.BatchNormalization:
            kind = FusedBatchNormalization
        if is_strided_pointwise(layer):
            kind = SubsampledConv2D
        if id(layer) not in last and _computes(layer):
            config["dtype"] = precision
        return kind.from_config(config)

    return copy


def portable_copy(encoder: keras.Model, state_of: keras.Model | None = None) -> keras.Model:
    """The inverse of `training_copy`: Keras's own layers, float32.

    Args:
        encoder: as returned by `training_copy`.
        state_of: a model of the same layers, such as a moving average, whose state the copy gets;
            None for the encoder's own.

    Returns:
        A separate model with that state, weights in the same order.

    Raises:
        UserError: as `training_copy`.
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

    return _clone(encoder, copy, state_of=state_of)


def _computes(layer):
    """Whether it is a layer with its own dtype: neither an input nor a bare operation."""
    is_layer = isinstance(layer, keras.layers.Layer)
    return is_layer and not isinstance(layer, keras.layers.InputLayer)


def _outputs(encoder):
    if not isinstance(encoder, keras.Function | keras.Sequential):
        raise UserError(
            "the encoder must be a functional or sequential Keras model. Received: "
            f"{type(encoder).__name__}. Rebuild it with keras.Model(inputs, outputs)."
        )
    return keras.tree.flatten(encoder.outputs)


def _clone(encoder, copy, inputs=None, state_of=None):
    _outputs(encoder)
    try:
        clone = keras.models.clone_model(encoder, inputs, clone_function=copy, recursive=True)
    except (NotImplementedError, TypeError) as error:  # A layer without a sound `get_config`.
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"the encoder {encoder.name!r} cannot be copied: {reason}") from error
    copy_state(state_of or encoder, clone)
    if not encoder.trainable:  # The layers' own flags are in their settings.
        clone.trainable = False
    return clone


def frozen_copy(network, input_shape=None):
    """A copy of a model, or of a layer, with the same state; not trainable."""
    if isinstance(network, keras.Model):
        copy = keras.models.clone_model(network)
    else:
        copy = type(network).from_config(network.get_config())
        copy.build(input_shape)
    copy_state(network, copy, input_shape)
    copy.trainable = False
    return copy


def copy_state(source: keras.Layer, target: keras.Layer, input_shape=None) -> None:
    """Gives a copy everything that its layers would save, and checks that it computes the same.

    Args:
        source: a model or a layer.
        target: one of the same layers in the same order, perhaps in a different precision.
        input_shape: of one input, with the batch first; None for a model's own.

    Raises:
        UserError: if outputs differ on a batch of random inputs.
    """
    for old, new in zip(source._flatten_layers(), target._flatten_layers(), strict=True):
        store = {}
        old.save_own_variables(store)
        new.load_own_variables(store)
    seeds = [np.copy(seed) for seed in _seeds(source)]
    _set_seeds(target, seeds)
    _check_same(source, target, input_shape)
    for model in (source, target):  # Some layers draw random numbers in inference too.
        _set_seeds(model, seeds)


def _seeds(model):
    """The variables that are not weights: those of random generators, such as dropout's."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def _set_seeds(model, values):
    for seed, value in zip(_seeds(model), values, strict=True):
        seed.assign(value)


def _check_same(source, target, input_shape):
    batch = keras.tree.map_structure(_random_batch, _input(source, input_shape))
    # The norm of the difference relative to the output's; 0 if both are 0.
    both = _computed(source, batch), _computed(target, batch)
    for expected, found in zip(*both, strict=True):
        off = np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-6)
        if np.isfinite(expected).all() and not off <= _tolerance(source, target):
            raise UserError(
                f"a copy of {source.name!r} computes different outputs: they are off by "
                f"{off:.1%}. One of its layers has state that its `get_config` and weights do "
                "not hold; make that state a weight or a setting."
            )


def _input(model, shape):
    if shape is not None:
        return keras.KerasTensor(shape)
    # A sequential model has an `input` only once it has been called.
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def _computed(model, batch):
    return [np.asarray(output, np.float64) for output in keras.tree.flatten(model(batch))]


def _random_batch(tensor):
    """Two examples in [0, 1], or [0, 255] for integers."""
    shape = [2, *(_ANY_SIDE if side is None else side for side in tensor.shape[1:])]
    values = np.random.default_rng(0).random(shape)
    is_float = keras.backend.is_float_dtype(tensor.dtype)
    return (values if is_float else 255 * values).astype(tensor.dtype)


def _tolerance(*models):
    layers = [layer for model in models for layer in model._flatten_layers()]
    half = any(layer.compute_dtype in ("float16", "bfloat16") for layer in layers)
    return 0.5 if half else 1e-2  # Convolutions on a GPU round to 1e-3, layer by layer.
