"""Pseudo-labels and the graph that they span, as CoMatch uses them.

Li, Xiong and Hoi 2021, "CoMatch: Semi-supervised Learning with Contrastive Graph Regularization".
"""

import tensorflow as tf

from supcon_tf.losses.pairs import masked_logsumexp
from supcon_tf.losses.products import row_products


def align_distribution(probabilities, average):
    """Divides class probabilities by their recent average, and scales each row to sum to 1.

    Args:
        probabilities: float32 [N, C], rows sum to 1.
        average: float32 [C], the average of recent batches, all above 0.

    Returns:
        float32 [N, C], rows sum to 1; uniform where a row equals the average.

    Reference:
        Li et al. 2021, section 3.3 (distribution alignment).
    """
    aligned = probabilities / average
    return aligned / tf.reduce_sum(aligned, axis=1, keepdims=True)


def smooth_pseudo_labels(probabilities, embeddings, bank, *, temperature=0.2, alpha=0.9):
    r"""Pseudo-labels smoothed by those of similar images in a memory bank.

        a_bk = softmax_k(z_b . z_k / temperature)
        q_b  = alpha p_b + (1 - alpha) sum_k a_bk p_k

    which minimizes (1 - alpha) sum_k a_bk |q - p_k|^2 + alpha |q - p_b|^2.

    Args:
        probabilities: float32 [N, C], p.
        embeddings: float32 [N, D], unit rows.
        bank: `(embeddings float32 [Q, D], probabilities float32 [Q, C], filled bool [Q])`.
        temperature: float > 0, dimensionless.
        alpha: float in [0, 1], the weight of an image's own probabilities.

    Returns:
        float32 [N, C]; `probabilities` if the bank is empty.

    Reference:
        Li et al. 2021, eq. 5 and 6.
    """
    rows, classes, filled = bank
    logits = row_products(embeddings, rows) / temperature  # [N, Q]
    mask = tf.broadcast_to(filled[None, :], tf.shape(logits))
    shares = tf.exp(logits - masked_logsumexp(logits, mask)[:, None])
    shares = tf.where(mask, shares, 0.0)
    smoothed = alpha * probabilities + (1.0 - alpha) * row_products(shares, tf.transpose(classes))
    return tf.where(tf.reduce_any(filled), smoothed, probabilities)


def pseudo_label_graph(pseudo_labels, threshold, queued=None):
    r"""The graph whose edges join images of similar pseudo-labels; rows sum to 1.

        w_bj = 1 if b = j, else q_b . q_j where that is at least the threshold, else 0

    Args:
        pseudo_labels: float32 [N, C], q.
        threshold: float; above 1 only the loops remain.
        queued: float32 [Q, C], q of earlier batches, as further columns; zero rows have no edges.

    Returns:
        float32 [N, N], or [N, N + Q], each row divided by its sum.

    Reference:
        Li et al. 2021, eq. 8.
    """
    graph = row_products(pseudo_labels, pseudo_labels)
    graph = tf.where(graph >= threshold, graph, 0.0)
    graph = tf.linalg.set_diag(graph, tf.ones(tf.shape(graph)[:1]))
    if queued is not None:
        others = row_products(pseudo_labels, queued)
        kept = (others >= threshold) & (others > 0)
        graph = tf.concat([graph, tf.where(kept, others, 0.0)], axis=1)
    return graph / tf.reduce_sum(graph, axis=1, keepdims=True)


def graph_loss(graph, anchors, contrasts, *, temperature=0.2, filled=None):
    r"""Contrastive loss whose positives are the edges of a graph, one value per anchor.

        s_bj = softmax_j(z_b . z'_j / temperature)
        l_b  = -sum_j w_bj log(s_bj + 1e-7)

    Args:
        graph: float32 [N, M], rows sum to 1. No gradient flows into it.
        anchors: float32 [N, D], unit rows: one strong view of each image.
        contrasts: float32 [M, D], unit rows: the other view of each image, and perhaps those of
            earlier batches.
        temperature: float > 0, dimensionless.
        filled: bool [M], which contrasts are filled; None for all.

    Returns:
        float32 [N], in nats. With loops alone, cross entropy of each image's own other view; with
        the graph of classes, L_out between two views, the own pair included.

    Reference:
        Li et al. 2021, eq. 9 and 10. Differs: as in the authors' code, the graph of embeddings
        joins the first strong view with the second throughout.
    """
    logits = row_products(anchors, contrasts) / temperature
    if filled is not None:
        logits = tf.where(filled[None, :], logits, -1e30)
    shares = tf.nn.softmax(logits)
    return -tf.reduce_sum(tf.stop_gradient(graph) * tf.math.log(shares + 1e-7), axis=1)
