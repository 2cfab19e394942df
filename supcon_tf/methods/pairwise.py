"""Any loss over pairs of embeddings, with or without a memory queue."""

import tensorflow as tf

from supcon_tf.engine.devices import gather_batch
from supcon_tf.engine.model import ContrastiveModel, encode_views
from supcon_tf.losses import metrics
from supcon_tf.networks.copies import frozen_copy
from supcon_tf.networks.queue import MemoryQueue


class PairwiseModel(ContrastiveModel):
    """Any loss over pairs of embeddings: encoder, projection head, loss on the global batch.

    With a queue, earlier embeddings are further contrasts; with `ema_momentum` as well, what is
    queued are the embeddings of the averaged networks (a momentum encoder).

    Args:
        encoder: a built model from images [N, H, W, C] to features [N, F].
        projection_head: a layer from features [N, F] to embeddings [N, D].
        pairwise_loss: a `keras.losses.Loss` of labels [B] and embeddings [B, V, D] that returns one
            value per anchor before reduction.
        queue_size: rows of earlier batches to contrast with; 0 for none. The loss has to take
            `queue`, as `SupConLoss` and `SimCLRLoss` do.
        **kwargs: as `ContrastiveModel`.

    Reference:
        Khosla et al. 2020, figure 2 and section 4 (the memory variant).
    """

    def __init__(self, encoder, projection_head, pairwise_loss, *, queue_size=0, **kwargs):
        super().__init__(encoder, (pairwise_loss.name,), **kwargs)
        self.projection_head = projection_head
        self.pairwise_loss = pairwise_loss
        if not projection_head.built:
            projection_head.build(encoder.output_shape)
        dim = projection_head.compute_output_shape(encoder.output_shape)[-1]
        self.pair_metrics = metrics.pair_metrics(dim)
        self.queue = None
        if queue_size:
            self.queue = MemoryQueue(queue_size, dim, name="queue")
            if self.ema_momentum is not None:
                self.ema_head = frozen_copy(projection_head, encoder.output_shape)
        self.built = True

    def averaged_networks(self):
        """As the base's, and the head where a momentum encoder fills the queue."""
        pairs = super().averaged_networks()
        if self.queue is not None and pairs:
            pairs.append((self.projection_head, self.ema_head))
        return pairs

    def forward(self, inputs):
        """Embeddings [b * V, D] of views [b, V, H, W, C]; and the keys, where they are others."""
        outputs = {"embeddings": self.projection_head(encode_views(self.encoder, inputs))}
        if self.queue is not None and self.ema_momentum is not None:
            features = encode_views(self.ema_encoder, inputs, training=False)
            outputs["keys"] = tf.stop_gradient(self.ema_head(features))
        return outputs

    def compute_losses(self, labels, outputs):
        """The pairwise loss of the batch gathered over all replicas."""
        embeddings = outputs["embeddings"]
        views = embeddings.shape[0] // labels.shape[0] if labels.shape[0] else None
        embeddings = tf.reshape(embeddings, [tf.shape(labels)[0], -1, embeddings.shape[-1]])
        embeddings.set_shape([labels.shape[0], views, embeddings.shape[-1]])
        labels, embeddings = gather_batch(labels), gather_batch(embeddings)
        classes = labels if getattr(self.pairwise_loss, "uses_labels", True) else None
        for metric in self.pair_metrics:
            metric.update_state(classes, embeddings)
        if self.queue is None:
            return {self.pairwise_loss.name: self.pairwise_loss(labels, embeddings)}
        loss = self.pairwise_loss(labels, embeddings, queue=self.queue.contents())
        rows = tf.reshape(embeddings, [-1, embeddings.shape[-1]])
        keys = gather_batch(outputs["keys"]) if "keys" in outputs else rows
        self.queue.push(tf.repeat(labels, embeddings.shape[1]), keys)
        return {self.pairwise_loss.name: loss}

    @property
    def metrics(self):
        """The loss, how many positives the batches hold, and how the embeddings are spread."""
        return [*super().metrics, *self.pair_metrics]
