"""The SimCLR loss (NT-Xent): every image is a class of its own.

Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", eq. 1.
"""

import dataclasses
import math

import keras

from supcon_tf.losses.pairs import AnchorLoss, check_block_size, check_temperature
from supcon_tf.losses.supcon import supcon_loss


@keras.saving.register_keras_serializable("supcon_tf")
@dataclasses.dataclass(eq=False)
class SimCLRLoss(AnchorLoss):
    """NT-Xent: the positives of an anchor are the other views of its image.

        l_i = -mean_{p in other views of i} log(exp s_ip / sum_{a != i} exp s_ia)

    with s_ij = z_i . z_j / temperature over unit-norm rows; with two views the mean has one term.
    Labels are accepted but not used, so that the loss can replace `SupConLoss`. Called as
    `loss(labels or None, embeddings float [B, V, D])` with V >= 2; memory is linear in the rows.

    Args:
        temperature: float > 0, dimensionless.
        block_size: anchors per block; None for automatic.
        reduction: as in `keras.losses.Loss`; "none" returns one value per anchor, in nats.
        name: name of the loss.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        Chen et al. 2020, eq. 1; equals `SupConLoss` with labels 0, 1, 2, ...
    """

    uses_labels = False

    temperature: float = 0.5
    _: dataclasses.KW_ONLY
    block_size: int | None = None
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "simclr"

    def __post_init__(self):
        super().__post_init__()
        check_temperature(self.temperature)
        check_block_size(self.block_size)

    def call(self, y_true, y_pred, queue=None):
        """Embeddings float [B, V, D] in, float32 [V * B] out, view-major; labels are not used."""
        return supcon_loss(None, y_pred, queue=queue, **vars(self.options))

    def collapsed_value(self, num_rows):
        """The loss of identical embeddings, log(N - 1)."""
        return math.log(max(1, num_rows - 1))
