"""Images that have several classes each: whether they do, and how much their classes overlap."""

import tensorflow as tf


def are_several(labels) -> bool:
    """Whether labels give several classes per image, bool [B, C], not one class id, int [B].

    Args:
        labels: a tensor or an array; None is neither.
    """
    return labels is not None and labels.dtype == bool and list(labels.shape[1:]) not in ([], [1])


def jaccard_overlap(labels):
    r"""The overlap of the images' classes: the Jaccard index of their sets of classes.

        w_ij = |C_i & C_j| / |C_i | C_j|,   w_ii = 1

    with C_i the classes of image i. An image without a class has nothing in common with others.
    Where every image has one class, w is 1 for images of the same class and 0 for others.

    Args:
        labels: bool [B, C], whether image i shows class c.

    Returns:
        float32 [B, B], from 0 to 1, symmetric: the `positive_weights` of `supcon_loss`, which then
        has weighted positives, L_i = -sum_p w_ip log(...) / sum_p w_ip, and as negatives the images
        that have no class in common.

    Reference:
        Lin et al. 2023, "An Effective Deployment of Contrastive Learning in Multi-label Text
        Classification" (JSCL). Differs: the weights of an anchor are scaled to sum to 1, so that
        one class per image gives Khosla et al. 2020, eq. 2.
    """
    shown = tf.cast(labels, tf.float32)
    common = tf.matmul(shown, shown, transpose_b=True)
    counts = tf.reduce_sum(shown, axis=1)
    either = counts[:, None] + counts[None, :] - common
    return tf.linalg.set_diag(common / tf.maximum(either, 1.0), tf.ones_like(counts))
