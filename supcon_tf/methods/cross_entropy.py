"""Cross entropy: the baseline, with the same encoder and views."""

import keras

from supcon_tf.engine.batches import encode_views, unpack_views
from supcon_tf.losses.class_balance import loss_balance
from supcon_tf.methods.classifying import ClassifyingMethod
from supcon_tf.methods.spec import MethodSpec, Parts
from supcon_tf.networks.heads import project_views


@keras.saving.register_keras_serializable("supcon_tf")
class CrossEntropyModel(ClassifyingMethod):
    """The baseline: the same encoder and views, a linear classifier, cross entropy.

    Batches are `(views [B, V, H, W, C], labels [B])`, or `(views, labels, sample_weight [B])`; with
    `multi_label`, labels are bool [B, num_classes] and the cross entropy is the sigmoid one.

    Args:
        encoder: a built model from images [N, H, W, C] to features [N, F].
        num_classes: int >= 2.
        label_smoothing: float in [0, 1).
        class_weights: float [C], of each class in the loss; None for 1.
        logit_offsets: float [C], added to the logits in the loss alone; None for 0.
        multi_label: whether an image may have any number of classes.
        **kwargs: as for `Method`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        encoder,
        num_classes,
        label_smoothing=0.0,
        class_weights=None,
        logit_offsets=None,
        multi_label=False,
        **kwargs,
    ):
        super().__init__(
            encoder,
            ("cross_entropy",),
            num_classes,
            label_smoothing,
            multi_label=multi_label,
            class_weights=class_weights,
            logit_offsets=logit_offsets,
            **kwargs,
        )

    def forward(self, batch, training=True):
        """Logits [b, V, C] and labels [b]."""
        views, given = unpack_views(batch)
        features = encode_views(self.encoder, views, training)
        return {"logits": project_views(self.classification_head, features, training), **given}

    def compute_losses(self, outputs):
        """Cross entropy of every view."""
        return {"cross_entropy": self.cross_entropy_of_views(outputs)}

    def get_config(self):
        """The constructor's arguments."""
        loss = self.cross_entropy
        own = {"class_weights": loss.weights, "logit_offsets": getattr(loss, "offsets", None)}
        return {**super().get_config(), **own}


def _build(
    parts: Parts,
    *,
    label_smoothing=0.0,
    class_weights=None,
    class_weights_beta=None,
    logit_adjustment=0.0,
):
    balance = loss_balance(parts.class_counts, class_weights, class_weights_beta, logit_adjustment)
    return CrossEntropyModel(
        parts.encoder,
        parts.num_classes,
        label_smoothing,
        balance["weights"],
        balance["offsets"],
        multi_label=parts.multi_label,
        **parts.engine,
    )


SPEC = MethodSpec(_build, takes_several_classes=lambda config: True)
