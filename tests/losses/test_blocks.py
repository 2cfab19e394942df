"""Every mode against the loops, whole and block by block, eagerly, as a graph and under XLA."""

import dataclasses
import itertools

import numpy as np
import pytest
import reference
import tensorflow as tf
from reference import l2, raw

from supcon_tf import SupConLoss, max_margin_loss, npairs_loss, supcon_loss, triplet_loss
from supcon_tf.losses import blocks as _blocks

EMBEDDINGS = l2(raw((7, 2, 5), 0.9, 1.7, 2.3)).astype(np.float32)
LABELS = np.array([3, 1, 3, 3, 0, 1, 8])
WEIGHTS = np.abs(raw((7, 7), 1.1, 2.7)) * (raw((7, 7), 0.4, 1.9) > 0)

MODES = [
    dict(
        zip(
            ("summation_location", "contrast_mode", "denominator_mode", "positives_cap"),
            values,
            strict=True,
        )
    )
    for values in itertools.product(
        ("out", "in"), ("all", "one"), ("all", "one_positive", "only_negatives"), (None, 0, 2)
    )
]


def pairwise(cases):
    """Those cases, few of them, where every two values meet that do so in any of the cases."""

    def pairs(case):
        return set(itertools.combinations(case.items(), 2)) or set(case.items())

    chosen, left = [], set().union(*map(pairs, cases))
    while left:
        chosen.append(max(cases, key=lambda case: len(pairs(case) & left)))
        left -= pairs(chosen[-1])
    return chosen


# Tracing and compiling take a second and 25 MB each, and no code asks whether it is traced: what is
# evaluated eagerly with all settings goes as a graph and under XLA with these.
TRACED_MODES = pairwise(MODES)


def name_of(mode):
    return "-".join(str(value) for value in mode.values())


def evaluate(labels, embeddings, how="eager", function=supcon_loss, **options):
    """Losses and the gradient of a sum that weighs each anchor differently."""

    def run(embeddings):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            losses = function(labels, embeddings, **options)
            weighed = tf.reduce_sum(losses * tf.cos(tf.range(len(losses), dtype=tf.float32)))
        return losses, tape.gradient(weighed, embeddings)

    if how != "eager":
        run = tf.function(run, jit_compile=how == "xla")
    losses, gradient = run(tf.constant(embeddings, tf.float32))
    return losses.numpy(), gradient.numpy()


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        scale = max(1e-3, np.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("mode", MODES, ids=name_of)
def test_modes_equal_the_loops(mode):
    expected = reference.supcon_modes(EMBEDDINGS.astype(np.float64), LABELS, **mode)
    found = supcon_loss(LABELS, EMBEDDINGS, anchors_without_positives="zero", **mode)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("mode", MODES, ids=name_of)
def test_blocks_equal_the_whole(mode):
    whole = evaluate(LABELS, EMBEDDINGS, **mode)
    assert np.abs(whole[1]).max() > 0.1
    for how, size in (("eager", 5), ("eager", 3), ("graph", 3), ("xla", 4)):
        if how == "eager" or mode in TRACED_MODES:
            assert_same(evaluate(LABELS, EMBEDDINGS, how, block_size=size, **mode), whole)


@pytest.mark.parametrize("location", ["out", "in"])
@pytest.mark.parametrize("denominator", ["all", "one_positive", "only_negatives"])
def test_pairwise_weights(location, denominator):
    mode = {"summation_location": location, "denominator_mode": denominator}
    expected = reference.supcon_modes(
        EMBEDDINGS.astype(np.float64), positive_weights=WEIGHTS, **mode
    )
    options = {"positive_weights": WEIGHTS, **mode, "anchors_without_positives": "zero"}
    whole = evaluate(None, EMBEDDINGS, **options)
    np.testing.assert_allclose(whole[0], expected, rtol=2e-5, atol=1e-5)
    assert_same(evaluate(None, EMBEDDINGS, "xla", block_size=4, **options), whole)


def test_a_weight_below_0_leaves_a_pair_out():
    """The loss of two images less is that of a batch whose pairs with them are left out."""
    weights = (LABELS[:, None] == LABELS[None, :]).astype(float)
    weights[:, [1, 4]] = weights[[1, 4]] = -1.0
    options = {"anchors_without_positives": "zero"}
    found = supcon_loss(None, EMBEDDINGS, positive_weights=weights, **options)
    kept = [0, 2, 3, 5, 6]
    expected = supcon_loss(LABELS[kept], EMBEDDINGS[kept], **options)
    found = np.reshape(found, (2, 7))
    np.testing.assert_allclose(found[:, kept].ravel(), expected, rtol=1e-5)
    assert np.all(found[:, [1, 4]] == 0)


def test_a_mask_of_equal_labels_equals_the_labels():
    mask = LABELS[:, None] == LABELS[None, :]
    by_mask = evaluate(None, EMBEDDINGS, positive_weights=mask)
    assert_same(by_mask, evaluate(LABELS, EMBEDDINGS))
    with pytest.raises(ValueError, match="labels and positive_weights are mutually exclusive"):
        supcon_loss(LABELS, EMBEDDINGS, positive_weights=mask)


@pytest.fixture
def small_squares(monkeypatch):
    """The symmetric path on a few rows, in squares that do not divide them."""
    small = dataclasses.replace(_blocks.ON_CPU, matrix=4, square=4)
    for device in ("ON_CPU", "ON_GPU"):
        monkeypatch.setattr(_blocks, device, small)


@pytest.mark.parametrize("location", ["out", "in"])
@pytest.mark.parametrize(
    ("how", "temperature"),
    [("eager", 0.025), ("eager", 0.1), ("eager", 5.0), ("graph", 0.025), ("xla", 0.025)],
)
def test_symmetric_path_equals_the_whole(location, how, temperature, small_squares, monkeypatch):
    options = {"summation_location": location, "temperature": temperature}
    found = evaluate(LABELS, EMBEDDINGS, how, **options)
    called = []
    monkeypatch.setattr(
        "supcon_tf.losses.supcon.symmetric_logsumexp",
        lambda *arguments: called.append(1) or _blocks.symmetric_logsumexp(*arguments),
    )
    evaluate(LABELS, EMBEDDINGS, **options)
    assert called
    whole = evaluate(LABELS, EMBEDDINGS, block_size=14, **options)
    assert_same(found, whole)


@pytest.mark.parametrize("location", ["out", "in"])
def test_default_path_of_many_rows_equals_blocks(location):
    """1,100 rows: the path that such a batch takes by itself, at its real sizes."""
    embeddings = np.random.default_rng(0).normal(size=(550, 2, 8))
    labels = np.arange(550) % 37
    options = {"summation_location": location}
    found = evaluate(labels, embeddings, "xla", **options)
    assert_same(found, evaluate(labels, embeddings, block_size=256, **options))


def test_temperature_too_low_for_one_shift_takes_the_other_path(small_squares):
    embeddings = -EMBEDDINGS  # Far apart rows would underflow with a common shift.
    found = evaluate(LABELS, embeddings, temperature=0.005)
    expected = reference.supcon(LABELS, embeddings.astype(np.float64), 0.005)
    np.testing.assert_allclose(found[0], expected * 14 / np.sum(expected > 0), rtol=1e-4)


TRIPLETS = [
    {"margin": margin, "distance": distance, "mining": mining, "average": average}
    for margin, distance, mining, average in itertools.product(
        (0.2, None), ("squared", "euclidean"), ("all", "hard", "semi_hard"), ("all", "active")
    )
    if margin is not None or average == "all"
]
TRIPLETS += [
    {"mining": "easy_positive", "distance": "euclidean"},
    {"mining": "easy_positive", "average": "active"},
    {"mining": "all", "soft": True, "margin": 0.3},
    {"mining": "semi_hard", "soft": True, "margin": 0.3, "distance": "euclidean"},
]
OTHERS = [
    *((triplet_loss, options) for options in TRIPLETS),
    (npairs_loss, {}),
    (max_margin_loss, {"average": "all"}),
    (max_margin_loss, {"average": "balanced", "margin": 0.7}),
]
TRACED_OTHERS = [(triplet_loss, options) for options in pairwise(TRIPLETS)]
TRACED_OTHERS += [(function, options) for function, options in OTHERS if function != triplet_loss]


@pytest.mark.parametrize(("function", "options"), OTHERS)
def test_other_losses_equal_the_loops(function, options):
    slow = {triplet_loss: "triplet", npairs_loss: "npairs", max_margin_loss: "max_margin"}
    expected = getattr(reference, slow[function])(LABELS, EMBEDDINGS.astype(np.float64), **options)
    found = function(LABELS, EMBEDDINGS, **options).numpy()
    np.testing.assert_allclose(found.mean(), np.mean(expected), rtol=2e-5)
    if function is npairs_loss:
        np.testing.assert_allclose(found, expected, rtol=2e-5)


@pytest.mark.parametrize(
    "options", [one for one in TRIPLETS if "average" not in one or one["average"] == "all"]
)
def test_triplets_of_each_anchor(options):
    chosen = {"margin": 0.2, "distance": "squared", **options}
    chosen.pop("average", None)
    found = reference.triplets(LABELS, EMBEDDINGS.astype(np.float64), **chosen)
    expected = np.zeros(14)
    for anchor, value in found:
        expected[anchor] += value * 14 / len(found)
    np.testing.assert_allclose(
        triplet_loss(LABELS, EMBEDDINGS, **options), expected, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("options", TRIPLETS)
@pytest.mark.parametrize(
    "labels", [np.zeros(7, int), np.arange(7)], ids=["one class", "no positive"]
)
def test_without_triplets_it_is_exactly_0(labels, options):
    values, gradient = evaluate(labels, EMBEDDINGS[:, :1], function=triplet_loss, **options)
    assert np.all(values == 0)
    assert np.all(gradient == 0)


@pytest.mark.parametrize(("function", "options"), [(supcon_loss, {"normalize": False}), *OTHERS])
def test_embeddings_of_one_dimension(function, options):
    embeddings = raw((7, 2, 1), 0.9, 1.7, 2.3).astype(np.float32)
    if function is not npairs_loss:
        options = {**options, "normalize": False}
    slow = {triplet_loss: "triplet", npairs_loss: "npairs", max_margin_loss: "max_margin"}
    given = {name: value for name, value in options.items() if name != "normalize"}
    if function is supcon_loss:
        expected = reference.supcon(LABELS, embeddings.astype(np.float64), 0.1)
    else:
        expected = getattr(reference, slow[function])(
            LABELS, embeddings.astype(np.float64), **given
        )
    found = function(LABELS, embeddings, **options)
    np.testing.assert_allclose(np.mean(found), np.mean(expected), rtol=1e-4)


@pytest.mark.parametrize(("function", "options"), OTHERS)
def test_other_losses_in_blocks_equal_the_whole(function, options):
    whole = evaluate(LABELS, EMBEDDINGS, function=function, **options)
    assert np.abs(whole[1]).max() > 1e-3
    for how, size in (("eager", 5), ("eager", 3), ("graph", 3), ("xla", 4)):
        if how == "eager" or (function, options) in TRACED_OTHERS:
            found = evaluate(LABELS, EMBEDDINGS, how, function, block_size=size, **options)
            assert_same(found, whole)


@pytest.mark.parametrize(("function", "options"), [(supcon_loss, {}), *TRACED_OTHERS])
def test_a_batch_of_unknown_size(function, options):
    expected = function(LABELS, EMBEDDINGS, **options)
    signature = [tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, 2, 5], tf.float32)]
    dynamic = tf.function(lambda y, z: function(y, z, **options), input_signature=signature)
    np.testing.assert_allclose(dynamic(LABELS, EMBEDDINGS), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="block_size needs a batch of static size"):
        tf.function(
            lambda y, z: function(y, z, block_size=2, **options), input_signature=signature
        )(LABELS, EMBEDDINGS)


def test_a_batch_of_unknown_size_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(_blocks, "FULL_MATRIX_LIMIT_ROWS", 10)
    signature = [tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, 2, 5], tf.float32)]
    with pytest.raises(tf.errors.InvalidArgumentError, match="Give the batch a static size"):
        tf.function(supcon_loss, input_signature=signature)(LABELS, EMBEDDINGS)


def test_no_matrix_of_all_pairs_in_the_graph(monkeypatch):
    """Nothing as large as the 4,096 x 4,096 matrix is in the compiled forward and backward pass."""
    monkeypatch.setattr(_blocks, "ON_GPU", _blocks.ON_CPU)
    embeddings = tf.zeros([2048, 2, 4])
    labels = tf.range(2048) % 10

    @tf.function(jit_compile=True)
    def step(embeddings):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            loss = SupConLoss()(labels, embeddings)
        return tape.gradient(loss, embeddings)

    text = step.experimental_get_compiler_ir(embeddings)(stage="optimized_hlo")
    assert "[4096,4096]" not in text
    assert "[512,512]" in text
