"""Any loss over pairs of embeddings, with or without a memory queue."""

import inspect
from collections.abc import Callable

import keras
import tensorflow as tf

from supcon_tf.engine.batches import encode_views, unpack_views
from supcon_tf.engine.method import Method
from supcon_tf.losses import metrics
from supcon_tf.losses.label_overlap import are_several, jaccard_overlap
from supcon_tf.losses.labels import class_ids, static_or_dynamic
from supcon_tf.methods.spec import (
    MethodSpec,
    Parts,
    given_settings,
    views_where,
)
from supcon_tf.networks.copies import frozen_copy
from supcon_tf.networks.heads import project_views
from supcon_tf.networks.queue import MemoryQueue


@keras.saving.register_keras_serializable("supcon_tf")
class PairwiseModel(Method):
    """Any loss over pairs of embeddings: encoder, projection head, loss on the global batch.

    Batches are `(views [B, V, H, W, C], labels [B])`, or `(views, labels, sample_weight [B])`;
    labels may be missing if the loss does not use them. Views of several sizes come as a tuple.
    With labels bool [B, C], for several classes per image, the positives are weighted by the
    overlap of their classes (`jaccard_overlap`); the loss must take `positive_weights`.

    With a queue, earlier embeddings are further contrasts; with `ema_momentum` as well, the queue
    holds the embeddings of the averaged networks (a momentum encoder). A loss whose `call` has
    a parameter `keys` is then given the batch's keys, [B, V, D], in training.

    Args:
        encoder: a built model from images [N, H, W, C] to features [N, F].
        projection_head: a layer from features [N, F] to embeddings [N, D].
        pairwise_loss: a `keras.losses.Loss` of labels [B] and embeddings [B, V, D] that returns one
            value per anchor before reduction.
        queue_size: rows of earlier batches to contrast with; 0 for none. The loss must take
            `queue`, as `SupConLoss` and `SimCLRLoss` do.
        **kwargs: as for `Method`.

    Reference:
        Khosla et al. 2020, figure 2 and section 4 (the memory variant).
    """

    def __init__(self, encoder, projection_head, pairwise_loss, *, queue_size=0, **kwargs):
        super().__init__(encoder, (pairwise_loss.name,), **kwargs)
        self.projection_head = projection_head
        self.pairwise_loss = pairwise_loss
        self.queue_size = queue_size
        if not projection_head.built:
            projection_head.build(encoder.output_shape)
        dim = projection_head.compute_output_shape(encoder.output_shape)[-1]
        self.pair_metrics = metrics.pair_metrics(dim)
        self.queue = None
        if queue_size:
            self.queue = MemoryQueue(queue_size, dim, name="queue")
            if self.ema_momentum is not None:
                self.ema_head = frozen_copy(projection_head, encoder.output_shape)

    def averaged_networks(self):
        """The base class's pairs, and the head if a momentum encoder fills the queue."""
        pairs = super().averaged_networks()
        if self.queue is not None and pairs:
            pairs.append((self.projection_head, self.ema_head))
        return pairs

    def forward(self, batch, training=True):
        """Embeddings [b, V, D]; the labels; and the keys [b, V, D], if they differ."""
        views, given = unpack_views(batch)
        features = encode_views(self.encoder, views, training)
        outputs = {"embeddings": project_views(self.projection_head, features, training), **given}
        if training and self.queue is not None and self.ema_momentum is not None:
            features = encode_views(self.ema_encoder, views, training=False)
            outputs["keys"] = tf.stop_gradient(
                project_views(self.ema_head, features, training=False)
            )
        return outputs

    def compute_losses(self, outputs):
        """The pairwise loss of the whole batch."""
        embeddings = outputs["embeddings"]
        if not self._uses_labels() and embeddings.shape[1] == 1:
            raise ValueError(
                f"{self.pairwise_loss.name} needs two or more views of an image. Received: 1."
            )
        labels, contrasts = self._pairs(outputs.get("labels"))
        if self.queue is not None:
            contrasts["queue"] = self.queue.contents()
        if "keys" in outputs and _takes(self.pairwise_loss, "keys"):
            contrasts["keys"] = outputs["keys"]
        weights = outputs.get("sample_weight")
        loss = self.pairwise_loss(labels, embeddings, sample_weight=weights, **contrasts)
        return {self.pairwise_loss.name: loss}

    def _pairs(self, labels):
        """The class ids int [B] or None; and, if images have several classes, the weights."""
        if not are_several(labels):
            return labels, {}
        if not self._uses_labels():
            return None, {}
        if not _takes(self.pairwise_loss, "positive_weights") or self.queue is not None:
            raise ValueError(
                f"{self.pairwise_loss.name}{' with a queue' * (self.queue is not None)} needs one "
                f"class per image. Received: labels of several classes, shape {labels.shape}."
            )
        return None, {"positive_weights": jaccard_overlap(labels)}

    def after_step(self, outputs):
        """Puts the embeddings, or those of the averaged networks, into the queue."""
        if self.queue is None:
            return
        keys = outputs.get("keys", outputs["embeddings"])
        _, num_views, dim = keys.shape
        labels, _ = self._pairs(outputs.get("labels"))
        labels = class_ids(labels, static_or_dynamic(keys))
        self.queue.push(tf.repeat(labels, num_views), tf.reshape(keys, [-1, dim]))

    def measure(self, outputs):
        """Updates the metrics of the positives and of the embeddings' spread."""
        labels = outputs.get("labels") if self._uses_labels() else None
        for metric in self.pair_metrics:
            metric.update_state(labels, outputs["embeddings"])

    def _uses_labels(self):
        return getattr(self.pairwise_loss, "uses_labels", True)

    def collapsed_loss(self, batch_size, num_views):
        """The value that the loss gives; None with a queue, whose rows differ."""
        known = hasattr(self.pairwise_loss, "collapsed_value") and self.queue is None
        return self.pairwise_loss.collapsed_value(batch_size * num_views) if known else None

    @property
    def metrics(self):
        """The loss, and the metrics of the positives and of the embeddings' spread."""
        return [*super().metrics, *self.pair_metrics]

    def get_config(self):
        """The constructor's arguments."""
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "projection_head": serialize(self.projection_head),
            "pairwise_loss": serialize(self.pairwise_loss),
            "queue_size": self.queue_size,
        }


def _takes(loss: keras.losses.Loss, name: str) -> bool:
    """Whether the loss's `call` has a parameter of that name."""
    return name in inspect.signature(loss.call).parameters


def pairwise(loss: Callable[..., keras.losses.Loss], **defaults) -> MethodSpec:
    """The method that trains with a pairwise loss; the loss's arguments are its settings.

    A loss that does not scale embeddings to unit norm gets them from the head as they are; one that
    uses no labels trains on the images without labels too.

    Args:
        loss: makes the loss from its settings; arguments fixed by a `partial` are not settings.
        **defaults: defaults that differ from the loss's.
    """

    def build(parts: Parts, **settings):
        made = loss(**{**defaults, **settings})
        head = parts.projection_head(normalize=made.get_config().get("normalize", True))
        queue_size = parts.queue_size() if _takes(made, "queue") else 0
        return PairwiseModel(parts.encoder, head, made, queue_size=queue_size, **parts.engine)

    def made_of(config):
        return loss(**{**defaults, **given_settings(config)})

    def uses_labels(config):
        return getattr(made_of(config), "uses_labels", True)

    def takes_several(config):
        return not uses_labels(config) or _takes(made_of(config), "positive_weights")

    return MethodSpec(
        build, *views_where(uses_labels), settings=(loss,), takes_several_classes=takes_several
    )
