"""SuNCEt: SimCLR on all images, and soft nearest neighbours on a few labelled ones.

Assran et al. 2020, "Supervision Accelerates Pre-training in Contrastive Semi-Supervised Learning of
Visual Representations".
"""

import dataclasses

import keras
import tensorflow as tf

from supcon_tf.data.own_augmentation import augmentation_of
from supcon_tf.data.streams import balanced, views, zipped
from supcon_tf.data.views import Position, Views
from supcon_tf.engine.batches import encode_views
from supcon_tf.engine.method import Method
from supcon_tf.losses import metrics
from supcon_tf.losses.pairs import (
    AnchorLoss,
    check_temperature,
    flatten_views,
    masked_logsumexp,
)
from supcon_tf.losses.simclr import SimCLRLoss
from supcon_tf.methods.spec import MethodSpec, Parts, one_pass_over_all_images
from supcon_tf.networks.heads import project_views


def suncet_loss(labels, embeddings, *, temperature=0.1, label_smoothing=0.0, num_classes=None):
    r"""Soft nearest-neighbour loss of labelled rows, one value per row.

    With unit rows z_i, s_ij = z_i . z_j / temperature and one-hot labels y, perhaps smoothed,

        p_ic = sum_{j != i} exp(s_ij) y_jc / sum_{k != i} exp(s_ik)
        l_i  = -sum_c y_ic log p_ic

    which without smoothing is -log(sum_{j in P(i)} exp s_ij / sum_{k != i} exp s_ik).

    Args:
        labels: int [n], class ids; from 0 to num_classes - 1 with smoothing.
        embeddings: float [n, D], or [n, V, D].
        temperature: float > 0, dimensionless.
        label_smoothing: float in [0, 1).
        num_classes: classes that the smoothing spreads over; not needed without smoothing.

    Returns:
        float32 [V * n], in nats, view-major. 0 for a row that is the only one of its class.

    Reference:
        Assran et al. 2020, eq. 1 and 2; the smoothing as in the authors' code.
    """
    labels, rows = flatten_views(labels, embeddings)
    logits = tf.matmul(rows, rows, transpose_b=True) / temperature  # [n, n]
    others = ~tf.eye(tf.shape(rows)[0], dtype=tf.bool)
    same = (labels[:, None] == labels[None, :]) & others
    log_all = masked_logsumexp(logits, others)
    has_positive = tf.reduce_any(same, axis=1)
    if not label_smoothing:
        return tf.where(has_positive, log_all - masked_logsumexp(logits, same), 0.0)
    shares = tf.exp(tf.where(others, logits, -1e30) - log_all[:, None])  # [n, n], rows sum to 1
    smoothed = (
        tf.one_hot(labels, num_classes) * (1 - label_smoothing) + label_smoothing / num_classes
    )
    posterior = tf.matmul(shares, smoothed)  # [n, C]
    losses = -tf.reduce_sum(smoothed * tf.math.log(posterior), axis=1)
    return tf.where(has_positive, losses, 0.0)


@keras.saving.register_keras_serializable("supcon_tf")
@dataclasses.dataclass(eq=False)
class SuNCEtLoss(AnchorLoss):
    """`suncet_loss` as a Keras loss: `loss(labels, embeddings)` is its mean over the rows.

    Args:
        temperature: float > 0, dimensionless.
        label_smoothing: float in [0, 1).
        num_classes: classes that the smoothing spreads over; not needed without smoothing.
        reduction: as in `keras.losses.Loss`; "none" returns one value per row.
        name: name of the loss.

    Raises:
        ValueError: if an argument is out of range.
    """

    temperature: float = 0.1
    label_smoothing: float = 0.0
    num_classes: int | None = None
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "suncet"

    def __post_init__(self):
        super().__post_init__()
        check_temperature(self.temperature)
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label_smoothing must be in [0, 1). Received: {self.label_smoothing}."
            )
        if self.label_smoothing and self.num_classes is None:
            raise ValueError("label_smoothing needs num_classes. Received: None.")

    def call(self, y_true, y_pred):
        """Labels int [n] and embeddings float [n, D] in, float32 [n] out."""
        return suncet_loss(y_true, y_pred, **vars(self.options))


@keras.saving.register_keras_serializable("supcon_tf")
class SuNCEt(Method):
    """SimCLR on the views of every image, plus `suncet_loss` on a labelled, class-balanced batch.

        L = NT-Xent(unlabelled) + SuNCEt(labelled) while epoch < supervised_epochs, else NT-Xent

    Batches are `{"unlabelled": (views [B, V, H, W, C], labels), "labelled": (views [n, 1, H, W, C],
    labels [n])}`; the labels of the unlabelled part are not used.

    Args:
        encoder: a built model from images [N, H, W, C] to features [N, F].
        projection_head: a layer from features [N, F] to embeddings [N, D].
        num_classes: classes of the data set.
        temperature: float > 0, of both losses.
        label_smoothing: float in [0, 1).
        supervised_steps: steps after which the second loss is switched off; None for never.
        **kwargs: as for `Method`.

    Reference:
        Assran et al. 2020, section 3. Differs: NT-Xent's gradient flows into both sides of a pair;
        in the authors' code the contrasts are detached.
    """

    def __init__(
        self,
        encoder,
        projection_head,
        num_classes,
        *,
        temperature=0.1,
        label_smoothing=0.0,
        supervised_steps=None,
        **kwargs,
    ):
        super().__init__(encoder, ("simclr", "suncet"), **kwargs)
        self.projection_head, self.num_classes = projection_head, num_classes
        self.temperature, self.label_smoothing = temperature, label_smoothing
        self.supervised_steps = supervised_steps
        if not projection_head.built:
            projection_head.build(encoder.output_shape)
        dim = projection_head.compute_output_shape(encoder.output_shape)[-1]
        self.simclr_loss = SimCLRLoss(temperature)
        self.suncet_loss = SuNCEtLoss(temperature, label_smoothing, num_classes)
        self.steps = self.add_weight(
            (),
            "zeros",
            "int64",
            trainable=False,
            aggregation="only_first_replica",
            name="steps",
        )
        self.spread = [metrics.Uniformity(), metrics.EffectiveRank(dim)]

    def forward(self, batch, training=True):
        """Embeddings [b, V, D] of the views, and [n, 1, D] of the labelled images with labels [n].

        All images pass through the encoder together, so batch norm's statistics cover them all.
        """
        (unlabelled, _), (labelled, labels) = batch["unlabelled"], batch["labelled"]
        _, num_views, *size = unlabelled.shape
        images = [tf.reshape(part, [-1, 1, *size]) for part in (unlabelled, labelled)]
        features = encode_views(self.encoder, tf.concat(images, axis=0), training)
        embeddings = project_views(self.projection_head, features, training)  # [b * V + n, 1, D]
        views, rows = tf.split(embeddings, [images[0].shape[0], images[1].shape[0]])
        views = tf.reshape(views, [-1, num_views, views.shape[-1]])
        views = tf.ensure_shape(views, [unlabelled.shape[0], num_views, views.shape[-1]])
        return {"embeddings": views, "labelled": rows, "labels": labels}

    def compute_losses(self, outputs):
        """NT-Xent of the views and, as long as it is on, SuNCEt of the labelled images."""
        supervised = self.suncet_loss(outputs["labels"], outputs["labelled"])
        if self.supervised_steps is not None:
            on = tf.convert_to_tensor(self.steps) < self.supervised_steps
            supervised = tf.where(on, supervised, 0.0)
        return {"simclr": self.simclr_loss(None, outputs["embeddings"]), "suncet": supervised}

    def after_step(self, outputs):
        """Counts the steps."""
        self.steps.assign_add(1)

    def measure(self, outputs):
        """Updates the metrics of the spread of the embeddings."""
        for metric in self.spread:
            metric.update_state(None, outputs["embeddings"])

    @property
    def metrics(self):
        """The losses, and the metrics of the spread of the embeddings."""
        return [*super().metrics, *self.spread]

    def get_config(self):
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "projection_head": keras.saving.serialize_keras_object(self.projection_head),
            "num_classes": self.num_classes,
            "temperature": self.temperature,
            "label_smoothing": self.label_smoothing,
            "supervised_steps": self.supervised_steps,
        }


def _build(parts: Parts, *, temperature=0.1, label_smoothing=0.0, supervised_epochs=None):
    steps = None
    if supervised_epochs is not None:
        if not isinstance(supervised_epochs, int | float) or not 0 < supervised_epochs <= 1e6:
            raise ValueError(
                "supervised_epochs must be above 0 and at most 1e6. Received: "
                f"{supervised_epochs!r}."
            )
        steps = max(1, round(supervised_epochs * parts.steps_per_epoch))
    return SuNCEt(
        parts.encoder,
        parts.projection_head(),
        parts.num_classes,
        temperature=temperature,
        label_smoothing=label_smoothing,
        supervised_steps=steps,
        **parts.engine,
    )


def _stream(
    dataset,
    config,
    first_step,
    share,
    *,
    classes_per_batch=None,
    images_per_class=2,
):
    """Streams of all training images, without labels, and of the labelled ones, zipped."""
    how, side = augmentation_of(config), dataset.image_size_px
    if classes_per_batch is None:
        classes_per_batch = len(dataset.class_names)
    if images_per_class == 1:
        raise ValueError(
            "images_per_class must be at least 2: an image alone of its class has no neighbour. "
            "Received: 1."
        )
    if config.num_views < 2:
        raise ValueError(
            "suncet needs two or more views of an image. Received: "
            f"num_views={config.num_views}. Pass --num_views=2."
        )
    return zipped(
        unlabelled=views(
            dataset.all_images,
            Views(how, config.num_views, side),
            batch_size=config.batch_size,
            position=Position(config.seed, first_step, share),
        ),
        labelled=balanced(
            dataset.train,
            Views(how, 1, side),
            classes_per_batch=len(dataset.class_names)
            if classes_per_batch is None
            else classes_per_batch,
            images_per_class=images_per_class,
            position=Position(config.seed, first_step, share, number=1),
        ),
    )


SPEC = MethodSpec(
    _build, _stream, one_pass_over_all_images, comparable_loss=False, own_batches=True
)
