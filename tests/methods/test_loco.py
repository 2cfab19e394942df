"""LoCo: which loss trains what, and schemes that agree."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import supcon

from supcon_tf import PretrainConfig, build_encoder
from supcon_tf.methods.loco import LoCo
from supcon_tf.networks.copies import training_copy
from supcon_tf.stages.building import method_of

BATCH = 6


def build(encoder="resnet8", seed=0, normed=True, **settings):
    """A model around a network of eight channels, whose blocks are no longer the identity."""
    others = {n: settings.pop(n) for n in ("micro_batch_size", "temperature") if n in settings}
    config = PretrainConfig(
        method="loco", method_args=settings, encoder=encoder, embedding_dim=8, **others
    )
    keras.utils.set_random_seed(seed)
    made = training_copy(build_encoder(encoder, 8, 0.5 if encoder == "resnet8" else 0.125))
    model = method_of(config, made, num_classes=3, steps_per_epoch=1)
    rng = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        if len(weight.shape) == 1:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    if not normed:  # Statistics of a batch, or a micro-batch, do not enter.
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
    model.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=False)
    return model


def batch(seed=0):
    rng = np.random.default_rng(seed)
    views = rng.random((BATCH, 2, 8, 8, 3)).astype(np.float32)
    return tf.constant(views), tf.constant([0, 1, 2, 0, 1, 1])


def by_path(model, gradients):
    """Gradients by their variables' paths, zeros for None; heads are numbered in order."""
    found = {}
    for index, variable in enumerate(model.trainable_variables):
        path = re.sub(r"projection_head\w*", f"head{index}", variable.path)
        gradient = gradients[index]
        found[path] = np.zeros(variable.shape) if gradient is None else gradient.numpy()
    return found


def gradients(model):
    """Those of a step in graph mode."""
    return by_path(model, tf.function(lambda: model.gradients(batch())[1])())


def of_encoder(found, *stages):
    prefixes = tuple(("stem", "stage1_") if one == 1 else (f"stage{one}_",) for one in stages)
    return {p: g for p, g in found.items() if p.startswith(sum(prefixes, ()))}


def check_equal(found, expected):
    assert found.keys() == expected.keys()
    for path, gradient in expected.items():
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(found[path], gradient, rtol=1e-4, atol=3e-5 * scale + 1e-9)


def manual(model, losses, stopped=()):
    """One plain tape over these stages' losses, where no gradient enters the stages `stopped`."""
    views, labels = batch()
    with tf.GradientTape() as tape:
        h, total = tf.reshape(views, [-1, 8, 8, 3]), 0.0
        for stage, part in enumerate(model.stages.models, start=1):
            h = part(tf.stop_gradient(h) if stage in stopped else h, training=True)
            if stage in losses:
                decoder = model.decoders[model.places.index(stage)]
                embeddings = tf.reshape(decoder(h, training=True), [BATCH, 2, -1])
                total += model.contrastive_loss(labels, embeddings)
    return by_path(model, tape.gradient(total, model.trainable_variables))


def test_end_to_end_is_one_loss_on_the_last_stage():
    check_equal(gradients(build(overlap=2)), manual(build(overlap=2), losses=(3,)))


@pytest.mark.parametrize("blocks", [0, 1])
def test_without_overlap_gradients_are_stopped_before_every_stage(blocks):
    settings = {"overlap": 0, "decoder_blocks": blocks}
    expected = manual(build(**settings), losses=(1, 2, 3), stopped=(1, 2, 3))
    check_equal(gradients(build(**settings)), expected)


@pytest.mark.slow
def test_with_overlap_a_stage_gets_the_sum_over_its_losses():
    settings = {"overlap": 1, "first_loss": 1, "encoder": "resnet18"}
    found, parts = gradients(build(**settings)), []
    for stage in (1, 2, 3, 4):  # The input of stage s - 1 is stopped.
        one = manual(build(**settings), losses=(stage,), stopped=(stage - 1,))
        assert all(g.any() for g in of_encoder(one, stage).values())
        parts.append(one)
    check_equal(found, {path: sum(one[path] for one in parts) for path in found})


@pytest.mark.parametrize("overlap", [0, 1, 2, 3])
def test_a_loss_trains_its_own_stages_and_decoder_alone(overlap):
    model = build("resnet18", overlap=overlap)
    assert model.loss_names == tuple(f"stage{stage}" for stage in range(overlap + 1, 5))
    for stage in range(overlap + 1, 5):
        paths = {v.path for v in model.trained_by(f"stage{stage}")}
        everything = {v.path: v for v in model.trainable_variables}
        own = of_encoder(everything, *range(stage - overlap, stage + 1))
        decoder = model.decoders[stage - overlap - 1]
        assert paths == {*own, *(v.path for v in decoder.trainable_variables)}
        assert any("stem" in path for path in paths) == (stage == overlap + 1)


@pytest.mark.slow
def test_the_last_stage_has_the_same_gradient_in_every_scheme():
    found = [
        gradients(same_weights(build(overlap=overlap), build(overlap=0))) for overlap in (0, 1, 2)
    ]
    last = [of_encoder(one, 3) for one in found]
    assert last[0]
    check_equal(last[1], last[0])
    check_equal(last[2], last[0])
    first = [of_encoder(one, 1) for one in found]
    assert not np.allclose(first[0]["stem_conv/kernel"], first[2]["stem_conv/kernel"], rtol=0.1)


def same_weights(model, source):
    """The model with the weights of another one, which has as many decoders or more."""
    model.encoder.set_weights(source.encoder.get_weights())
    for own, other in zip(reversed(model.decoders), reversed(source.decoders), strict=False):
        own.set_weights(other.get_weights())
    return model


def test_maps_and_statistics_do_not_depend_on_the_scheme():
    source, states, embeddings = build(overlap=0), [], []
    for overlap in (0, 1, 2):
        model = same_weights(build(overlap=overlap), source)
        embeddings.append(model.forward(batch())["stage3"])
        states.append([v.numpy() for v in model.encoder.non_trainable_variables])
    for other in (1, 2):
        np.testing.assert_array_equal(embeddings[other], embeddings[0])
        for left, right in zip(states[other], states[0], strict=True):
            np.testing.assert_array_equal(left, right)
    once = build(overlap=0)
    same_weights(once, source).encoder(tf.reshape(batch()[0], [-1, 8, 8, 3]), training=True)
    for left, right in zip(once.encoder.non_trainable_variables, states[0], strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("local_loss", ["simclr", "supcon"])
def test_losses_equal_loops(local_loss):
    model = build(overlap=0, local_loss=local_loss, temperature=0.3)
    outputs = model.forward(batch())
    labels = batch()[1].numpy() if local_loss == "supcon" else range(BATCH)
    for name in ("stage1", "stage2", "stage3"):
        embeddings = outputs[name]
        assert embeddings.shape == (BATCH, 2, 8)
        expected = np.mean(supcon(labels, embeddings.numpy(), 0.3))
        assert float(model.compute_losses(outputs)[name]) == pytest.approx(expected, rel=1e-4)


def test_a_step_logs_each_loss_and_trains_everything():
    model = build(overlap=1)
    before = [weight.numpy() for weight in model.trainable_weights]
    logs = {name: float(value) for name, value in model.train_step(batch()).items()}
    assert logs["loss"] == pytest.approx(logs["stage2"] + logs["stage3"], rel=1e-5)
    assert logs["positives_per_anchor"] == 1.0
    assert model.collapsed_loss(BATCH, 2) == pytest.approx(2 * np.log(2 * BATCH - 1))
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert np.abs(weight.numpy() - old).max() > 0, weight.path


@pytest.mark.parametrize("overlap", [0, 1])
def test_micro_batches_give_the_gradient_of_the_whole_batch(overlap):
    whole = build(overlap=overlap, normed=False)
    parts = build(overlap=overlap, normed=False, micro_batch_size=2)
    found = tf.function(lambda: parts.gradients(batch()))()
    check_equal(by_path(parts, found[1]), gradients(whole))


def graph_of_a_step(overlap):
    """The traced gradients of a step."""
    model = build(overlap=overlap, decoder_blocks=0)
    return tf.function(lambda: model.gradients(batch())[1]).get_concrete_function().graph


def count(kind, operations, follows_control=False):
    """Operations of a kind among these and all that they need, or also wait for."""
    needed, waiting = set(), [*operations]
    while waiting:
        operation = waiting.pop()
        if operation not in needed:
            needed.add(operation)
            waiting += [tensor.op for tensor in operation.inputs]
            waiting += operation.control_inputs if follows_control else ()
    return sum(operation.type == kind for operation in needed)


def test_graph_mode_leaves_out_the_gradients_that_nothing_trains():
    """Counts the gradients of convolutions with respect to their inputs that a step needs."""
    graphs = [graph_of_a_step(overlap) for overlap in (0, 1, 2)]
    found = [count("Conv2DBackpropInput", [one.op for one in graph.outputs]) for graph in graphs]
    # Stage 1 has two convolutions above the stem; the others have two and a shortcut, of which
    # only the second convolution does not take the stage's input.
    assert found == [2 + 1 + 1, (2 + 3) + (1 + 3), 2 + 3 + 3]


@pytest.mark.parametrize(("overlap", "before"), [(0, [0, 3, 6]), (1, [0, 0, 6]), (2, [0, 0, 0])])
def test_a_stage_waits_for_the_gradients_of_the_losses_below(overlap, before):
    """Counts the gradients of kernels that come before the convolutions of each stage."""
    forward = [op for op in graph_of_a_step(overlap).get_operations() if op.type == "Conv2D"]
    assert len(forward) == 9  # The stem and two of stage 1; then three a stage.
    firsts = [forward[0], forward[3], forward[6]]
    found = [count("Conv2DBackpropFilter", [op], follows_control=True) for op in firsts]
    assert found == before


def test_a_model_is_saved_and_loaded(tmp_path):
    model = build(overlap=1, local_loss="supcon", temperature=0.3)
    model.train_step(batch())
    model.save(tmp_path / "loco.keras")
    again = keras.saving.load_model(tmp_path / "loco.keras")
    left, right = (one.forward(batch(), training=False) for one in (model, again))
    for name in model.loss_names:
        np.testing.assert_array_equal(left[name], right[name])
    assert again.get_config()["overlap"] == 1
    assert again.contrastive_loss.get_config() == model.contrastive_loss.get_config()
    np.testing.assert_array_equal(again(batch()[0][:, 0]), model(batch()[0][:, 0]))


def test_the_number_of_decoders_is_checked():
    with pytest.raises(ValueError, match="decoders must be 2 models. Received: 0"):
        LoCo(build_encoder("resnet8", 8, 0.25), [])
