"""CoMatch: a step of the specification, FixMatch, the teacher, monitors."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import l2, raw

from supcon_tf import ProjectionHead
from supcon_tf.methods.comatch import CoMatch
from supcon_tf.methods.comatch_settings import CoMatchSettings
from supcon_tf.networks.initial import initial_weights


def model(bank_size=12, ramp_steps=1, ema_momentum=None, **settings):
    with initial_weights(0):
        images = keras.Input((8, 8, 3))
        x = keras.layers.Conv2D(4, 3, activation="relu")(images)
        encoder = keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))
        made = CoMatch(
            encoder,
            ProjectionHead(3, ()),
            3,
            settings,
            bank_size,
            ramp_steps,
            ema_momentum=ema_momentum,
        )
    made.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=False)
    return made


def outputs_of_the_specification():
    """`forward`'s outputs in the specification's example; labelled embeddings are not used."""
    weak = 3 * raw((4, 3), 0.8, 1.9)
    base = raw((4, 3), 0.6, 1.1)
    outputs = {
        "logits": 3 * raw((2, 3), 1.1, 2.2)[:, None],
        "weak_logits": weak,
        "strong_logits": 0.5 * weak + raw((4, 3), 2.7, 0.6),
        "embeddings": {
            "labelled": l2(raw((2, 3), 1.0, 2.0)),
            "weak": l2(base),
            "strong": l2(base + 0.3 * raw((4, 3), 2.1, 1.6)),
            "contrast": l2(base + 0.3 * raw((4, 3), 1.2, 2.6)),
        },
    }
    outputs = tf.nest.map_structure(lambda x: tf.constant(x, tf.float32), outputs)
    return {**outputs, "labels": tf.constant([0, 2]), "hidden": tf.constant([1, 0, -1, 2])}


def prepare(made):
    """Puts the specification's history and bank into a model's state."""
    made.pseudo_labels.history.assign(np.eye(32)[:, :1] * [[0.5, 0.3, 0.2]])
    made.pseudo_labels.batches.assign(1)
    if made.pseudo_labels.bank is not None:
        classes = np.exp(2 * raw((5, 3), 1.4, 2.4))
        made.pseudo_labels.bank.push(
            tf.constant(l2(raw((5, 3), 1.9, 0.9)), tf.float32),
            tf.constant(classes / classes.sum(axis=1, keepdims=True), tf.float32),
        )


@pytest.mark.parametrize(
    ("confidence", "threshold", "expected"),
    [(0.95, 0.8, (2.245432, 0.0, 0.626507)), (0.6, 0.3, (2.245432, 0.746722, 0.673310))],
)
def test_terms_of_the_specification(confidence, threshold, expected):
    made = model(bank_size=5, confidence=confidence, graph_threshold=threshold)
    prepare(made)
    found = made.compute_losses(outputs_of_the_specification())
    for name, value in zip(("supervised", "pseudo_label", "graph"), expected, strict=True):
        assert float(found[name]) == pytest.approx(value, rel=3e-6)


def test_without_a_confident_pseudo_label_no_gradient_comes_from_them():
    made, outputs = model(bank_size=5, confidence=1.0), outputs_of_the_specification()
    prepare(made)
    with tf.GradientTape() as tape:
        tape.watch(outputs["strong_logits"])
        loss = made.compute_losses(outputs)["pseudo_label"]
    assert float(loss) == 0.0
    np.testing.assert_array_equal(tape.gradient(loss, outputs["strong_logits"]), np.zeros((4, 3)))


def test_weights_scale_their_terms_and_the_graph_may_ramp():
    plain = model(bank_size=5, confidence=0.6, graph_threshold=0.3)
    other = model(
        bank_size=5,
        ramp_steps=2,
        confidence=0.6,
        graph_threshold=0.3,
        pseudo_label_weight=10.0,
        graph_weight=2.5,
        graph_ramp=True,
    )
    outputs = outputs_of_the_specification()
    for made in (plain, other):
        prepare(made)
    before = plain.compute_losses(outputs)
    for batches, weight in ((1, 1.0), (2, 2.0), (4, 2.5), (100, 2.5)):
        other.pseudo_labels.batches.assign(batches)
        history = other.pseudo_labels.history
        history.assign(tf.tile([[0.5, 0.3, 0.2]], [32, 1]))
        plain.pseudo_labels.history.assign(history)
        plain.pseudo_labels.batches.assign(batches)
        before, found = plain.compute_losses(outputs), other.compute_losses(outputs)
        assert float(found["graph"]) == pytest.approx(weight * float(before["graph"]), rel=1e-5)
        assert float(found["pseudo_label"]) == pytest.approx(
            10 * float(before["pseudo_label"]), rel=1e-5
        )


def test_the_bank_and_the_history_are_written_after_the_step_and_smooth_once_full():
    made, outputs = model(bank_size=7), outputs_of_the_specification()
    aligned, smoothed = made._label(outputs)
    np.testing.assert_array_equal(aligned, smoothed)
    made.after_step(outputs)
    rows, classes, filled = made.pseudo_labels.bank.contents()
    assert filled.numpy().tolist() == [True] * 6 + [False]
    np.testing.assert_allclose(rows[:4], outputs["embeddings"]["weak"])
    np.testing.assert_allclose(classes[:4], aligned)
    np.testing.assert_allclose(rows[4:6], outputs["embeddings"]["labelled"])
    np.testing.assert_allclose(classes[4:6], [[1, 0, 0], [0, 0, 1]])
    mean = tf.reduce_mean(tf.nn.softmax(outputs["weak_logits"]), axis=0)
    np.testing.assert_allclose(made.pseudo_labels.history[0], mean)
    assert np.abs(made.pseudo_labels.history[1:]).max() == 0
    aligned, smoothed = made._label(outputs)
    np.testing.assert_array_equal(aligned, smoothed)  # Six of seven rows.
    made.after_step(outputs)
    aligned, smoothed = made._label(outputs)
    assert np.abs(aligned - smoothed).max() > 1e-3
    np.testing.assert_allclose(np.sum(smoothed, axis=1), 1.0, rtol=1e-5)


def test_monitors_count_known_labels_alone():
    made, outputs = (
        model(bank_size=5, confidence=0.8, graph_threshold=0.3),
        (outputs_of_the_specification()),
    )
    prepare(made)
    made.measure(outputs)
    found = {metric.name: float(metric.result()) for metric in made.metrics}
    assert found["pseudo_label_top1"] == pytest.approx(1.0)  # 1, 0, unknown, 2.
    assert found["smoothed_top1"] == pytest.approx(1.0)
    assert found["confident"] == pytest.approx(0.5)
    assert found["graph_degree"] == pytest.approx(0.5)  # One edge, 1 to 2, from both sides.
    made.reset_metrics()
    made.measure({**outputs, "hidden": tf.constant([0, 0, -1, 1])})
    found = {metric.name: float(metric.result()) for metric in made.metrics}
    assert found["pseudo_label_top1"] == pytest.approx(1 / 3)


def batch(seed=0):
    rng = np.random.default_rng(seed)

    def images(count):
        return tf.constant(rng.random((count, 1, 8, 8, 3)), tf.float32)

    return {
        "labelled": (images(2), tf.constant([0, 2])),
        "unlabelled": ((images(4), images(4), images(4)), tf.constant([0, 1, 2, -1])),
    }


def test_fixmatch_has_neither_bank_nor_third_view_and_learns_from_soft_aligned_labels():
    made = model(bank_size=0, alpha=1.0, graph_weight=0.0, confidence=0.0)
    assert made.pseudo_labels.bank is None
    data = batch()
    (weak, strong, _), hidden = data["unlabelled"]
    outputs = made.forward({**data, "unlabelled": ((weak, strong), hidden)})
    assert "contrast" not in outputs["embeddings"]
    terms = made.compute_losses(outputs)
    assert terms.keys() == {"supervised", "pseudo_label"}
    probabilities = tf.nn.softmax(outputs["weak_logits"]).numpy()
    labels = probabilities / probabilities.mean(axis=0)
    labels /= labels.sum(axis=1, keepdims=True)
    log_shares = tf.nn.log_softmax(outputs["strong_logits"]).numpy()
    expected = -(labels * log_shares).sum(axis=1).mean()
    assert float(terms["pseudo_label"]) == pytest.approx(expected, rel=1e-5)


def test_monitors_show_the_pseudo_labels_that_the_step_learned_from():
    made = model(bank_size=6, confidence=0.4, graph_threshold=0.2)
    made.train_step(batch(1))  # The bank is full from here on.
    outputs = made.forward(batch(2))
    _, pseudo_labels = made._label(outputs)
    share = np.mean(np.max(pseudo_labels, axis=1) >= 0.4)
    edges = np.mean(np.count_nonzero(made._graph(pseudo_labels), axis=1) - 1)
    made.reset_metrics()
    found = made.train_step(batch(2))
    assert float(found["confident"]) == pytest.approx(share)
    assert float(found["graph_degree"]) == pytest.approx(edges)


def test_the_teacher_makes_pseudo_labels_and_contrasts_without_gradient():
    made = model(teacher=True, ema_momentum=0.9)
    for layer in (made.ema_encoder, made.ema_head, made.ema_projection):
        layer.set_weights([weight + 0.1 for weight in layer.get_weights()])
    data = batch()
    outputs = made.forward(data)

    def of(encoder, head, images):
        return head(encoder(images[:, 0])).numpy()

    (weak, strong, contrast), _ = data["unlabelled"]
    expected = {
        "weak_logits": of(made.ema_encoder, made.ema_head, weak),
        "strong_logits": of(made.encoder, made.classification_head, strong),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(outputs[name], values, rtol=1e-5)
    for name, images in {
        "weak": weak,
        "contrast": contrast,
        "labelled": data["labelled"][0],
    }.items():
        values = of(made.ema_encoder, made.ema_projection, images)
        np.testing.assert_allclose(outputs["embeddings"][name], values, rtol=1e-5)
    with tf.GradientTape() as tape:
        graph = made.compute_losses(made.forward(data))["graph"]
    found = tape.gradient(graph, [made.encoder.trainable_weights[0], *made.ema_encoder.weights])
    assert found[0] is not None
    assert all(one is None for one in found[1:])
    made.after_step(outputs)
    assert int(made.contrast_queue.queue.pushed) == 4


def test_it_is_saved_and_loaded(tmp_path):
    made = model(ramp_steps=3, alpha=0.8)
    made.train_step(batch())
    made.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.settings == CoMatchSettings(alpha=0.8)
    for one, other in zip(made.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
