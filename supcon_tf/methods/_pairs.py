"""What the pairwise losses share: shapes, masks and a masked log-sum-exp."""

from keras import ops

from supcon_tf.models.layers import unit_norm

# exp(-1e30 - x) is exactly 0 in float32 and, unlike -inf, leaves no NaN in a gradient.
_MASKED = -1e30


def flatten_views(labels, embeddings, normalize=True):
    """Flattens a multi-view batch to rows, view-major, in float32.

    Args:
        labels: int [B], or None where every image is a class of its own.
        embeddings: float [B, V, D], or [B, D] for one view.
        normalize: whether rows are scaled to unit norm. A zero row stays zero, with a zero
            gradient.

    Returns:
        labels int [V * B] and rows float32 [V * B, D]: all of view 0, then all of view 1, ...

    Raises:
        ValueError: if `embeddings` has neither two nor three axes.
    """
    embeddings = ops.cast(embeddings, "float32")
    if len(embeddings.shape) == 2:
        embeddings = embeddings[:, None, :]
    if len(embeddings.shape) != 3:
        raise ValueError(
            f"embeddings must be [B, V, D] or [B, D]. Received: shape {embeddings.shape}."
        )
    batch, num_views, dim = embeddings.shape
    batch = ops.shape(embeddings)[0] if batch is None else batch
    labels = ops.arange(batch, dtype="int32") if labels is None else ops.reshape(labels, [-1])
    rows = ops.reshape(ops.transpose(embeddings, [1, 0, 2]), [num_views * batch, dim])
    if normalize:
        rows = unit_norm(rows)
    return ops.tile(labels, [num_views]), rows


def pair_masks(anchor_labels, contrast_labels):
    """Which pairs are self, and which are positives.

    Args:
        anchor_labels: int [A]; the anchors are the first A contrasts.
        contrast_labels: int [N].

    Returns:
        self_mask and positive_mask, bool [A, N]. A row is no positive of itself.
    """
    num_anchors, num_contrasts = ops.shape(anchor_labels)[0], ops.shape(contrast_labels)[0]
    self_mask = ops.equal(ops.arange(num_anchors)[:, None], ops.arange(num_contrasts)[None, :])
    same = ops.equal(anchor_labels[:, None], contrast_labels[None, :])
    return self_mask, ops.logical_and(same, ops.logical_not(self_mask))


def masked_logsumexp(logits, mask):
    """log(sum(exp(logits))) over the entries of each row that `mask` keeps.

    Args:
        logits: float32 [A, N].
        mask: bool [A, N].

    Returns:
        float32 [A]; about -1e30 for a row that keeps nothing.
    """
    return ops.logsumexp(ops.where(mask, logits, _MASKED), axis=1)
