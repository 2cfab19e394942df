import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import l2, raw

import supcon_tf
from supcon_tf import (
    MaxMarginLoss,
    NPairsLoss,
    SimCLRLoss,
    SupConLoss,
    TripletLoss,
)

LOSSES = [
    SupConLoss(),
    SupConLoss(summation_location="in"),
    SupConLoss(denominator_mode="one_positive"),
    SupConLoss(denominator_mode="one_positive", margin=0.25),
    SupConLoss(summation_location="in", denominator_mode="one_positive"),
    SupConLoss(denominator_mode="only_negatives"),
    SupConLoss(positives_cap=0, contrast_mode="one"),
    SimCLRLoss(),
    TripletLoss(mining="all"),
    TripletLoss(mining="all", margin=None),
    TripletLoss(mining="hard", distance="euclidean"),
    TripletLoss(mining="semi_hard", average="active"),
    NPairsLoss(normalize=True),
    MaxMarginLoss(),
    MaxMarginLoss(average="balanced"),
]
ANCHOR, POSITIVE, NEGATIVE = (
    l2(np.sin(start + slope * np.arange(3)))
    for start, slope in ((0.5, 2.1), (0.9, 2.1), (2.0, 1.1))
)


def name_of(loss):
    return f"{loss.name}-" + "-".join(str(value) for value in loss.get_config().values())[:40]


@pytest.mark.parametrize("loss", LOSSES, ids=name_of)
def test_serialization_round_trip(loss):
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [({"distance": "squared"}, 0.083981), ({"distance": "euclidean"}, 0.074449)],
)
def test_triplet_vector(arguments, expected):
    """One triplet of the specification, of which the anchor is the only row of its role."""
    rows = np.stack([ANCHOR, POSITIVE, NEGATIVE])[:, None]
    loss = TripletLoss(0.2, mining="all", reduction="none", **arguments)
    # Three anchors, two triplets: (a, p, n) and (p, a, n).
    value = loss(np.array([0, 0, 1]), rows).numpy()[0] * 2 / 3
    np.testing.assert_allclose(value, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("temperature", "expected"), [(0.1, 0.444587), (0.5, 0.636819), (5, 0.687363)]
)
def test_one_positive_one_negative_is_a_softplus(temperature, expected):
    rows = np.stack([ANCHOR, POSITIVE, NEGATIVE])[:, None]
    loss = SupConLoss(temperature, anchors_without_positives="zero", reduction="none")
    value = loss(np.array([0, 0, 1]), rows).numpy()[0]
    np.testing.assert_allclose(value, expected, rtol=2e-6)
    similarity = np.array([ANCHOR @ POSITIVE, ANCHOR @ NEGATIVE])
    np.testing.assert_allclose(
        value, np.log1p(np.exp(-np.ptp(similarity) / temperature)), rtol=1e-5
    )
    # Linearized, 2 tau L is the triplet loss with margin 2 tau without its hinge.
    linearized = 2 * temperature * (1 + (similarity[1] - similarity[0]) / temperature)
    distances = np.sum((ANCHOR - [POSITIVE, NEGATIVE]) ** 2, axis=1)
    np.testing.assert_allclose(linearized, distances[0] - distances[1] + 2 * temperature, rtol=1e-9)


def test_high_temperature_approaches_log_2():
    rows = np.stack([ANCHOR, POSITIVE, NEGATIVE])[:, None]
    value = SupConLoss(1e6)(np.array([0, 0, 1]), rows)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-5)


def test_low_temperature_approaches_the_triplet():
    rows = np.stack([ANCHOR, NEGATIVE, POSITIVE])[:, None]  # The positive is the farther one.
    loss = SupConLoss(0.002, anchors_without_positives="zero", reduction="none")
    value = 2 * 0.002 * loss(np.array([0, 0, 1]), rows).numpy()[0]
    distances = np.sum((ANCHOR - [NEGATIVE, POSITIVE]) ** 2, axis=1)
    np.testing.assert_allclose(value, distances[0] - distances[1], rtol=1e-3)


def test_half_a_margin_on_the_negative_gives_the_hinge_triplet():
    """A fourth coordinate, 1 for the anchor and margin / 2 for the negative, adds it to s_an."""
    rows = np.stack([[*ANCHOR, 1.0], [*POSITIVE, 0.0], [*NEGATIVE, 0.2 / 2]])[:, None]
    losses = supcon_tf.supcon_loss(
        np.array([0, 0, 1]),
        rows,
        temperature=0.002,
        normalize=False,
        anchors_without_positives="zero",
    )
    # The hinge triplet with margin 0.2 of the specification.
    np.testing.assert_allclose(2 * 0.002 * losses[0], 0.083981, atol=1e-5)


def test_one_positive_equals_npairs_at_temperature_one():
    """One positive, K negatives: log(1 + sum exp(s_n - s_p)), for the first view as anchors."""
    anchors = raw((3, 3), 0.9, 1.7)
    positives = 0.8 * anchors + 0.1 * raw((3, 3), 1.9, 0.4)
    embeddings = np.stack([anchors, positives], axis=1)
    np.testing.assert_allclose(NPairsLoss()(None, embeddings), 0.757686, atol=1e-6)
    logits = anchors @ positives.T
    others = ~np.eye(3, dtype=bool)
    expected = [np.log1p(np.sum(np.exp(logits[i][others[i]] - logits[i, i]))) for i in range(3)]
    found = NPairsLoss(reduction="none")(np.array([5, 2, 9]), embeddings)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_pair_vector():
    distances = {"positive": 0.159410, "negative": 0.225802}
    rows = np.stack([ANCHOR, POSITIVE])[:, None]
    np.testing.assert_allclose(MaxMarginLoss()(np.zeros(2), rows), distances["positive"], atol=1e-6)
    rows = np.stack([ANCHOR, NEGATIVE])[:, None]
    np.testing.assert_allclose(
        MaxMarginLoss()(np.arange(2), rows), distances["negative"], atol=1e-6
    )


def test_simclr_ignores_labels_and_equals_supcon_of_unique_ones():
    embeddings = l2(raw((4, 2, 3), 0.7, 1.3, 2.1))
    expected = SupConLoss(0.5)(None, embeddings)
    np.testing.assert_allclose(expected, 2.342693, rtol=1e-6)
    np.testing.assert_array_equal(SimCLRLoss()(np.zeros(4), embeddings), expected)


@pytest.mark.parametrize(
    ("cosine", "expected"), [(0, 5.0), (0.5, 0.057962), (0.9, 0.000538), (0.99, 0.000071)]
)
def test_easy_positives_vanish(cosine, expected):
    """Norm of the projected gradient of the anchor from its positive; an orthogonal negative."""
    weights = _pair_gradient([[cosine, np.sqrt(1 - cosine**2), 0]], [[0, 0, 1.0]], "out")
    np.testing.assert_allclose(weights[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("cosine", "expected"), [(0.5, 4.330127), (0, 0.066929), (-0.5, 0.000393), (-0.99, 4.769e-7)]
)
def test_easy_negatives_vanish(cosine, expected):
    positive, negative = [0.5, np.sqrt(0.75), 0], [cosine, 0, np.sqrt(1 - cosine**2)]
    np.testing.assert_allclose(
        _pair_gradient([positive], [negative], "out")[1], expected, rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize(
    ("location", "expected"),
    [("out", [4.9995, 0.705195, 0.000501696]), ("in", [2.517e-8, 7.077e-5, 0.000501696])],
)
def test_inside_loses_the_hard_positive(location, expected):
    easy = [0.99, np.sqrt(1 - 0.99**2), 0, 0]
    found = _pair_gradient([[0, 0, 1.0, 0], easy], [[0, 0, 0, 1.0]], location)
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def _pair_gradient(positives, negatives, location):
    """|projected term| of each pair: its coefficient over the temperature times the sine.

    The coefficient is the gradient by the pair's similarity, which the gradient of the other row
    along the anchor gives.
    """
    positives, negatives = np.array(positives), np.array(negatives)
    anchor = np.zeros(positives.shape[1])
    anchor[0] = 1.0
    others = np.concatenate([positives, negatives])
    rows = tf.Variable(np.concatenate([[anchor], others])[:, None], dtype=tf.float32)
    labels = np.array([0] * (1 + len(positives)) + list(range(1, 1 + len(negatives))))
    with tf.GradientTape() as tape:
        losses = supcon_tf.supcon_loss(
            labels,
            rows,
            temperature=0.1,
            summation_location=location,
            normalize=False,
            anchors_without_positives="zero",
        )
        loss = losses[0]
    along = tape.gradient(loss, rows).numpy()[1:, 0] @ anchor
    return np.abs(along) * np.sqrt(1 - (others @ anchor) ** 2)


@settings(max_examples=60, deadline=None)
@given(
    loss=st.sampled_from(LOSSES),
    batch=st.integers(1, 9),
    views=st.integers(1, 3),
    classes=st.integers(1, 9),
    dtype=st.sampled_from(["float16", "bfloat16", "float32"]),
    temperature=st.sampled_from([0.005, 0.02, 0.1, 1.0, 50.0]),
    kind=st.sampled_from(["normal", "equal", "zero", "large", "tiny"]),
    seed=st.integers(0, 10_000),
)
def test_never_not_finite(loss, batch, views, classes, dtype, temperature, kind, seed):
    config = loss.get_config()
    if "temperature" in config:
        loss = type(loss).from_config({**config, "temperature": temperature})
    views = 2 if isinstance(loss, NPairsLoss) else views
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(batch, views, 4))
    scale = {"normal": 1, "equal": 1, "zero": 0, "large": 2e4, "tiny": 1e-7}[kind]
    rows = scale * (np.ones_like(rows) if kind == "equal" else rows)
    variable = tf.Variable(tf.cast(np.clip(rows, -6e4, 6e4), dtype))
    with tf.GradientTape() as tape:
        value = loss(rng.integers(0, classes, batch), variable)
    assert value.dtype == tf.float32
    assert np.isfinite(float(value))
    gradient = tf.cast(tape.gradient(value, variable), tf.float32)
    # A row of 1e-7 has a true gradient of up to 1e7 / temperature, which float16 does not hold.
    if not (kind == "tiny" and dtype == "float16"):
        assert np.all(np.isfinite(gradient))


def test_sample_weight_weighs_the_anchors_of_an_image():
    embeddings = l2(raw((4, 2, 3), 0.7, 1.3, 2.1))
    labels, weight = np.array([0, 1, 0, 2]), np.array([1.0, 0.0, 2.0, 0.5])
    values = SupConLoss(reduction="none")(labels, embeddings).numpy()
    found = SupConLoss()(labels, embeddings, sample_weight=weight)
    np.testing.assert_allclose(found, np.mean(values * np.tile(weight, 2)), rtol=1e-6)
    one = SupConLoss(contrast_mode="one", reduction="none")(labels, embeddings).numpy()
    found = SupConLoss(contrast_mode="one")(labels, embeddings, sample_weight=weight)
    np.testing.assert_allclose(found, np.mean(one * weight), rtol=1e-6)


def test_large_class_ids_stay_apart():
    embeddings = l2(raw((4, 1, 3), 0.7, 1.3, 2.1))
    ids = np.array([2**24, 2**24 + 1, 2**24, 2**24 + 1])
    np.testing.assert_array_equal(SupConLoss()(ids, embeddings), SupConLoss()(ids % 2, embeddings))
    assert float(SupConLoss()(2**24 + np.arange(4), embeddings)) == 0


def test_seed_of_the_cap_draws_the_positives():
    embeddings = l2(raw((12, 1, 3), 0.7, 1.3, 2.1))
    labels = np.zeros(12, int)

    def values(seed):
        return SupConLoss(positives_cap=2, positives_cap_seed=seed, reduction="none")(
            labels, embeddings
        ).numpy()

    np.testing.assert_array_equal(values(3), values(3))
    assert not np.array_equal(values(3), values(4))
    assert not np.array_equal(values(3), values(None))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TripletLoss(-1.0), "margin must be None"),
        (lambda: TripletLoss(mining="harder"), "mining must be one of"),
        (lambda: TripletLoss(distance="cosine"), "distance must be one of"),
        (lambda: TripletLoss(None, average="active"), "needs a hinge"),
        (lambda: TripletLoss(soft=True, average="active"), "needs a hinge"),
        (lambda: TripletLoss(soft=1), "soft must be true or false"),
        (lambda: MaxMarginLoss(0.0), "margin must be above 0"),
        (lambda: MaxMarginLoss(average="some"), "average must be one of"),
        (lambda: NPairsLoss(0.0), "temperature must be above 0"),
        (lambda: NPairsLoss(block_size=0), "block_size must be None or an int >= 1"),
        (lambda: NPairsLoss()(None, np.zeros((3, 1, 2))), r"must be \[B, 2, D\]"),
        (lambda: SimCLRLoss(-1), "temperature must be above 0"),
        (lambda: SupConLoss(positives_cap=-1), "positives_cap must be None or an int >= 0"),
        (
            lambda: SupConLoss(positives_cap=1)(np.zeros(3), np.zeros((3, 2, 2))),
            "multiple of the 2",
        ),
        (lambda: SupConLoss(positives_cap_seed=1), "needs a positives_cap"),
        (
            lambda: SupConLoss(positives_cap=2)(
                None, np.zeros((3, 2, 2)), positive_weights=np.eye(3)
            ),
            "positives_cap is for labels",
        ),
        (lambda: SupConLoss()(np.eye(3), np.zeros((3, 2, 2))), "one-hot labels need argmax"),
        (
            lambda: TripletLoss(None, mining="all")(np.zeros(5000), np.zeros((5000, 2))),
            "at most 4096",
        ),
    ],
)
def test_refuses_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
