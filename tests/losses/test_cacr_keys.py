"""CACR between query views and momentum keys: loops, InfoNCE, gradients."""

import math

import numpy as np
import pytest
import tensorflow as tf
from reference import l2, raw

from supcon_tf.losses.cacr_keys import cacr_key_loss

# [V, B, D], as in the specification.
BY_VIEW = l2(0.6 * raw((3, 3, 3), 1.7, 0.6, 2.2) + raw((1, 3, 3), 1.0, 1.3, 2.9))
EMBEDDINGS = l2(raw((4, 3, 5), 0.7, 1.9, 0.6))
KEYS = l2(raw((4, 3, 5), 0.8, 1.6, 0.9))


def softmax(logits):
    powers = np.exp(logits - np.max(logits))
    return powers / powers.sum()


def key_loops(queries, keys, temperature, cost):
    losses = []
    for i, key in enumerate(keys):
        shares = softmax(np.sum((queries[i] - key) ** 2, axis=1) / temperature)
        of_views = []
        for query in queries[i]:
            s = keys @ query
            if cost == "rbf":
                value = math.log(np.sum(np.exp(s / temperature))) - s[i] / temperature
                of_views.append(2 * temperature * value)
            else:
                costs = 1 - np.delete(s, i)
                of_views.append(1 - s[i] - softmax(-costs / temperature) @ costs)
        losses.append(shares @ of_views)
    return losses


@pytest.mark.parametrize("cost", ["rbf", "euclidean"])
def test_key_form_equals_loops(cost):
    queries, keys = EMBEDDINGS[:, 1:], KEYS[:, 0]
    found = cacr_key_loss(3 * queries, 2 * keys, temperature=0.4, cost=cost)
    np.testing.assert_allclose(found, key_loops(queries, keys, 0.4, cost), rtol=1e-5)


def test_key_form_with_one_query_view_is_infonce():
    queries, keys = BY_VIEW[0], BY_VIEW[1]
    found = cacr_key_loss(queries[:, None], keys)
    assert float(np.mean(found)) == pytest.approx(2.012083, abs=1e-6)
    squares = np.sum((queries[:, None] - keys) ** 2, axis=-1)
    kernel = np.diag(squares) + 2 * np.log(np.sum(np.exp(-squares / 2), axis=1))
    np.testing.assert_allclose(found, kernel, rtol=1e-5)
    logits = tf.constant(queries @ keys.T / 0.3)
    infonce = tf.nn.sparse_softmax_cross_entropy_with_logits(np.arange(3), logits)
    found = cacr_key_loss(queries[:, None], keys, temperature=0.3)
    np.testing.assert_allclose(found, 2 * 0.3 * infonce, rtol=1e-5)


@pytest.mark.parametrize("cost", ["rbf", "euclidean"])
def test_key_form_has_gradients_of_the_queries_alone(cost):
    queries, keys = tf.constant(EMBEDDINGS, tf.float32), tf.constant(KEYS[:, 0], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch([queries, keys])
        loss = tf.reduce_mean(cacr_key_loss(queries, keys, cost=cost))
    of_queries, of_keys = tape.gradient(loss, [queries, keys])
    assert np.abs(of_queries).max() > 1e-3
    assert of_keys is None
    single = cacr_key_loss(queries[:1], keys[:1], cost="euclidean")
    assert 0 <= float(single[0]) <= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0 and finite. Received: 0.0"),
        ({"cost": "cosine"}, "cost must be one of rbf, euclidean. Received: 'cosine'"),
        ({"keys": KEYS}, r"queries must be \[B, V, D\] and keys \[B, D\]. Received: .4, 3, 5."),
    ],
)
def test_key_form_refuses_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        cacr_key_loss(EMBEDDINGS, arguments.pop("keys", KEYS[:, 0]), **arguments)
