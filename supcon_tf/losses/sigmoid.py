"""Sigmoid cross entropy, for images that have several classes each."""

import keras
from keras import ops

from supcon_tf.losses.class_balance import BalancedCrossEntropy


@keras.saving.register_keras_serializable("supcon_tf")
class SigmoidCrossEntropy(keras.losses.Loss):
    """Cross entropy of each class by itself, present or absent; their sum over the classes.

        l_i = -sum_c ( w_c q_ic log s(z_ic) + (1 - q_ic) log(1 - s(z_ic)) )

    with logits z, s the sigmoid, and weights w (`class_weights`) of the images that show
    a class; q is 1 where image i shows class c, else 0, or with label smoothing e it is
    (1 - e) q + e / 2. With weights of 1 it is the negative log likelihood of an image's classes. As
    in softmax cross entropy, a logit's gradient does not depend on the number of classes.

    Args:
        label_smoothing: e in [0, 1).
        weights: w, float [C]; None for 1.
        **kwargs: as for `keras.losses.Loss`.

    Call arguments:
        y_true: bool [B, C].
        y_pred: float [B, C], logits.

    Returns:
        float32 [B], in nats per image, before it is reduced.
    """

    def __init__(self, label_smoothing=0.0, weights=None, **kwargs):
        super().__init__(**kwargs)
        self.label_smoothing = label_smoothing
        self.weights = None if weights is None else [float(value) for value in weights]

    def call(self, y_true, y_pred):
        """One value per row."""
        shown = ops.cast(y_true, "float32")
        logits = ops.cast(y_pred, "float32")
        shown = shown * (1.0 - self.label_smoothing) + self.label_smoothing / 2
        weights = 1.0 if self.weights is None else ops.convert_to_tensor(self.weights, "float32")
        # -log s(z) = softplus(-z), which is finite for logits of any size.
        losses = weights * shown * ops.softplus(-logits) + (1.0 - shown) * ops.softplus(logits)
        return ops.sum(losses, axis=-1)

    def get_config(self):
        """The constructor's arguments."""
        own = {"label_smoothing": self.label_smoothing, "weights": self.weights}
        return {**super().get_config(), **own}


def classification_loss(
    multi_label: bool, label_smoothing: float = 0.0, weights=None, offsets=None
) -> keras.losses.Loss:
    """The cross entropy of logits [B, C]: of one class per image, or of any number of classes.

    Args:
        multi_label: whether images may have any number of classes, bool [B, C], not one, int [B].
        label_smoothing: in [0, 1).
        weights: of the classes, as `loss_balance` gives them.
        offsets: of the logits, as `loss_balance` gives them; for one class per image.

    Raises:
        ValueError: if there are offsets for several classes.
    """
    if not multi_label:
        return BalancedCrossEntropy(label_smoothing, weights, offsets)
    if offsets is not None:
        raise ValueError(
            "logit_adjustment needs images of one class each; several have no common softmax. "
            "Received: images with several classes. Leave it out."
        )
    return SigmoidCrossEntropy(label_smoothing, weights)
