"""Cross entropy for classes of unequal size: class weights, logit adjustment."""

from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

CLASS_WEIGHTS = ("inverse", "effective")
EFFECTIVE_BETA = 0.999


def class_weights(counts: Sequence[int], kind: str, beta: float | None = None) -> np.ndarray:
    """Weights of the classes in a loss, so that rare ones count more.

        inverse     w_c = k / n_c
        effective   w_c = k (1 - beta) / (1 - beta^n_c)

    n_c is the number of training images of class c, and k makes the mean weight of the images 1, so
    that a learning rate keeps its meaning. "effective" is between no weights (beta = 0) and
    "inverse" (beta near 1).

    Args:
        counts: int >= 0 [C], training images of each class.
        kind: one of `CLASS_WEIGHTS`.
        beta: of "effective", in [0, 1); None for 0.999.

    Returns:
        float64 [C]; 0 for a class without images.

    Raises:
        ValueError: if an argument is out of range, or would have no effect.

    Reference:
        Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples", eq. 2 and
        section 3.2. Differs: the paper scales the mean over the classes, not the images, to 1.
    """
    if kind not in CLASS_WEIGHTS:
        raise ValueError(f"class_weights must be {' or '.join(CLASS_WEIGHTS)}. Received: {kind!r}.")
    if kind == "inverse" and beta is not None:
        raise ValueError(f"class_weights_beta needs effective class weights. Received: {beta}.")
    beta = EFFECTIVE_BETA if beta is None else beta
    if not 0 <= beta < 1:
        raise ValueError(f"class_weights_beta must be in [0, 1). Received: {beta}.")
    counts = np.asarray(counts, np.float64)
    weights = np.zeros_like(counts)
    there = counts > 0
    size = counts if kind == "inverse" else (1 - beta**counts) / (1 - beta)
    weights[there] = 1 / size[there]
    return weights * counts.sum() / (weights * counts).sum()


def logit_offsets(counts: Sequence[int], tau: float) -> np.ndarray:
    """The offsets that logit adjustment adds to the logits in training: tau log pi_c.

    pi_c is the share of class c in the training images; a class without images counts as one image.

    Args:
        counts: int >= 0 [C], training images of each class.
        tau: float >= 0.

    Returns:
        float64 [C].

    Raises:
        ValueError: if `tau` is negative.

    Reference:
        Menon et al. 2021, "Long-Tail Learning via Logit Adjustment", eq. 10.
    """
    if tau < 0:
        raise ValueError(f"logit_adjustment must be at least 0. Received: {tau}.")
    counts = np.maximum(np.asarray(counts, np.float64), 1.0)
    return tau * np.log(counts / counts.sum())


def loss_balance(
    count: Callable[[], Sequence[int]],
    kind: str | None = None,
    beta: float | None = None,
    tau: float = 0.0,
) -> dict[str, list[float] | None]:
    """The arguments of `BalancedCrossEntropy` for a training split.

    Args:
        count: returns the number of images of each class, int [C]; called only if it is needed.
        kind: as in `class_weights`; None for no weights.
        beta: as in `class_weights`.
        tau: as in `logit_offsets`; 0 for no offsets.

    Raises:
        ValueError: if an argument is out of range, or would have no effect.
    """
    if kind is None and beta is not None:
        raise ValueError(f"class_weights_beta needs effective class weights. Received: {beta}.")
    counts = count() if kind is not None or tau else None
    return {
        "weights": None if kind is None else class_weights(counts, kind, beta).tolist(),
        "offsets": logit_offsets(counts, tau).tolist() if tau else None,
    }


@keras.saving.register_keras_serializable("supcon_tf")
class BalancedCrossEntropy(keras.losses.Loss):
    """Cross entropy with class weights and offsets of the logits.

        l_i = -w_{y_i} sum_c q_ic log( exp(z_ic + o_c) / sum_c' exp(z_ic' + o_c') )

    with logits z, offsets o (`logit_offsets`) and weights w (`class_weights`); q is one-hot y, or
    with label smoothing e it is (1 - e) y + e / C. Predictions use the logits without offsets.

    Args:
        label_smoothing: e in [0, 1).
        weights: w, float [C]; None for 1.
        offsets: o, float [C]; None for 0.
        **kwargs: as for `keras.losses.Loss`.

    Call arguments:
        y_true: int [B], class ids.
        y_pred: float [B, C], logits.

    Returns:
        float32 [B], in nats, before it is reduced.

    Reference:
        Menon et al. 2021, eq. 10 (offsets); Cui et al. 2019, eq. 4 (weights).
    """

    def __init__(self, label_smoothing=0.0, weights=None, offsets=None, **kwargs):
        super().__init__(**kwargs)
        self.label_smoothing = label_smoothing
        self.weights, self.offsets = _floats(weights), _floats(offsets)

    def call(self, y_true, y_pred):
        """One value per row."""
        labels = ops.cast(ops.reshape(y_true, [-1]), "int32")  # Keras makes them float.
        logits = ops.cast(y_pred, "float32")
        if self.offsets is not None:
            logits = logits + ops.convert_to_tensor(self.offsets, "float32")
        losses = keras.losses.categorical_crossentropy(
            ops.one_hot(labels, logits.shape[-1]),
            logits,
            from_logits=True,
            label_smoothing=self.label_smoothing,
        )
        if self.weights is None:
            return losses
        return losses * ops.take(ops.convert_to_tensor(self.weights, "float32"), labels)

    def get_config(self):
        """The constructor's arguments."""
        own = {"weights": self.weights, "offsets": self.offsets}
        return {**super().get_config(), "label_smoothing": self.label_smoothing, **own}


def _floats(values):
    return None if values is None else [float(value) for value in values]
