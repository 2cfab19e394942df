"""The training step that every method shares."""

import abc

import keras
import tensorflow as tf

from supcon_tf.engine.devices import num_replicas
from supcon_tf.engine.micro_batches import micro_batch_gradients
from supcon_tf.networks.copies import frozen_copy


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
            self.ema_encoder = frozen_copy(encoder)
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


def shown(metric):
    """Whether a metric is cheap enough to be computed at every step."""
    return not getattr(metric, "once_an_epoch", False)
