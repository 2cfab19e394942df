"""The initial weights of a training run."""

import contextlib
import random
import threading
from pathlib import Path

import keras

from supcon_tf.core.errors import UserError
from supcon_tf.networks.kept import load_kept


@contextlib.contextmanager
def initial_weights(seed: int):
    """Models built inside start from weights that depend on `seed` alone.

    Keras draws the seeds of its initializers with `random.randint`. Inside, this thread's come
    from a separate generator, as a draw by another thread would change every later weight.
    """
    this_thread, of_everyone = threading.get_ident(), random.randint
    own = random.Random(seed)

    def randint(low, high):
        is_ours = threading.get_ident() == this_thread
        return own.randint(low, high) if is_ours else of_everyone(low, high)

    random.randint = randint
    try:
        yield
    finally:
        random.randint = of_everyone


def take_weights(encoder: keras.Model, file: Path) -> None:
    """Gives an encoder the weights of a kept one of the same layers.

    Args:
        encoder: gets the weights.
        file: the kept one's `.keras` file; its images may be of a different size.

    Raises:
        UserError: if it cannot be read, or its weights have different shapes.
    """
    kept = load_kept(file, is_classifier=False)
    shapes = [[weight.shape for weight in model.weights] for model in (kept, encoder)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"{file} does not fit this encoder: {kept.count_params():,} parameters there, "
            f"{encoder.count_params():,} here. Pass the --encoder and --width_multiplier of that "
            "run."
        )
    encoder.set_weights(kept.get_weights())
