"""The training step that every method shares."""

import abc

import keras
import tensorflow as tf

from supcon_tf.distribute import gather_batch, num_replicas
from supcon_tf.metrics import AnchorsWithoutPositives, PositivesPerAnchor


def encode_views(encoder, views, training=True):
    """Encodes all views in one pass.

    Args:
        encoder: a model from images [N, H, W, C] to features [N, F].
        views: float [B, V, H, W, C].
        training: passed on to the encoder.

    Returns:
        float [B * V, F], image-major: both views of image 0, then of image 1, ...
    """
    _, num_views, height, width, channels = views.shape
    images = tf.reshape(views, [-1, height, width, channels])
    features = encoder(images, training=training)
    features.set_shape([views.shape[0] and views.shape[0] * num_views, features.shape[-1]])
    return features


class ContrastiveModel(keras.Model, abc.ABC):
    """An encoder and the one `train_step`; a subclass says what the losses of a batch are.

    A subclass implements `compute_losses(data)` and, where it keeps state of its own (a queue, a
    moving average), `after_step()`. Everything that changes during training is a weight, so that it
    is in the checkpoint.

    Args:
        encoder: a built model from images [N, H, W, C] to features [N, F].
        loss_names: the names of the terms that `compute_losses` returns.
        **kwargs: as `keras.Model`.
    """

    def __init__(self, encoder, loss_names, **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.total_tracker = keras.metrics.Mean(name="loss")
        extra = loss_names if len(loss_names) > 1 else ()
        self.term_trackers = {name: keras.metrics.Mean(name=name) for name in extra}

    @abc.abstractmethod
    def compute_losses(self, data):
        """The named terms of the loss, which are summed.

        Args:
            data: this replica's `(views [b, V, H, W, C], labels [b])`.

        Returns:
            dict of float32 scalars, each as a `keras.losses.Loss` returns it: the mean over the
            global batch divided by the number of replicas.
        """

    def after_step(self):
        """Updates a method's own state once the weights have been updated."""

    @property
    def metrics(self):
        """The trackers that are reset at the start of an epoch."""
        return [self.total_tracker, *self.term_trackers.values()]

    def call(self, images, training=False):
        """Images float [B, H, W, C] in, features [B, F] out."""
        return self.encoder(images, training=training)

    def train_step(self, data):
        """One step on `(views [b, V, H, W, C], labels [b])` of each replica."""
        replicas = num_replicas()
        with tf.GradientTape() as tape:
            terms = self.compute_losses(data)
            # Keras adds a layer's losses on every replica alike: divided, they count once.
            total = sum(terms.values()) + sum(self.losses) / replicas
            scaled = self.optimizer.scale_loss(total)
        gradients = tape.gradient(scaled, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        self.after_step()
        self.total_tracker.update_state(total * replicas)
        for name, tracker in self.term_trackers.items():
            tracker.update_state(terms[name] * replicas)
        return {metric.name: metric.result() for metric in self.metrics}


class PairwiseModel(ContrastiveModel):
    """Any loss over pairs of embeddings: encoder, projection head, loss on the global batch.

    Args:
        encoder: a built model from images [N, H, W, C] to features [N, F].
        projection_head: a layer from features [N, F] to embeddings [N, D].
        pairwise_loss: a `keras.losses.Loss` of labels [B] and embeddings [B, V, D] that returns one
            value per anchor before reduction.
        **kwargs: as `keras.Model`.
    """

    def __init__(self, encoder, projection_head, pairwise_loss, **kwargs):
        super().__init__(encoder, (pairwise_loss.name,), **kwargs)
        self.projection_head = projection_head
        self.pairwise_loss = pairwise_loss
        self.pair_metrics = [PositivesPerAnchor(), AnchorsWithoutPositives()]
        if not projection_head.built:
            projection_head.build(encoder.output_shape)
        self.built = True

    def compute_losses(self, data):
        """The pairwise loss of the batch gathered over all replicas."""
        views, labels = data
        embeddings = self.projection_head(encode_views(self.encoder, views))
        embeddings = tf.reshape(embeddings, [-1, views.shape[1], embeddings.shape[-1]])
        embeddings.set_shape([views.shape[0], *embeddings.shape[1:]])
        labels, embeddings = gather_batch(labels), gather_batch(embeddings)
        for metric in self.pair_metrics:
            metric.update_state(labels, embeddings)
        return {self.pairwise_loss.name: self.pairwise_loss(labels, embeddings)}

    @property
    def metrics(self):
        """The loss, and how many positives the batches hold."""
        return [*super().metrics, *self.pair_metrics]


class CrossEntropyModel(ContrastiveModel):
    """The baseline: the same encoder and views, a linear classifier, cross entropy.

    Args:
        encoder: a built model from images [N, H, W, C] to features [N, F].
        num_classes: int >= 2.
        label_smoothing: float in [0, 1).
        **kwargs: as `keras.Model`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, encoder, num_classes, label_smoothing=0.0, **kwargs):
        super().__init__(encoder, ("cross_entropy",), **kwargs)
        if not isinstance(label_smoothing, int | float) or not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1). Received: {label_smoothing!r}.")
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2. Received: {num_classes}.")
        self.num_classes = num_classes
        self.classification_head = keras.layers.Dense(num_classes, name="logits", dtype="float32")
        self.classification_head.build(encoder.output_shape)
        self.cross_entropy = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=label_smoothing
        )
        self.built = True

    def compute_losses(self, data):
        """Cross entropy of every view; each replica's mean is over its own equal share."""
        views, labels = data
        logits = self.classification_head(encode_views(self.encoder, views))
        targets = tf.one_hot(tf.repeat(labels, views.shape[1]), self.num_classes)
        return {"cross_entropy": self.cross_entropy(targets, logits)}
