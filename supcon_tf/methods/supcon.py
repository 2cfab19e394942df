"""The supervised contrastive loss.

Khosla et al. 2020, "Supervised Contrastive Learning", equations 2 (L_out) and 3 (L_in).
"""

import keras
from keras import ops

from supcon_tf.methods._pairs import flatten_views, masked_logsumexp, pair_masks

SUMMATION_LOCATIONS = ("out", "in")
WITHOUT_POSITIVES = ("exclude", "zero")


def supcon_loss(
    labels,
    embeddings,
    *,
    temperature=0.1,
    summation_location="out",
    anchors_without_positives="exclude",
    normalize=True,
):
    r"""Supervised contrastive loss, one value per anchor.

    With rows z_i, P(i) the other rows of i's class, A(i) all other rows and
    s_ij = z_i . z_j / temperature,

        L_out,i = -1/|P(i)| sum_{p in P(i)} log(exp s_ip / sum_{a in A(i)} exp s_ia)
        L_in,i  = -log(1/|P(i)| sum_{p in P(i)} exp s_ip / sum_{a in A(i)} exp s_ia)

    Computed in float32 whatever the inputs' dtype. An anchor's similarity with itself is masked
    before the row maximum is taken, so the loss stays finite at low temperatures.

    Args:
        labels: int [B], class ids; None makes every image a class of its own (SimCLR).
        embeddings: float [B, V, D], V views of each image; [B, D] is taken as one view.
        temperature: float > 0, dimensionless.
        summation_location: "out" or "in", where the sum over positives stands.
        anchors_without_positives: such anchors get 0. With "exclude" the other values are scaled
            by A / (anchors with positives), so that the mean over all A anchors is the mean over
            those that have positives; with "zero" they count in the mean as 0.
        normalize: whether the embeddings are scaled to unit norm first.

    Returns:
        float32 [V * B], in nats, view-major: all anchors of view 0, then of view 1, ...

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        Khosla et al. 2020, eq. 2 and 3. Differs: the paper does not say what becomes of anchors
        without positives, and the public implementations multiply by a second temperature.
    """
    _check_arguments(temperature, summation_location, anchors_without_positives)
    labels, rows = flatten_views(labels, embeddings, normalize)
    logits = ops.matmul(rows, ops.transpose(rows)) / temperature  # [A, N]
    self_mask, positive_mask = pair_masks(labels, labels)
    log_denominator = masked_logsumexp(logits, ops.logical_not(self_mask))  # [A]
    num_positives = ops.sum(ops.cast(positive_mask, "float32"), axis=1)  # [A]
    has_positives = num_positives > 0
    if summation_location == "out":
        # The mean over positives of (denominator - s_ip); 0 where there are none.
        positive_sum = ops.sum(ops.where(positive_mask, logits, 0.0), axis=1)
        log_numerator = positive_sum / ops.maximum(num_positives, 1.0)
    else:
        log_numerator = masked_logsumexp(logits, positive_mask) - ops.log(
            ops.maximum(num_positives, 1.0)
        )
    losses = ops.where(has_positives, log_denominator - log_numerator, 0.0)
    if anchors_without_positives == "exclude":
        kept = ops.mean(ops.cast(has_positives, "float32"))
        losses = losses / ops.where(kept > 0, kept, 1.0)
    return losses


def _check_arguments(temperature, summation_location, anchors_without_positives):
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0. Received: {temperature}.")
    if summation_location not in SUMMATION_LOCATIONS:
        raise ValueError(
            f"summation_location must be one of {', '.join(SUMMATION_LOCATIONS)}. Received: "
            f"{summation_location!r}."
        )
    if anchors_without_positives not in WITHOUT_POSITIVES:
        raise ValueError(
            f"anchors_without_positives must be one of {', '.join(WITHOUT_POSITIVES)}. Received: "
            f"{anchors_without_positives!r}."
        )


@keras.saving.register_keras_serializable("supcon_tf")
class SupConLoss(keras.losses.Loss):
    """`supcon_loss` as a Keras loss: `loss(labels, embeddings)` is its mean over the anchors.

    Called with `labels` int [B] and `embeddings` float [B, V, D] or [B, D]. Under a
    `tf.distribute` strategy pass the gathered global batch (`supcon_tf.gather_batch`): Keras
    divides the mean by the number of replicas.

    Args:
        temperature: float > 0, dimensionless.
        summation_location: "out" (eq. 2) or "in" (eq. 3).
        anchors_without_positives: "exclude" them from the mean, or count them as "zero".
        normalize: whether the embeddings are scaled to unit norm first.
        reduction: as in `keras.losses.Loss`; "none" returns one value per anchor.
        name: name of the loss.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        Khosla et al. 2020, eq. 2 and 3.

    Example:
        >>> loss = SupConLoss(temperature=0.1)
        >>> loss(labels, embeddings)  # [B], [B, 2, 128]
    """

    def __init__(
        self,
        temperature=0.1,
        summation_location="out",
        anchors_without_positives="exclude",
        normalize=True,
        reduction="sum_over_batch_size",
        name="supcon",
    ):
        super().__init__(name=name, reduction=reduction, dtype="float32")
        _check_arguments(temperature, summation_location, anchors_without_positives)
        self.temperature = temperature
        self.summation_location = summation_location
        self.anchors_without_positives = anchors_without_positives
        self.normalize = normalize

    def call(self, y_true, y_pred):
        """Labels int [B] or None and embeddings float [B, V, D] in, float32 [V * B] out."""
        return supcon_loss(
            y_true,
            y_pred,
            temperature=self.temperature,
            summation_location=self.summation_location,
            anchors_without_positives=self.anchors_without_positives,
            normalize=self.normalize,
        )

    def get_config(self):
        """The constructor's arguments."""
        return {
            "temperature": self.temperature,
            "summation_location": self.summation_location,
            "anchors_without_positives": self.anchors_without_positives,
            "normalize": self.normalize,
            "reduction": self.reduction,
            "name": self.name,
        }
