"""Methods that train a linear classifier along with their encoder, with cross entropy."""

import abc

import tensorflow as tf

from supcon_tf.engine.method import Method
from supcon_tf.losses.labels import class_ids, static_or_dynamic
from supcon_tf.losses.sigmoid import classification_loss
from supcon_tf.networks.copies import frozen_copy
from supcon_tf.networks.heads import build_classifier, classification_head


class ClassifyingMethod(Method, abc.ABC):
    """A `Method` with a linear classifier of the encoder's features, which the run keeps.

    Its subclasses return `logits` [b, V, C], `labels` [b] (with `multi_label` bool [b, C]) and
    perhaps `sample_weight` [b] from `forward`, among others, and `cross_entropy_of_views` from
    `compute_losses`.

    Args:
        encoder: a built model from images [N, H, W, C] to features [N, F].
        loss_names: as `Method`.
        num_classes: int >= 2.
        label_smoothing: float in [0, 1).
        multi_label: whether an image may have any number of classes: sigmoid cross entropy.
        class_weights: float [C], of each class in the loss; None for 1.
        logit_offsets: float [C], added to the logits in the loss alone; None for 0.
        **kwargs: as for `Method`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        encoder,
        loss_names,
        num_classes,
        label_smoothing,
        *,
        multi_label=False,
        class_weights=None,
        logit_offsets=None,
        **kwargs,
    ):
        super().__init__(encoder, loss_names, **kwargs)
        if not isinstance(label_smoothing, int | float) or not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1). Received: {label_smoothing!r}.")
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2. Received: {num_classes}.")
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        self.multi_label = multi_label
        self.classification_head = classification_head(num_classes)
        self.classification_head.build(encoder.output_shape)
        if self.ema_momentum is not None:
            self.ema_head = frozen_copy(self.classification_head, encoder.output_shape)
        self.cross_entropy = classification_loss(
            multi_label, label_smoothing, class_weights, logit_offsets
        )

    def averaged_networks(self):
        """The base class's pairs, and the classifier."""
        pairs = super().averaged_networks()
        return [*pairs, (self.classification_head, self.ema_head)] if pairs else []

    @property
    def evaluation_head(self):
        """The classifier to evaluate and keep: the moving average if there is one."""
        return self.classification_head if self.ema_momentum is None else self.ema_head

    def cross_entropy_of_views(self, outputs):
        """The reduced cross entropy of every view's logits."""
        logits, weights = outputs["logits"], outputs.get("sample_weight")
        _, num_views, num_classes = logits.shape
        labels = outputs["labels"]
        if not self.multi_label:
            labels = class_ids(labels, static_or_dynamic(logits))
        labels = tf.repeat(labels, num_views, axis=0)
        weights = None if weights is None else tf.repeat(tf.reshape(weights, [-1]), num_views)
        return self.cross_entropy(labels, tf.reshape(logits, [-1, num_classes]), weights)

    def kept(self):
        """The encoder, and the classifier that was trained with it."""
        # A copy of its own, as the classifier freezes its encoder.
        classifier = build_classifier(super().kept()["encoder"], self.evaluation_head)
        return {**super().kept(), "classifier": classifier}

    def get_config(self):
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "label_smoothing": self.label_smoothing,
            "multi_label": self.multi_label,
        }
