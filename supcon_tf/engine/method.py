"""The contract of a training method, and the one training step that all of them share."""

import abc

import keras
import tensorflow as tf

from supcon_tf.engine.batches import non_empty_batch, weights_need_labels
from supcon_tf.engine.local_terms import local_gradients, local_variables
from supcon_tf.engine.micro_batches import check_repeatable, micro_batch_gradients
from supcon_tf.engine.workers import gather_batch, num_replicas
from supcon_tf.networks.copies import frozen_copy, portable_copy


@keras.saving.register_keras_serializable("supcon_tf")
class Method(keras.Model, abc.ABC):
    """An encoder and the one `train_step`; a subclass defines what is computed and compared.

    A subclass implements `forward`, which computes image by image, and `compute_losses`, which
    compares the outputs of the whole batch. If it needs them, it adds `after_step` (state of
    its own, such as a queue), `measure` (metrics), `kept` (more models than the encoder),
    `trained_by` (terms of the loss that train only some variables) and `get_config`. The batch is
    whatever its stream yields: any structure of tensors, whose sizes may differ. Everything that
    changes during training is a weight, so that it is in the checkpoint.

    To Keras it is an ordinary model: `fit`, `evaluate` and `train_on_batch` take such
    batches, and `model(images)` gives features.

    Args:
        encoder: a built model from images [N, H, W, C] to features [N, F].
        loss_names: the names of the terms that `compute_losses` returns.
        micro_batch_size: images of a replica that are encoded at once; None for all. The gradient
            is that of the whole batch (see `micro_batch_gradients`); batch norm's statistics are
            those of a micro-batch.
        ema_momentum: momentum of an exponential moving average of the encoder's weights, which
            evaluation then uses; None for no average.
        **kwargs: as for `keras.Model`.

    Raises:
        ValueError: if `ema_momentum` or `micro_batch_size` is out of range, or micro-batches would
            draw different random numbers the second time.
    """

    def __init__(self, encoder, loss_names, *, micro_batch_size=None, ema_momentum=None, **kwargs):
        super().__init__(**kwargs)
        if micro_batch_size is not None and micro_batch_size < 1:
            raise ValueError(f"micro_batch_size must be at least 1. Received: {micro_batch_size}.")
        if ema_momentum is not None and not 0 < ema_momentum < 1:
            raise ValueError(f"ema_momentum must be in (0, 1). Received: {ema_momentum}.")
        if micro_batch_size is not None:
            check_repeatable(encoder)
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
        self.loss_names = tuple(loss_names)
        extra = loss_names if len(loss_names) > 1 else ()
        self.term_trackers = {name: keras.metrics.Mean(name=name) for name in extra}
        self.built = True  # A subclass builds its layers in its constructor.

    @abc.abstractmethod
    def forward(self, batch, training=True):
        """Computes, image by image, what the losses compare.

        Args:
            batch: this replica's part of a batch of the stream, or a micro-batch of it.
            training: whether batch norm and dropout are in training mode.

        Returns:
            A structure of tensors [n, ...], n of any size: embeddings, and whatever else of the
            batch the losses need, such as labels.
        """

    @abc.abstractmethod
    def compute_losses(self, outputs):
        """Computes the named terms of the loss, which are summed; it changes nothing.

        Args:
            outputs: what `forward` returned for the whole batch, joined over micro-batches and
                replicas.

        Returns:
            dict of float32 scalars by the names given to the constructor. Each comes from calling a
            `keras.losses.Loss` whose `call` returns one value per anchor: the mean over the global
            batch, divided by the number of replicas.
        """

    def trained_by(self, name):
        """The variables that a term of the loss trains, as a list; None, the default, for all.

        The gradient of a variable is the sum over the terms that train it, and 0 if none does.
        Losses of layers, such as weight decay, train all variables.

        Args:
            name: one of the names given to the constructor.
        """
        return None

    def forward_in_parts(self, batch):
        """Yields `forward`'s dict in parts if terms train only some variables; one part by default.

        `compute_losses` computes some of the terms from each part. Their gradients are taken before
        the next part is computed, so that whatever only they need is freed.
        """
        yield self.forward(batch)

    def after_step(self, outputs):
        """Updates a method's own state once the weights have been updated.

        Args:
            outputs: as in `compute_losses`.
        """

    def measure(self, outputs):
        """Updates a method's own metrics, in training and in evaluation.

        Args:
            outputs: as in `compute_losses`.
        """

    def kept(self):
        """The models that a run keeps, by name, made of Keras's own layers; at least `encoder`."""
        return {"encoder": portable_copy(self.encoder, self.evaluation_encoder)}

    def collapsed_loss(self, batch_size, num_views):
        """The loss when all embeddings are identical; None if it is not known.

        Args:
            batch_size: images of the global batch.
            num_views: views of each.
        """
        return None

    @property
    def metrics(self):
        """The trackers that are reset at the start of an epoch."""
        return [self.total_tracker, *self.term_trackers.values()]

    @property
    def evaluation_encoder(self):
        """The encoder to evaluate and keep: the moving average if there is one."""
        return self.encoder if self.ema_momentum is None else self.ema_encoder

    def call(self, images, training=False):
        """Images float [B, H, W, C] in, features [B, F] out."""
        return self.encoder(images, training=training)

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        **kwargs,
    ):
        """As `keras.Model.compile`; the losses and metrics are the method's own.

        Raises:
            ValueError: if others are given.
        """
        given = {
            "loss": loss,
            "loss_weights": loss_weights,
            "metrics": metrics,
            "weighted_metrics": weighted_metrics,
        }
        for name, value in given.items():
            if value:
                raise ValueError(
                    f"compile({name}=...) is not for {type(self).__name__}, whose losses and "
                    f"metrics are its own. Received: {name}={value!r}. Leave it out."
                )
        super().compile(optimizer=optimizer, **kwargs)

    def compile_from_config(self, config):
        """Compiles a loaded model as it was; Keras leaves this to classes that define `compile`."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    fit = weights_need_labels(keras.Model.fit, "sample_weight", "class_weight")
    evaluate = weights_need_labels(keras.Model.evaluate, "sample_weight")
    train_on_batch = weights_need_labels(keras.Model.train_on_batch, "class_weight")

    def train_step(self, batch):
        """Makes one step on this replica's part of a batch of the stream."""
        batch = non_empty_batch(batch)
        terms, gradients, outputs = self.gradients(batch)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        self._update_averages()
        logs = self._logged(terms, outputs)  # Before the state that the losses saw changes.
        self.after_step(outputs)
        return logs

    def test_step(self, batch):
        """Computes the losses and metrics of a batch without training on it."""
        outputs = gather_outputs(self.forward(non_empty_batch(batch), training=False))
        terms = {**self.compute_losses(outputs), **self.regularization()}
        return self._logged(terms, outputs)

    def gradients(self, batch):
        """The terms of the loss, the gradients of their (scaled) sum, and the outputs."""
        if self.micro_batch_size is not None:
            return micro_batch_gradients(self, batch)
        if local_variables(self):
            return local_gradients(self, batch)
        with tf.GradientTape() as tape:
            outputs = gather_outputs(self.forward(batch))
            terms = {**self.compute_losses(outputs), **self.regularization()}
            scaled = self.optimizer.scale_loss(sum(terms.values()))
        return terms, tape.gradient(scaled, self.trainable_variables), outputs

    def regularization(self):
        """The losses of layers. Every replica adds the same ones: divided, they count once."""
        return {"regularization": sum(self.losses) / num_replicas()} if self.losses else {}

    def _logged(self, terms, outputs):
        """Updates all metrics, and returns those that are cheap enough for every step."""
        self.measure(outputs)
        # Batches of different sizes are weighted by their images, as in Keras's own losses.
        images = tf.shape(tf.nest.flatten(outputs)[0])[0]
        replicas = num_replicas()
        self.total_tracker.update_state(sum(terms.values()) * replicas, images)
        for name, tracker in self.term_trackers.items():
            tracker.update_state(terms[name] * replicas, images)
        return {metric.name: metric.result() for metric in self.metrics if shown(metric)}

    def averaged_networks(self):
        """Pairs of a network and its moving average, if there is one."""
        return [] if self.ema_momentum is None else [(self.encoder, self.ema_encoder)]

    def _update_averages(self):
        """The average follows quickly at first: momentum min(m, (1 + t) / (10 + t))."""
        if self.ema_momentum is None:
            return
        step = tf.cast(tf.convert_to_tensor(self.ema_updates), tf.float32)
        momentum = tf.minimum(self.ema_momentum, (1.0 + step) / (10.0 + step))
        for network, average in self.averaged_networks():
            for mean, now in zip(average.weights, network.weights, strict=True):
                if keras.backend.is_float_dtype(mean.dtype):  # Not a count of examples.
                    share = tf.cast(momentum, mean.dtype)
                    mean.assign(share * mean + (1.0 - share) * now)
        self.ema_updates.assign_add(1)

    def get_config(self):
        """The constructor's arguments; a subclass adds its own to them."""
        return {
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "micro_batch_size": self.micro_batch_size,
            "ema_momentum": self.ema_momentum,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Rebuilds a model from `get_config`'s result."""
        return cls(**{name: _deserialized(value) for name, value in config.items()})


ContrastiveModel = Method  # The public name.


def _deserialized(value):
    if isinstance(value, list):
        return [_deserialized(one) for one in value]
    is_object = isinstance(value, dict) and "class_name" in value
    return keras.saving.deserialize_keras_object(value) if is_object else value


def gather_outputs(outputs):
    """Joins the outputs of `forward` of all replicas, each tensor along its first axis."""
    return tf.nest.map_structure(gather_batch, outputs)


def shown(metric):
    """Whether a metric is cheap enough to be computed at every step."""
    return not getattr(metric, "once_an_epoch", False)
