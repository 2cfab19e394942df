"""CoMatch: pseudo-labels and embeddings that regularize each other (Li, Xiong and Hoi 2021)."""

import dataclasses

import keras
import tensorflow as tf

from supcon_tf.data.own_augmentation import augmentation_of
from supcon_tf.data.policies import named_augmentation
from supcon_tf.data.streams import repeated, views, zipped
from supcon_tf.data.views import Position, Views
from supcon_tf.engine.batches import encode_views
from supcon_tf.losses.pairs import AnchorMean, check_count
from supcon_tf.losses.pseudo_labels import graph_loss, pseudo_label_graph
from supcon_tf.methods.classifying import ClassifyingMethod
from supcon_tf.methods.comatch_settings import CoMatchSettings
from supcon_tf.methods.spec import MethodSpec, Parts, given_settings
from supcon_tf.networks.copies import frozen_copy
from supcon_tf.networks.heads import project_views
from supcon_tf.networks.pseudo_labels import ClassQueue, PseudoLabeler

_RATIO, _BANK_BATCHES = 7, 5


@keras.saving.register_keras_serializable("supcon_tf")
class CoMatch(ClassifyingMethod):
    """Cross entropy, cross entropy with smoothed pseudo-labels, and a contrastive graph loss.

        L = L_x + lambda_u L_u + lambda_c L_c

    L_x is the cross entropy of labelled images, weakly augmented; L_u that of the strong view of
    unlabelled images with the pseudo-labels q of their weak view, where max q is at least the
    confidence; L_c is `graph_loss` between two strong views. FixMatch, with soft and aligned
    pseudo-labels, is alpha 1 and graph_weight 0, without embeddings or the third view.

    Batches are `{"labelled": (views [B, 1, H, W, C], labels [B]), "unlabelled": ((weak, strong,
    contrast), labels)}` with weak, strong and contrast [n, 1, H, W, C]; the labels of the
    unlabelled images are used only by metrics, and are `UNLABELED` if they are not known.

    Args:
        encoder: a built model from images [N, H, W, C] to features [N, F].
        projection_head: a layer from features [N, F] to unit-norm embeddings [N, D]; None if
            neither the bank nor the graph is used.
        num_classes: int >= 2.
        settings: `CoMatchSettings`, or a dict of its attributes.
        bank_size: rows of the memory bank; it smooths once it is full.
        ramp_steps: steps per epoch, for `graph_ramp`.
        **kwargs: as for `Method`.

    Raises:
        ValueError: if `settings` need a moving average or a bank, and there is none.

    Reference:
        Li et al. 2021, "CoMatch: Semi-supervised Learning with Contrastive Graph Regularization",
        algorithm 1. Differs: smoothing begins once the bank is full (in the authors' code after six
        steps or, for ImageNet, one epoch); the projection head has ReLU, not LeakyReLU; the moving
        average follows quickly at first and includes batch norm's statistics.
    """

    def __init__(
        self, encoder, projection_head, num_classes, settings, bank_size=0, ramp_steps=1, **kwargs
    ):
        made = CoMatchSettings(**settings) if isinstance(settings, dict) else settings
        names = "supervised", "pseudo_label", *(["graph"] if made.graph_weight else [])
        super().__init__(encoder, names, num_classes, 0.0, **kwargs)
        if made.teacher and self.ema_momentum is None:
            raise ValueError("teacher needs a moving average. Received: ema_momentum=None.")
        if (made.alpha < 1 or (made.teacher and made.embeds)) and bank_size < 1:
            raise ValueError(f"a bank needs a bank_size of at least 1. Received: {bank_size}.")
        self.projection_head, self.settings = projection_head, made
        self.bank_size, self.ramp_steps = bank_size, ramp_steps
        self.consistency = keras.losses.CategoricalCrossentropy(from_logits=True)
        dim = 0
        if made.embeds:
            if not projection_head.built:
                projection_head.build(encoder.output_shape)
            dim = projection_head.compute_output_shape(encoder.output_shape)[-1]
        bank = bank_size if made.alpha < 1 else 0
        smoothing = made.temperature, made.alpha
        self.pseudo_labels = PseudoLabeler(dim, num_classes, made.history, bank, *smoothing)
        self.contrast_queue = None
        if made.teacher and made.embeds:
            self.ema_projection = frozen_copy(projection_head, encoder.output_shape)
            self.contrast_queue = ClassQueue(bank_size, dim, num_classes, name="contrast_queue")
        monitors = "pseudo_label_top1", "smoothed_top1", "confident", "graph_degree"
        self.monitors = {name: keras.metrics.Mean(name=name) for name in monitors}

    def averaged_networks(self):
        """The base class's pairs, and the projection head of the teacher."""
        teacher = (
            [(self.projection_head, self.ema_projection)] if self.contrast_queue is not None else []
        )
        return [*super().averaged_networks(), *teacher]

    def forward(self, batch, training=True):
        """Logits and embeddings of each part of the batch, and the labels.

        Returns:
            `logits` [b, 1, C] and `labels` [b] of the labelled images; `weak_logits` and
            `strong_logits` [n, C], `hidden` labels [n]; `embeddings` [b, D] of "labelled" and
            [n, D] of "weak", "strong" and "contrast", if they are used.
        """
        labelled, labels = batch["labelled"]
        kinds, hidden = batch["unlabelled"]
        parts = {
            "labelled": labelled,
            **dict(zip(("weak", "strong", "contrast"), kinds, strict=False)),
        }
        networks = self.encoder, self.classification_head, self.projection_head
        if self.settings.teacher:
            student = {name: parts[name] for name in ("labelled", "strong")}
            logits, embeddings = self._apply(student, training, *networks)
            del parts["strong"]
            projection = None if self.contrast_queue is None else self.ema_projection
            found = self._apply(parts, False, self.ema_encoder, self.ema_head, projection)
            found = tf.nest.map_structure(tf.stop_gradient, found)
            logits, embeddings = {**found[0], **logits}, {**embeddings, **found[1]}
        else:
            logits, embeddings = self._apply(parts, training, *networks)
        return {
            "logits": logits["labelled"],
            "labels": labels,
            "weak_logits": tf.stop_gradient(logits["weak"][:, 0]),
            "strong_logits": logits["strong"][:, 0],
            "embeddings": {name: rows[:, 0] for name, rows in embeddings.items()},
            "hidden": hidden,
        }

    def _apply(self, parts, training, encoder, classifier, projection):
        """Logits and embeddings [n, 1, ...] of all parts, from one pass of the encoder."""
        sizes = [part.shape[0] for part in parts.values()]
        features = encode_views(encoder, tf.concat([*parts.values()], axis=0), training)

        def through(head):
            outputs = tf.split(project_views(head, features, training), sizes)
            return dict(zip(parts, outputs, strict=True))

        return through(classifier), {} if projection is None else through(projection)

    def _label(self, outputs):
        """Aligned probabilities and smoothed pseudo-labels of the unlabelled images."""
        return self.pseudo_labels(outputs["weak_logits"], outputs["embeddings"].get("weak"))

    def _graph(self, pseudo_labels):
        queued = self.contrast_queue and self.contrast_queue.contents()[1]
        return pseudo_label_graph(pseudo_labels, self.settings.graph_threshold, queued)

    def compute_losses(self, outputs):
        """The weighted terms."""
        _, pseudo_labels = self._label(outputs)
        confident = tf.cast(self._confident(pseudo_labels), tf.float32)
        consistency = self.consistency(pseudo_labels, outputs["strong_logits"], confident)
        terms = {
            "supervised": self.cross_entropy_of_views(outputs),
            "pseudo_label": self.settings.pseudo_label_weight * consistency,
        }
        if self.settings.graph_weight:
            terms["graph"] = self._graph_weight() * self._graph_loss(pseudo_labels, outputs)
        return terms

    def _graph_loss(self, pseudo_labels, outputs):
        embeddings = outputs["embeddings"]
        contrasts, filled = embeddings["contrast"], None
        if self.contrast_queue is not None:
            rows, _, queued = self.contrast_queue.contents()
            filled = tf.concat([tf.ones(tf.shape(contrasts)[:1], tf.bool), queued], axis=0)
            contrasts = tf.concat([contrasts, rows], axis=0)
        pairs = graph_loss(
            self._graph(pseudo_labels),
            embeddings["strong"],
            contrasts,
            temperature=self.settings.temperature,
            filled=filled,
        )
        return AnchorMean(name="graph")(pairs, pairs)

    def _confident(self, pseudo_labels):
        return tf.reduce_max(pseudo_labels, axis=1) >= self.settings.confidence

    def _graph_weight(self):
        weight = self.settings.graph_weight
        if not self.settings.graph_ramp:
            return weight
        epochs = tf.convert_to_tensor(self.pseudo_labels.batches) // self.ramp_steps
        return tf.minimum(tf.cast(epochs, tf.float32) + 1.0, weight)

    def after_step(self, outputs):
        """Puts this batch into the history, the bank and the queue of contrasts."""
        aligned, pseudo_labels = self._label(outputs)
        embeddings = outputs["embeddings"]
        labels = tf.cast(tf.reshape(outputs["labels"], [-1]), tf.int64)
        known = tf.one_hot(labels, self.num_classes)
        rows = [embeddings[name] for name in ("weak", "labelled") if name in embeddings]
        self.pseudo_labels.push(outputs["weak_logits"], rows, (aligned, known))
        if self.contrast_queue is not None:
            self.contrast_queue.push(embeddings["contrast"], pseudo_labels)

    def measure(self, outputs):
        """Updates the metrics of the pseudo-labels: accuracy, confidence, edges."""
        aligned, pseudo_labels = self._label(outputs)
        hidden = tf.cast(tf.reshape(outputs["hidden"], [-1]), tf.int64)
        known = tf.cast(hidden >= 0, tf.float32)
        for name, rows in (("pseudo_label_top1", aligned), ("smoothed_top1", pseudo_labels)):
            self.monitors[name].update_state(tf.argmax(rows, axis=1) == hidden, known)
        self.monitors["confident"].update_state(self._confident(pseudo_labels))
        edges = tf.math.count_nonzero(self._graph(pseudo_labels), axis=1) - 1
        self.monitors["graph_degree"].update_state(edges)

    @property
    def metrics(self):
        """The losses; accuracy of pseudo-labels; confident share; edges except the self-loop."""
        return [*super().metrics, *self.monitors.values()]

    def get_config(self):
        """The constructor's arguments."""
        own, serialize = super().get_config(), keras.saving.serialize_keras_object
        return {
            **{name: own[name] for name in own if name != "label_smoothing"},
            "projection_head": self.projection_head and serialize(self.projection_head),
            "settings": dataclasses.asdict(self.settings),
            "bank_size": self.bank_size,
            "ramp_steps": self.ramp_steps,
        }


def _build(parts: Parts, *, unlabelled_ratio=_RATIO, **settings):
    check_count("unlabelled_ratio", unlabelled_ratio)
    made = CoMatchSettings(**settings)
    useless = {"temperature", "graph_threshold", "graph_ramp"} & settings.keys()
    if useless and not made.embeds:
        raise ValueError(
            f"{min(useless)} has no effect when smoothing and the graph are off. Received: alpha=1 "
            "and graph_weight=0. Leave it out."
        )
    images, bank_size = (unlabelled_ratio + 1) * parts.batch_size, 0
    if made.alpha < 1 or (made.teacher and made.embeds):
        bank_size = parts.queue_size() or _BANK_BATCHES * images
    return CoMatch(
        parts.encoder,
        parts.projection_head() if made.embeds else None,
        parts.num_classes,
        made,
        bank_size,
        parts.steps_per_epoch,
        **parts.engine,
    )


def _unlabelled(dataset):
    if dataset.unlabelled is None:
        raise ValueError(
            f"images without labels are needed. Received: {dataset.name}, where all have labels. "
            "Pass --labels_per_class or --labelled_fraction, or add a folder unlabeled/."
        )
    return dataset.unlabelled


def _stream(
    dataset,
    config,
    first_step,
    share,
    *,
    unlabelled_ratio=_RATIO,
    weak="weak",
    strong="strong",
    alpha=CoMatchSettings.alpha,
    graph_weight=CoMatchSettings.graph_weight,
):
    """Labelled images, and `unlabelled_ratio` times as many unlabelled, in three views or two."""
    unlabelled = _unlabelled(dataset)
    check_count("unlabelled_ratio", unlabelled_ratio)
    if config.num_views != 2:
        raise ValueError(f"num_views must be 2 (strong views). Received: {config.num_views}.")
    augmentations, size = [*map(named_augmentation, (weak, strong))], config.batch_size
    if alpha < 1 or graph_weight:
        augmentations.append(augmentation_of(config))
    elif config.augmentation != type(config).augmentation:
        raise ValueError(
            "augmentation has no effect when smoothing and the graph are off. Received: "
            f"{config.augmentation!r}. Leave it out."
        )
    kinds = [Views(how, 1, dataset.image_size_px) for how in augmentations]
    first, second = (Position(config.seed, first_step, share, number) for number in (0, 1))
    return zipped(
        labelled=repeated(dataset.train, kinds[0], batch_size=size, position=first),
        unlabelled=views(unlabelled, kinds, batch_size=unlabelled_ratio * size, position=second),
    )


def _steps_per_epoch(dataset, config):
    """One pass over the unlabelled images."""
    ratio = given_settings(config).get("unlabelled_ratio", _RATIO)
    return _unlabelled(dataset).num_examples // (ratio * config.batch_size)


SPEC = MethodSpec(
    _build, _stream, _steps_per_epoch, (CoMatchSettings,), comparable_loss=False, own_batches=True
)
