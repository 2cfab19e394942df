"""SupCon and cross entropy together, in one stage."""

import keras

from supcon_tf.engine.batches import encode_views, unpack_views
from supcon_tf.losses import metrics
from supcon_tf.losses.label_overlap import jaccard_overlap
from supcon_tf.losses.supcon import SupConLoss
from supcon_tf.methods.classifying import ClassifyingMethod
from supcon_tf.methods.spec import MethodSpec, Parts
from supcon_tf.networks.heads import project_views


@keras.saving.register_keras_serializable("supcon_tf")
class JointModel(ClassifyingMethod):
    """SupCon on projected features, and cross entropy of a linear classifier of the features.

        L = L_out(labels, Proj(Enc(x))) + cross_entropy_weight * CE(labels, W Enc(x) + b)

    Both losses cover every view; both gradients reach the encoder. The weighted terms are logged.

    Batches are `(views [B, V, H, W, C], labels [B])`, or `(views, labels, sample_weight [B])`.

    Args:
        encoder: a built model from images [N, H, W, C] to features [N, F].
        projection_head: a layer from features [N, F] to embeddings [N, D].
        num_classes: int >= 2.
        temperature: float > 0, of SupCon.
        cross_entropy_weight: float >= 0; 0 leaves the encoder to SupCon alone, and the classifier
            untrained.
        label_smoothing: float in [0, 1), of the cross entropy.
        multi_label: whether an image may have any number of classes: positives are weighted by the
            classes' overlap (`jaccard_overlap`), and the cross entropy is the sigmoid one.
        **kwargs: as for `Method`.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        L_out: Khosla et al. 2020, eq. 2, who train the classifier afterwards, on a frozen encoder.
    """

    def __init__(
        self,
        encoder,
        projection_head,
        num_classes,
        *,
        temperature=0.1,
        cross_entropy_weight=1.0,
        label_smoothing=0.0,
        **kwargs,
    ):
        names = "supcon", "cross_entropy"
        super().__init__(encoder, names, num_classes, label_smoothing, **kwargs)
        if not 0 <= cross_entropy_weight < float("inf"):
            raise ValueError(
                "cross_entropy_weight must be at least 0 and finite. Received: "
                f"{cross_entropy_weight}."
            )
        self.projection_head = projection_head
        self.temperature, self.cross_entropy_weight = temperature, cross_entropy_weight
        if not projection_head.built:
            projection_head.build(encoder.output_shape)
        self.pairwise_loss = SupConLoss(temperature, summation_location="out")
        dim = projection_head.compute_output_shape(encoder.output_shape)[-1]
        self.pair_metrics = metrics.pair_metrics(dim)

    def forward(self, batch, training=True):
        """Embeddings [b, V, D], logits [b, V, C] and labels [b]."""
        views, given = unpack_views(batch)
        features = encode_views(self.encoder, views, training)
        return {
            "embeddings": project_views(self.projection_head, features, training),
            "logits": project_views(self.classification_head, features, training),
            **given,
        }

    def compute_losses(self, outputs):
        """SupCon, and the weighted cross entropy of every view."""
        weights = outputs.get("sample_weight")
        labels, embeddings, pairs = outputs["labels"], outputs["embeddings"], {}
        if self.multi_label:
            labels, pairs = None, {"positive_weights": jaccard_overlap(labels)}
        return {
            "supcon": self.pairwise_loss(labels, embeddings, sample_weight=weights, **pairs),
            "cross_entropy": self.cross_entropy_weight * self.cross_entropy_of_views(outputs),
        }

    def measure(self, outputs):
        """Updates the metrics of the positives and of the embeddings' spread."""
        for metric in self.pair_metrics:
            metric.update_state(outputs["labels"], outputs["embeddings"])

    @property
    def metrics(self):
        """The losses, how many positives the batches hold, and how the embeddings are spread."""
        return [*super().metrics, *self.pair_metrics]

    def get_config(self):
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "projection_head": keras.saving.serialize_keras_object(self.projection_head),
            "temperature": self.temperature,
            "cross_entropy_weight": self.cross_entropy_weight,
        }


def _build(parts: Parts, *, temperature=0.1, cross_entropy_weight=1.0, label_smoothing=0.0):
    return JointModel(
        parts.encoder,
        parts.projection_head(),
        parts.num_classes,
        temperature=temperature,
        cross_entropy_weight=cross_entropy_weight,
        label_smoothing=label_smoothing,
        multi_label=parts.multi_label,
        **parts.engine,
    )


SPEC = MethodSpec(_build, takes_several_classes=lambda config: True)
