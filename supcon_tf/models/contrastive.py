"""The training step that every method shares."""

import abc

import keras
import tensorflow as tf

from supcon_tf import metrics
from supcon_tf.distribute import gather_batch, num_replicas
from supcon_tf.models.layers import MemoryQueue
from supcon_tf.models.micro_batches import micro_batch_gradients


def encode_views(encoder, views, training=True):
    """Encodes all views in one pass.

    Args:
        encoder: a model from images [N, H, W, C] to features [N, F].
        views: float [B, V, H, W, C].
        training: passed on to the encoder.

    Returns:
        float32 [B * V, F], image-major: both views of image 0, then of image 1, ...
    """
    _, num_views, height, width, channels = views.shape
    images = tf.reshape(views, [-1, height, width, channels])
    features = tf.cast(encoder(images, training=training), tf.float32)
    features.set_shape([views.shape[0] and views.shape[0] * num_views, features.shape[-1]])
    return features


class ContrastiveModel(keras.Model, abc.ABC):
    """An encoder and the one `train_step`; a subclass says what is computed and compared.

    A subclass implements `forward(inputs)`, whatever is computed image by image, and
    `compute_losses(labels, outputs)`, which compares what came of the whole batch and has no
    trainable variables; and, where it keeps state of its own (a queue), `after_step()`. Everything
    that changes during training is a weight, so that it is in the checkpoint.

    Args:
        encoder: a built model from images [N, H, W, C] to features [N, F].
        loss_names: the names of the terms that `compute_losses` returns.
        micro_batch_size: images of a replica that are encoded at once; None for all. The gradient
            is that of the whole batch (see `micro_batch_gradients`); batch norm's statistics are
            those of a micro-batch.
        ema_momentum: momentum of an exponential moving average of the encoder's weights, which
            evaluation then uses; None for none.
        **kwargs: as `keras.Model`.

    Raises:
        ValueError: if `ema_momentum` or `micro_batch_size` is out of range.
    """

    def __init__(self, encoder, loss_names, *, micro_batch_size=None, ema_momentum=None, **kwargs):
        super().__init__(**kwargs)
        if micro_batch_size is not None and micro_batch_size < 1:
            raise ValueError(f"micro_batch_size must be at least 1. Received: {micro_batch_size}.")
        if ema_momentum is not None and not 0 < ema_momentum < 1:
            raise ValueError(f"ema_momentum must be in (0, 1). Received: {ema_momentum}.")
        self.encoder = encoder
        self.micro_batch_size = micro_batch_size
        self.ema_momentum = ema_momentum
        if ema_momentum is not None:
            self.ema_encoder = _frozen_copy(encoder)
            self.ema_updates = self.add_weight(
                (),
                "zeros",
                "int64",
                trainable=False,
                aggregation="only_first_replica",
                name="ema_updates",
            )
        self.total_tracker = keras.metrics.Mean(name="loss")
        extra = loss_names if len(loss_names) > 1 else ()
        self.term_trackers = {name: keras.metrics.Mean(name=name) for name in extra}

    @abc.abstractmethod
    def forward(self, inputs):
        """What is computed image by image.

        Args:
            inputs: a structure of tensors [b, ...]: this replica's images, as `train_step` got
                them, or a micro-batch of them.

        Returns:
            A structure of tensors [b * n, ...], image-major.
        """

    @abc.abstractmethod
    def compute_losses(self, labels, outputs):
        """The named terms of the loss, which are summed; called once a step.

        Args:
            labels: this replica's labels [b].
            outputs: what `forward` gives for all of this replica's images.

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

    @property
    def evaluation_encoder(self):
        """The encoder to evaluate and keep: the moving average where there is one."""
        return self.encoder if self.ema_momentum is None else self.ema_encoder

    def call(self, images, training=False):
        """Images float [B, H, W, C] in, features [B, F] out."""
        return self.encoder(images, training=training)

    def train_step(self, data):
        """One step on `(views [b, V, H, W, C], labels [b])` of each replica."""
        inputs, labels, *_ = data
        replicas = num_replicas()
        if self.micro_batch_size is None:
            terms, gradients = self._gradients(inputs, labels, replicas)
        else:
            terms, gradients = micro_batch_gradients(self, inputs, labels, replicas)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        self._update_averages()
        self.after_step()
        self.total_tracker.update_state(sum(terms.values()) * replicas)
        for name, tracker in self.term_trackers.items():
            tracker.update_state(terms[name] * replicas)
        return {metric.name: metric.result() for metric in self.metrics if shown(metric)}

    def _gradients(self, inputs, labels, replicas):
        """The terms of the loss, regularization among them, and the gradients (scaled)."""
        with tf.GradientTape() as tape:
            terms = self.compute_losses(labels, self.forward(inputs))
            # Keras adds a layer's losses on every replica alike: divided, they count once.
            terms |= {"regularization": sum(self.losses) / replicas} if self.losses else {}
            scaled = self.optimizer.scale_loss(sum(terms.values()))
        return terms, tape.gradient(scaled, self.trainable_variables)

    def averaged_networks(self):
        """Pairs of a network and its moving average, where there is one."""
        return [] if self.ema_momentum is None else [(self.encoder, self.ema_encoder)]

    def _update_averages(self):
        """The average follows quickly at first: momentum min(m, (1 + t) / (10 + t))."""
        if self.ema_momentum is None:
            return
        step = tf.cast(tf.convert_to_tensor(self.ema_updates), tf.float32)
        momentum = tf.minimum(self.ema_momentum, (1.0 + step) / (10.0 + step))
        for network, average in self.averaged_networks():
            for mean, now in zip(average.weights, network.weights, strict=True):
                mean.assign(momentum * mean + (1.0 - momentum) * now)
        self.ema_updates.assign_add(1)


def _frozen_copy(network, input_shape=None):
    """A copy of a model, or of a layer, with the same weights; not trainable."""
    if isinstance(network, keras.Model):
        copy = keras.models.clone_model(network)
    else:
        copy = type(network).from_config(network.get_config())
        copy.build(input_shape)
    copy.set_weights(network.get_weights())
    copy.trainable = False
    return copy


def shown(metric):
    """Whether a metric is cheap enough to be computed at every step."""
    return not getattr(metric, "once_an_epoch", False)


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
                self.ema_head = _frozen_copy(projection_head, encoder.output_shape)
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


class CrossEntropyModel(ContrastiveModel):
    """The baseline: the same encoder and views, a linear classifier, cross entropy.

    Args:
        encoder: a built model from images [N, H, W, C] to features [N, F].
        num_classes: int >= 2.
        label_smoothing: float in [0, 1).
        **kwargs: as `ContrastiveModel`.

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
        if self.ema_momentum is not None:
            self.ema_head = _frozen_copy(self.classification_head, encoder.output_shape)
        self.cross_entropy = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=label_smoothing
        )
        self.built = True

    def averaged_networks(self):
        """As the base's, and the head."""
        pairs = super().averaged_networks()
        return [*pairs, (self.classification_head, self.ema_head)] if pairs else []

    @property
    def evaluation_head(self):
        """The classifier to evaluate and keep: the moving average where there is one."""
        return self.classification_head if self.ema_momentum is None else self.ema_head

    def forward(self, inputs):
        """Logits [b * V, C] of views [b, V, H, W, C]."""
        return self.classification_head(encode_views(self.encoder, inputs))

    def compute_losses(self, labels, outputs):
        """Cross entropy of every view; each replica's mean is over its own equal share."""
        views = tf.shape(outputs)[0] // tf.shape(labels)[0]
        targets = tf.one_hot(tf.repeat(labels, views), self.num_classes)
        return {"cross_entropy": self.cross_entropy(targets, outputs)}
