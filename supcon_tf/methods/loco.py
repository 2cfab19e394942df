"""LoCo: contrastive losses on the stages of an encoder, each loss training only a few stages.

Xiong, Ren and Urtasun 2020, "LoCo: Local Contrastive Representation Learning". Without overlap it
is Greedy InfoMax (Löwe, O'Connor and Veeling 2019, "Putting An End to End-to-End") with NT-Xent
as its loss; with the largest overlap it is end-to-end training.
"""

import keras
import tensorflow as tf
from keras import layers

from supcon_tf.engine.batches import unpack_views
from supcon_tf.engine.method import Method
from supcon_tf.losses import metrics
from supcon_tf.losses.pairs import choice
from supcon_tf.losses.simclr import SimCLRLoss
from supcon_tf.losses.supcon import SupConLoss
from supcon_tf.methods.spec import MethodSpec, Parts, given_settings, views_where
from supcon_tf.networks.copies import FusedBatchNormalization
from supcon_tf.networks.stages import split_into_stages

_LOSSES = {"simclr": SimCLRLoss, "supcon": SupConLoss}


@keras.saving.register_keras_serializable("supcon_tf")
class LoCo(Method):
    """Local losses on the stages of an encoder.

    With stages f_1 to f_S, feature maps h_s = f_s(h_{s-1}), decoders g_s and overlap k,

        L_s = NT-Xent(g_s(h_s))  for s = first_loss, ..., S
        L_s trains f_{s-k}, ..., f_s and g_s

    so that a stage gets the sum of the gradients of up to k + 1 losses. There is one forward pass,
    and feature maps and batch norm's statistics do not depend on k. The terms of the loss are named
    `stage{s}`.

    Batches are `(views [B, V, H, W, C], labels [B])`.

    Args:
        encoder: a model that `split_into_stages` takes.
        decoders: models from feature maps [N, H_s, W_s, C_s] to embeddings [N, D], one for each
            stage with a loss, in order.
        overlap: int k from 0 to S - 1.
        first_loss: int from 1 to k + 1; None for k + 1, the first stage whose loss trains k others.
        local_loss: "simclr" (NT-Xent), or "supcon" (L_out), which uses the labels.
        temperature: float > 0, dimensionless.
        **kwargs: as for `Method`.

    Raises:
        ValueError: if an argument is out of range, or the encoder has no stages.

    Reference:
        Xiong et al. 2020. The choice of decoders is ours.
    """

    def __init__(
        self,
        encoder,
        decoders,
        *,
        overlap=1,
        first_loss=None,
        local_loss="simclr",
        temperature=0.1,
        **kwargs,
    ):
        stages = split_into_stages(encoder)
        places = stages_with_loss(len(stages.layers), overlap, first_loss)
        choice("local_loss", local_loss, _LOSSES)
        if len(decoders) != len(places):
            raise ValueError(f"decoders must be {len(places)} models. Received: {len(decoders)}.")
        super().__init__(encoder, [f"stage{place}" for place in places], **kwargs)
        self.stages, self.places, self.decoders = stages, places, decoders
        self.overlap, self.first_loss = overlap, first_loss
        self.local_loss, self.temperature = local_loss, temperature
        self.contrastive_loss = _LOSSES[local_loss](temperature)
        self.uses_labels = local_loss == "supcon"
        self.pair_metrics = metrics.pair_metrics(decoders[-1].output_shape[-1])

    def forward(self, batch, training=True):
        """Embeddings [b, V, D] of each stage with a loss, by the loss's name, and labels [b]."""
        parts = self.forward_in_parts(batch, training)
        return {name: tensor for part in parts for name, tensor in part.items()}

    def forward_in_parts(self, batch, training=True):
        """As `forward`, a stage at a time; labels, and weights if any, come with each."""
        views, given = unpack_views(batch)
        if isinstance(views, tuple | list):
            raise ValueError(
                f"views of one size are needed. Received: {len(views)} sizes. Leave small_views "
                "out."
            )
        size, num_views, *image = views.shape
        maps = tf.reshape(views, [-1, *image])
        decoders = dict(zip(self.places, self.decoders, strict=True))
        for place, stage in enumerate(self.stages.models, start=1):
            maps = stage(maps, training=training)
            if place in decoders:
                rows = decoders[place](maps, training=training)
                embeddings = tf.reshape(rows, [size or -1, num_views, rows.shape[-1]])
                yield {f"stage{place}": embeddings, **given}

    def compute_losses(self, outputs):
        """The contrastive losses of the stages in these outputs."""
        labels = outputs["labels"] if self.uses_labels else None
        found = {name: outputs[name] for name in self.loss_names if name in outputs}
        for embeddings in found.values():
            if not self.uses_labels and embeddings.shape[1] < 2:
                raise ValueError(
                    "local_loss simclr needs two or more views of an image. Received: "
                    f"{embeddings.shape[1]}."
                )
        weights = outputs.get("sample_weight")
        return {
            name: self.contrastive_loss(labels, rows, sample_weight=weights)
            for name, rows in found.items()
        }

    def trained_by(self, name):
        """The variables of the last stages up to the loss's own, and those of its decoder."""
        index = self.loss_names.index(name)
        place = self.places[index]
        trained = self.stages.variables[max(0, place - 1 - self.overlap) : place]
        trained = [*trained, self.decoders[index].trainable_variables]
        return [variable for variables in trained for variable in variables]

    def measure(self, outputs):
        """Updates the metrics of the positives and of the last stage's embeddings."""
        labels = outputs["labels"] if self.uses_labels else None
        for metric in self.pair_metrics:
            metric.update_state(labels, outputs[self.loss_names[-1]])

    def collapsed_loss(self, batch_size, num_views):
        """The contrastive loss's value, once for each stage with a loss."""
        return len(self.places) * self.contrastive_loss.collapsed_value(batch_size * num_views)

    @property
    def metrics(self):
        """The losses, positives in the batches, and the spread of the last stage's embeddings."""
        return [*super().metrics, *self.pair_metrics]

    def get_config(self):
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "decoders": [keras.saving.serialize_keras_object(one) for one in self.decoders],
            "overlap": self.overlap,
            "first_loss": self.first_loss,
            "local_loss": self.local_loss,
            "temperature": self.temperature,
        }


def stages_with_loss(num_stages, overlap, first_loss=None):
    """The stages that have a loss, numbered from 1.

    Args:
        num_stages: int S >= 1.
        overlap: int from 0 to S - 1.
        first_loss: int from 1 to overlap + 1, or None for overlap + 1.

    Raises:
        ValueError: if an argument is out of range: a later first loss would leave the first stage
            without any.
    """
    if not isinstance(overlap, int) or not 0 <= overlap < num_stages:
        raise ValueError(
            f"overlap must be an int from 0 to {num_stages - 1}, one less than the encoder's "
            f"stages. Received: {overlap!r}."
        )
    first = overlap + 1 if first_loss is None else first_loss
    if not isinstance(first, int) or not 1 <= first <= overlap + 1:
        raise ValueError(
            f"first_loss must be an int from 1 to overlap + 1 = {overlap + 1}, so that every stage "
            f"is trained. Received: {first_loss!r}."
        )
    return range(first, num_stages + 1)


def build_decoder(num_channels, num_blocks, projection_head, dtype="float32", name=None):
    """A decoder of local losses: convolutions, global average pooling, projection head.

    Args:
        num_channels: int C of the feature maps.
        num_blocks: int >= 0; each block is a 3x3 convolution of C channels, batch norm and ReLU.
        projection_head: a layer from features [N, C] to embeddings [N, D].
        dtype: dtype policy of the blocks.
        name: of the model.

    Returns:
        A functional model from feature maps [N, H, W, C] of any size to embeddings [N, D].
    """
    maps = x = keras.Input((None, None, num_channels))
    for block in range(1, num_blocks + 1):
        x = layers.Conv2D(
            num_channels,
            3,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            dtype=dtype,
            name=f"block{block}_conv",
        )(x)
        x = FusedBatchNormalization(
            momentum=0.9, epsilon=1e-5, synchronized=True, dtype=dtype, name=f"block{block}_norm"
        )(x)
        x = layers.ReLU(dtype=dtype, name=f"block{block}_relu")(x)
    features = layers.GlobalAveragePooling2D(dtype="float32", name="features")(x)
    return keras.Model(maps, projection_head(features), name=name)


def _build(
    parts: Parts,
    *,
    overlap=1,
    first_loss=None,
    decoder_blocks=1,
    local_loss="simclr",
    temperature=0.1,
):
    if not isinstance(decoder_blocks, int) or decoder_blocks < 0:
        raise ValueError(
            f"decoder_blocks must be an int of at least 0. Received: {decoder_blocks!r}."
        )
    stages, decoders = parts.stages().models, []
    for place in stages_with_loss(len(stages), overlap, first_loss):
        channels = stages[place - 1].output_shape[-1]
        head = parts.projection_head(num_features=channels)
        name = f"decoder{place}"
        decoders.append(build_decoder(channels, decoder_blocks, head, parts.dtype, name))
    return LoCo(
        parts.encoder,
        decoders,
        overlap=overlap,
        first_loss=first_loss,
        local_loss=local_loss,
        temperature=temperature,
        **parts.engine,
    )


def _uses_labels(config):
    return given_settings(config).get("local_loss") == "supcon"


SPEC = MethodSpec(
    _build,
    *views_where(_uses_labels),
    takes_several_classes=lambda config: not _uses_labels(config),
)
