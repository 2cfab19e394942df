"""The documented update of every optimizer in float64, and training by ours on its inputs."""

import keras
import numpy as np
import tensorflow as tf

STEPS = 4
# A convolution's kernel, a dense one, one that starts at 0, a bias that starts at 0, a scale.
SHAPES = ((2, 2, 3, 2), (3, 4), (4, 2), (4,), (3,))
RATES = {"sgd": 0.1, "lars": 5.0, "rmsprop": 0.1, "adamw": 0.01, "lamb": 0.01, "muon": 0.1}
SETTINGS = [
    ("sgd", {}),
    ("sgd", {"momentum": 0.5, "nesterov": True, "weight_decay": 0.3}),
    ("sgd", {"momentum": 0, "weight_decay": 0.3, "clip_norm": 1.0}),
    ("lars", {}),
    ("lars", {"weight_decay": 0.3}),
    ("lars", {"momentum": 0.8, "nesterov": True, "weight_decay": 0.3, "clip_norm": 1.0}),
    ("rmsprop", {"weight_decay": 0.3}),
    ("rmsprop", {"momentum": 0.0, "weight_decay": 0.3, "clip_norm": 1.0}),
    ("adamw", {}),
    ("adamw", {"weight_decay": 3.0, "clip_norm": 1.0}),
    ("lamb", {}),
    ("lamb", {"weight_decay": 0.3, "clip_norm": 1.0}),
    ("muon", {}),
    ("muon", {"momentum": 0.5, "weight_decay": 0.3, "clip_norm": 1.0}),
]


def values():
    """Weights [variables], and the gradients [steps][variables] that two replicas add up to."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape) for shape in SHAPES]
    weights[2][:] = 0
    weights[3][:] = 0
    gradients = [[rng.normal(size=shape) for shape in SHAPES] for _ in range(STEPS)]
    gradients[1][1][:] = 0  # A kernel without gradient for one step.
    return weights, gradients


def norm(array):
    return np.sqrt(np.sum(np.square(array)))


def adapted(weight, update, coefficient=1.0):
    """The documented trust."""
    return coefficient * norm(weight) / norm(update) if norm(weight) and norm(update) else 1.0


def orthogonal(kernel):
    """Five Newton-Schulz steps from the kernel as a matrix [n, k], divided by its norm."""
    matrix = kernel.reshape(-1, kernel.shape[-1])
    matrix = matrix / (norm(matrix) + 1e-7)
    for _ in range(5):
        gram = matrix @ matrix.T
        matrix = 3.4445 * matrix - 4.775 * gram @ matrix + 2.0315 * gram @ gram @ matrix
    return matrix.reshape(kernel.shape)


def one_update(name, weight, gradient, state, rate, time, momentum, nesterov, decay):
    """The documented formulas, for one variable; `state` is its dict of accumulators."""
    kernel = weight.ndim > 1
    decay = decay if kernel else 0.0
    get = lambda key: state.get(key, np.zeros_like(weight))  # noqa: E731
    if name == "muon" and kernel:
        momentum = 0.95 if momentum is None else momentum
        state["m"] = momentum * get("m") + gradient
        update = orthogonal(gradient + momentum * state["m"])
        columns = weight.shape[-1]
        size = 0.2 * np.sqrt(max(weight.size // columns, columns))
        return weight - rate * decay * weight - rate * size * update
    if name in ("adamw", "lamb", "muon"):
        if name == "adamw":
            weight = weight - rate * decay * weight
        state["m"] = 0.9 * get("m") + 0.1 * gradient
        state["s"] = 0.999 * get("s") + 0.001 * gradient**2
        left = 1 - 0.999**time
        epsilon = 1e-7 if name == "lamb" else 1e-7 / np.sqrt(left)  # Keras's Adam: "epsilon hat".
        update = state["m"] / (1 - 0.9**time) / (np.sqrt(state["s"] / left) + epsilon)
        if name == "lamb" and kernel:
            update = update + decay * weight
            update = adapted(weight, update) * update
        return weight - rate * update
    momentum = 0.9 if momentum is None else momentum
    gradient = gradient + decay * weight
    if name == "lars" and kernel:
        gradient = adapted(weight, gradient, 0.001) * gradient
    if name == "rmsprop":
        state["s"] = 0.9 * get("s") + 0.1 * gradient**2
        gradient = gradient / np.sqrt(state["s"] + 1)
    state["v"] = momentum * get("v") + rate * gradient
    return weight - (momentum * state["v"] + rate * gradient if nesterov else state["v"])


def reference(name, *, momentum=None, nesterov=False, weight_decay=0.0, clip_norm=None, rate=None):
    """The weights after all steps, in float64."""
    weights, gradients = values()
    states = [{} for _ in weights]
    rate = rate or (lambda step: RATES[name])
    for step, step_gradients in enumerate(gradients):
        length = norm([norm(gradient) for gradient in step_gradients])
        scale = min(1.0, clip_norm / length) if clip_norm else 1.0
        assert not clip_norm or scale < 0.5  # It clips.
        weights = [
            one_update(
                name,
                weight,
                scale * gradient,
                state,
                rate(step),
                step + 1,
                momentum,
                nesterov,
                weight_decay,
            )
            for weight, gradient, state in zip(weights, step_gradients, states, strict=True)
        ]
    return weights


def variables(weights):
    return [keras.Variable(weight.astype(np.float32)) for weight in weights]


def train(optimizer, gradients, trained, compiled=False):
    def step(step_gradients):
        optimizer.apply(step_gradients, trained)

    step = tf.function(step, jit_compile=True) if compiled else step
    optimizer.build(trained)
    for step_gradients in gradients:
        step([tf.constant(gradient, tf.float32) for gradient in step_gradients])
    return [variable.numpy() for variable in trained]


def assert_close(found, wanted, **tolerances):
    for left, right in zip(found, wanted, strict=True):
        np.testing.assert_allclose(left, right, **{"rtol": 1e-5, "atol": 1e-6, **tolerances})
