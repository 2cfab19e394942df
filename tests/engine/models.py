"""Small models and batches that several tests of this room train."""

import keras
import numpy as np
import tensorflow as tf

from supcon_tf import MomentumSGD, PretrainConfig, build_encoder, make_strategy
from supcon_tf.data.views import sharding_off
from supcon_tf.engine.loss_scaling import SharedLossScale
from supcon_tf.engine.optimizer_factory import make_optimizer
from supcon_tf.engine.schedules import make_schedule
from supcon_tf.methods import METHODS
from supcon_tf.methods.spec import Parts
from supcon_tf.networks.copies import training_copy
from supcon_tf.networks.initial import initial_weights

STEPS, BATCH = 5, 16


def dense():
    """One dense layer with an optimizer's state."""
    made = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    made.compile(optimizer=MomentumSGD(0.1), loss="mse")
    made.optimizer.build(made.trainable_variables)
    return made


def batches(order=slice(None)):
    """Views and labels, each batch's images in this order."""
    rng = np.random.default_rng(0)
    # Brightness and class depend on the position, so that the replicas' halves differ.
    views = rng.random((STEPS * BATCH, 2, 8, 8, 3)) * np.linspace(0.2, 1, BATCH).repeat(
        STEPS
    ).reshape(-1, 1, 1, 1, 1)
    labels = rng.integers(0, 3, STEPS * BATCH)
    data = (views.astype(np.float32), labels.astype(np.int32))
    whole = [array.reshape(STEPS, BATCH, *array.shape[1:])[:, order] for array in data]
    return sharding_off(tf.data.Dataset.from_tensor_slices(tuple(whole)))


def build(
    strategy_name,
    method="supcon_out",
    *,
    regularizer=None,
    optimizer="sgd",
    clip_norm=None,
    precision="float32",
    compiled=False,
    **engine,
):
    """A compiled model with batch norm, momentum, weight decay and a schedule."""
    strategy = make_strategy(strategy_name)
    with strategy.scope(), initial_weights(0):
        # Eight channels at least: of four, oneDNN's AVX2 kernel (TensorFlow 2.21) gives a strided
        # 1x1 convolution a wrong gradient, and each number of replicas another one.
        encoder = training_copy(build_encoder("resnet8", 8, 0.5), precision)
        if regularizer:
            encoder.get_layer("stem_conv").kernel.regularizer = regularizer
        heads = {} if method == "cross_entropy" else {"embedding_dim": 8}
        config = PretrainConfig(method=method, **heads, **engine)
        model = METHODS[method].build_with(Parts(config, encoder, 3, STEPS, precision), {})
        schedule = make_schedule("cosine", 1.0 if optimizer == "lars" else 0.1, 2 * STEPS, 2)
        optimizer = make_optimizer(optimizer, schedule, weight_decay=1e-2, clip_norm=clip_norm)
        if precision == "mixed_float16":
            optimizer = SharedLossScale(optimizer, initial_scale=2.0**8)
        model.compile(optimizer=optimizer, jit_compile=compiled)
        model.optimizer.build(model.trainable_variables)
    return model
