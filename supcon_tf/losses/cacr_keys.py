"""CACR between several query views and the keys of a momentum encoder, without a queue.

Zheng et al. 2023, "Contrastive Attraction and Contrastive Repulsion for Representation Learning",
in the form of its authors' code for MoCo v3.
"""

import tensorflow as tf

from supcon_tf.losses.cacr import conditional_weights
from supcon_tf.losses.distances import squared_distances
from supcon_tf.losses.pairs import check_temperature, choice, unit_norm
from supcon_tf.losses.products import row_products


def cacr_key_loss(queries, keys, *, temperature=1.0, cost="rbf"):
    """CACR of query views with the momentum keys of one other view, one value per key.

    With q_v the queries of view v, k the keys, all of unit norm, s_ij = q_vi . k_j, T the
    temperature and p_vi the softmax over the views v of |q_vi - k_i|^2 / T,

        "rbf":        2T sum_v p_vi (log sum_j exp(s_ij / T) - s_ii / T)
        "euclidean":  sum_v p_vi ((1 - s_ii) - sum_{j != i} w_ij (1 - s_ij)),
                      w_ij the softmax over j != i of -(1 - s_ij) / T.

    No gradient flows into the keys, nor through p and w. With a single query view "rbf" is 2T times
    InfoNCE. The loss of a batch is its mean over the views that give keys, each with the queries
    of the other views. It takes [V, B, B] elements.

    Args:
        queries: float [B, V, D], of the views other than the keys'; scaled to unit norm.
        keys: float [B, D]; scaled to unit norm.
        temperature: float > 0, dimensionless.
        cost: "rbf" or "euclidean".

    Returns:
        float32 [B].

    Raises:
        ValueError: if an argument is out of range, or a shape is wrong.

    Reference:
        Zheng et al. 2023. Differs: the authors' Euclidean form is a sum over the batch; here too
        the loss is the mean.
    """
    check_temperature(temperature)
    choice("cost", cost, ("rbf", "euclidean"))
    if len(queries.shape) != 3 or len(keys.shape) != 2:
        raise ValueError(
            f"queries must be [B, V, D] and keys [B, D]. Received: {queries.shape}, {keys.shape}."
        )
    queries, keys = unit_norm(queries), tf.stop_gradient(unit_norm(keys))
    queries = tf.transpose(queries, [1, 0, 2])  # [V, B, D]
    # Of unit rows, 1 - s is half the squared distance, which keeps its digits for near rows.
    own = 0.5 * tf.reduce_sum(tf.square(queries - keys), axis=2)  # [V, B]
    share = tf.stop_gradient(tf.nn.softmax(2.0 * own / temperature, axis=0))
    if cost == "rbf":
        logits = row_products(queries, keys) / temperature
        losses = 2.0 * (temperature * tf.reduce_logsumexp(logits, axis=2) - (1.0 - own))
    else:
        costs = 0.5 * squared_distances(tf.reshape(queries, [-1, keys.shape[1]]), keys)
        losses = own - _mean_cost_of_negatives(costs, temperature, tf.shape(own))
    return tf.reduce_sum(share * losses, axis=0)


def _mean_cost_of_negatives(costs, temperature, shape):
    """From costs [V * B, B] to [V, B], by weights that favour near keys; 0 for a single key."""
    other = tf.tile(~tf.eye(shape[1], dtype=tf.bool), [shape[0], 1])
    weights = tf.stop_gradient(conditional_weights(-costs / temperature, other))
    return tf.reshape(tf.reduce_sum(weights * costs, axis=1), shape)
