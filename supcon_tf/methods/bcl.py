"""Balanced contrastive learning: SupCon for long tails, with class averaging and class prototypes.

Zhu et al. 2022, "Balanced Contrastive Learning for Long-Tailed Visual Recognition".
"""

import dataclasses

import keras
import tensorflow as tf

from supcon_tf.engine.batches import encode_views, unpack_views
from supcon_tf.engine.method import Method
from supcon_tf.losses import metrics
from supcon_tf.losses.blocks import evaluate_anchors
from supcon_tf.losses.labels import (
    class_segments,
    positives_and_negatives,
    static_or_dynamic,
)
from supcon_tf.losses.pairs import (
    AnchorLoss,
    check_block_size,
    check_temperature,
    flatten_views,
    masked_logsumexp,
)
from supcon_tf.methods.spec import MethodSpec, Parts
from supcon_tf.networks.heads import project_views


def bcl_loss(labels, embeddings, prototypes, *, temperature=0.1, block_size=None):
    r"""Balanced contrastive loss, one value per anchor.

    With unit rows z_k, among them one prototype of each class, s_ik = z_i . z_k / temperature,
    B_j(i) the rows of class j without the anchor i itself, and P(i) = B_{y_i}(i),

        l_i = -1/|P(i)| sum_{p in P(i)} log(exp s_ip / sum_j 1/|B_j(i)| sum_{k in B_j(i)} exp s_ik)

    So every class weighs the same in the denominator, however many rows it has in the batch, and is
    in every batch. An anchor always has a positive, its prototype. Computed in float32; memory is
    linear in the rows, as in `supcon_loss`.

    Args:
        labels: int [B], class ids from 0 to C - 1.
        embeddings: float [B, V, D], or [B, D].
        prototypes: float [C, D], one for each class. They are not anchors.
        temperature: float > 0, dimensionless.
        block_size: anchors per block; None for automatic.

    Returns:
        float32 [V * B], in nats, view-major.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        Zhu et al. 2022, section 3.3; as in the authors' code, an anchor is not counted in the size
        of its own class.
    """
    check_temperature(temperature)
    check_block_size(block_size)
    if labels is None:
        raise ValueError("labels must be the class ids of the prototypes. Received: None.")
    labels, rows = flatten_views(labels, embeddings)
    num_anchors, num_classes = static_or_dynamic(rows), prototypes.shape[0]
    classes, centers = flatten_views(tf.range(num_classes, dtype=labels.dtype), prototypes)
    labels = tf.concat([labels, classes], axis=0)
    rows = tf.concat([rows, centers], axis=0)
    _, others = class_segments(labels)  # [N], the other rows of each row's class.

    def block_losses(indices, anchors, rows):
        logits = tf.matmul(anchors, rows, transpose_b=True) / temperature  # [R, N]
        positive, negative = positives_and_negatives(labels, indices)
        num_positives = tf.maximum(tf.gather(others, indices), 1.0)[:, None]
        sizes = tf.where(negative, others + 1.0, num_positives)
        log_total = masked_logsumexp(logits - tf.math.log(sizes), positive | negative)
        of_positives = tf.reduce_sum(tf.where(positive, logits, 0.0), axis=1) / num_positives[:, 0]
        return log_total - of_positives

    return evaluate_anchors(block_losses, rows, num_anchors, block_size)


@keras.saving.register_keras_serializable("supcon_tf")
@dataclasses.dataclass(eq=False)
class BCLLoss(AnchorLoss):
    """`bcl_loss` as a Keras loss: `loss(labels, embeddings, prototypes=...)`, mean over anchors.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        Zhu et al. 2022, section 3.3.
    """

    temperature: float = 0.1
    _: dataclasses.KW_ONLY
    block_size: int | None = None
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "bcl"

    def __post_init__(self):
        super().__post_init__()
        check_temperature(self.temperature)
        check_block_size(self.block_size)

    def call(self, y_true, y_pred, prototypes):
        """Labels int [B], embeddings float [B, V, D], prototypes [C, D] in; float32 [V * B] out."""
        return bcl_loss(y_true, y_pred, prototypes, **vars(self.options))


@keras.saving.register_keras_serializable("supcon_tf")
class BalancedContrastive(Method):
    """`bcl_loss` of the projected views, with a trained prototype for each class.

    Batches are `(views [B, V, H, W, C], labels [B])`, or `(views, labels, sample_weight [B])`.

    Args:
        encoder: a built model from images [N, H, W, C] to features [N, F].
        projection_head: a layer from features [N, F] to embeddings [N, D].
        num_classes: int >= 2.
        temperature: float > 0.
        block_size: as `bcl_loss`.
        **kwargs: as for `Method`.

    Reference:
        Zhu et al. 2022. Differs: only the contrastive branch is trained, with free prototypes; the
        authors also train a classifier with logit compensation, and project its weights
        to the prototypes. Here the classifier comes afterwards.
    """

    def __init__(
        self,
        encoder,
        projection_head,
        num_classes,
        *,
        temperature=0.1,
        block_size=None,
        **kwargs,
    ):
        super().__init__(encoder, ("bcl",), **kwargs)
        self.projection_head, self.num_classes = projection_head, num_classes
        if not projection_head.built:
            projection_head.build(encoder.output_shape)
        dim = projection_head.compute_output_shape(encoder.output_shape)[-1]
        self.bcl_loss = BCLLoss(temperature, block_size=block_size)
        self.prototypes = self.add_weight((num_classes, dim), "random_normal", name="prototypes")
        self.pair_metrics = metrics.pair_metrics(dim)

    def forward(self, batch, training=True):
        """Embeddings [b, V, D] and labels [b]."""
        views, given = unpack_views(batch)
        features = encode_views(self.encoder, views, training)
        return {"embeddings": project_views(self.projection_head, features, training), **given}

    def compute_losses(self, outputs):
        """The loss of the whole batch and the prototypes."""
        loss = self.bcl_loss(
            outputs["labels"],
            outputs["embeddings"],
            sample_weight=outputs.get("sample_weight"),
            prototypes=tf.convert_to_tensor(self.prototypes),
        )
        return {"bcl": loss}

    def measure(self, outputs):
        """Updates the metrics of the positives and of the embeddings' spread."""
        for metric in self.pair_metrics:
            metric.update_state(outputs["labels"], outputs["embeddings"])

    @property
    def metrics(self):
        """The loss, how many positives the batches hold, and how the embeddings are spread."""
        return [*super().metrics, *self.pair_metrics]

    def get_config(self):
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "projection_head": keras.saving.serialize_keras_object(self.projection_head),
            "num_classes": self.num_classes,
            "temperature": self.bcl_loss.temperature,
            "block_size": self.bcl_loss.block_size,
        }


def _build(parts: Parts, *, temperature=0.1, block_size=None):
    settings = {"temperature": temperature, "block_size": block_size}
    head = parts.projection_head()
    return BalancedContrastive(parts.encoder, head, parts.num_classes, **settings, **parts.engine)


SPEC = MethodSpec(_build)
