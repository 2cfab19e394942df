"""Loss scaling for float16 on several replicas."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("supcon_tf")
class SharedLossScale(keras.optimizers.LossScaleOptimizer):
    """Keras's loss scaling, with replicas that agree on whether a gradient overflowed.

    Keras's own looks at the first replica's gradients only, and applies those that are not finite
    on another.

    Args:
        inner_optimizer: the optimizer; it sees the unscaled gradients.
        **kwargs: as for `keras.optimizers.LossScaleOptimizer`.

    Reference:
        Micikevicius et al. 2018, "Mixed Precision Training", section 3.2.
    """

    def check_finite(self, grads):
        """Whether the gradients of all replicas are finite."""
        finite = super().check_finite(grads)
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return finite
        overflowed = tf.cast(tf.logical_not(finite), tf.float32)
        return tf.equal(context.all_reduce(tf.distribute.ReduceOp.SUM, overflowed), 0.0)
