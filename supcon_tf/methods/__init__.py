"""The methods by name: which loss, and which model trains with it.

To add a pairwise loss, write one file and one line in `LOSSES`; to add a method with data or state
of its own, one file and one line in `MODELS`.
"""

import inspect
from collections.abc import Callable
from functools import partial

import keras

from supcon_tf.core.errors import UserError
from supcon_tf.engine.model import ContrastiveModel
from supcon_tf.losses.max_margin import MaxMarginLoss
from supcon_tf.losses.npairs import NPairsLoss
from supcon_tf.losses.simclr import SimCLRLoss
from supcon_tf.losses.supcon import SupConLoss
from supcon_tf.losses.triplet import TripletLoss
from supcon_tf.methods.cross_entropy import CrossEntropyModel
from supcon_tf.methods.pairwise import PairwiseModel

LOSSES: dict[str, Callable[..., keras.losses.Loss]] = {
    "supcon_out": partial(SupConLoss, summation_location="out"),
    "supcon_in": partial(SupConLoss, summation_location="in"),
    "simclr": SimCLRLoss,
    "triplet": TripletLoss,
    "npairs": NPairsLoss,
    "max_margin": MaxMarginLoss,
}
MODELS: dict[str, Callable[..., ContrastiveModel]] = {
    "cross_entropy": CrossEntropyModel,
}


def _arguments(factory: Callable, reserved: tuple[str, ...]) -> list[str]:
    """The arguments of a method that a user may set."""
    fixed = {*reserved, *getattr(factory, "keywords", {})}
    names = inspect.signature(factory).parameters
    return [name for name in names if name not in fixed and name != "kwargs"]


def check_method(
    method: str, temperature: float | None, method_args: dict, queue_size: int = 0
) -> None:
    """Checks a method's name and arguments without building anything large.

    Args:
        method: a key of `LOSSES` or `MODELS`.
        temperature: None for the method's default.
        method_args: further arguments of the method.
        queue_size: rows of the memory queue; 0 for none.

    Raises:
        UserError: if the method is unknown, or has no such argument, or refuses its value, or
            takes no queue.
    """
    known = {**LOSSES, **MODELS}
    if method not in known:
        raise UserError(f"method must be one of {', '.join(known)}. Received: {method!r}.")
    # The projection head puts out unit-norm embeddings, so `normalize` would change nothing.
    reserved = ("encoder", "num_classes", "reduction", "name", "normalize", *_ENGINE)
    allowed = _arguments(known[method], reserved)
    given = _given(temperature, method_args)
    for name in given:
        if name not in allowed:
            raise UserError(
                f"method {method} has no argument {name!r}; it takes "
                f"{', '.join(allowed) or 'none'}. Received: {name}={given[name]!r}."
            )
    loss = _construct(method, LOSSES[method], given) if method in LOSSES else None
    if queue_size:
        _check_queue(method, loss, given, queue_size)


def _check_queue(method, loss, given, queue_size):
    if "queue" not in inspect.signature(getattr(loss, "call", _given)).parameters:
        raise UserError(
            f"method {method} takes no memory queue. Received: queue_size={queue_size}. Leave it "
            "out, or use supcon_out, supcon_in or simclr."
        )
    if given.get("positives_cap") is not None:
        raise UserError(
            "positives_cap cannot be combined with a queue. Received: positives_cap="
            f"{given['positives_cap']} and queue_size={queue_size}."
        )


# Arguments of every model, which are settings of their own.
_ENGINE = ("micro_batch_size", "ema_momentum", "queue_size")


def _given(temperature, method_args):
    given = {} if temperature is None else {"temperature": temperature}
    return {**given, **method_args}


def _construct(method, factory, arguments):
    try:
        return factory(**arguments)
    except (ValueError, TypeError) as error:
        raise UserError(f"method {method}: {error}") from error


def build_model(
    method: str,
    encoder: keras.Model,
    projection_head: Callable[[], keras.layers.Layer],
    num_classes: int,
    temperature: float | None = None,
    method_args: dict | None = None,
    *,
    queue_size: int = 0,
    **engine,
) -> ContrastiveModel:
    """Builds the model of a method around an encoder.

    Args:
        method: a key of `LOSSES` or `MODELS`.
        encoder: a built encoder.
        projection_head: makes the projection head, for the methods that have one.
        num_classes: classes of the data set.
        temperature: None for the method's default.
        method_args: further arguments of the method.
        queue_size: rows of the memory queue; 0 for none.
        **engine: `micro_batch_size` and `ema_momentum`, as `ContrastiveModel`.

    Returns:
        A model ready to be compiled with an optimizer.

    Raises:
        UserError: if the method is unknown or refuses an argument.
    """
    check_method(method, temperature, method_args or {}, queue_size)
    given = _given(temperature, method_args or {})
    if method in LOSSES:
        loss = _construct(method, LOSSES[method], given)
        head = projection_head()
        return PairwiseModel(encoder, head, loss, queue_size=queue_size, name=method, **engine)
    return _construct(
        method,
        partial(MODELS[method], encoder=encoder, num_classes=num_classes, name=method, **engine),
        given,
    )


__all__ = ["LOSSES", "MODELS", "build_model", "check_method"]
