"""The methods by name: which loss, and which model trains with it.

To add a pairwise loss, write one file and one line in `LOSSES`; to add a method with data or state
of its own, one file and one line in `MODELS`.
"""

import inspect
from collections.abc import Callable
from functools import partial

import keras

from supcon_tf.errors import UserError
from supcon_tf.methods.max_margin import MaxMarginLoss
from supcon_tf.methods.npairs import NPairsLoss
from supcon_tf.methods.simclr import SimCLRLoss
from supcon_tf.methods.supcon import SupConLoss
from supcon_tf.methods.triplet import TripletLoss
from supcon_tf.models.contrastive import ContrastiveModel, CrossEntropyModel, PairwiseModel

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


def check_method(method: str, temperature: float | None, method_args: dict) -> None:
    """Checks a method's name and arguments without building anything large.

    Args:
        method: a key of `LOSSES` or `MODELS`.
        temperature: None for the method's default.
        method_args: further arguments of the method.

    Raises:
        UserError: if the method is unknown, or has no such argument, or refuses its value.
    """
    known = {**LOSSES, **MODELS}
    if method not in known:
        raise UserError(f"method must be one of {', '.join(known)}. Received: {method!r}.")
    # The projection head puts out unit-norm embeddings, so `normalize` would change nothing.
    reserved = ("encoder", "num_classes", "reduction", "name", "normalize")
    allowed = _arguments(known[method], reserved)
    given = _given(temperature, method_args)
    for name in given:
        if name not in allowed:
            raise UserError(
                f"method {method} has no argument {name!r}; it takes "
                f"{', '.join(allowed) or 'none'}. Received: {name}={given[name]!r}."
            )
    if method in LOSSES:
        _construct(method, LOSSES[method], given)


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
) -> ContrastiveModel:
    """Builds the model of a method around an encoder.

    Args:
        method: a key of `LOSSES` or `MODELS`.
        encoder: a built encoder.
        projection_head: makes the projection head, for the methods that have one.
        num_classes: classes of the data set.
        temperature: None for the method's default.
        method_args: further arguments of the method.

    Returns:
        A model ready to be compiled with an optimizer.

    Raises:
        UserError: if the method is unknown or refuses an argument.
    """
    check_method(method, temperature, method_args or {})
    given = _given(temperature, method_args or {})
    if method in LOSSES:
        loss = _construct(method, LOSSES[method], given)
        return PairwiseModel(encoder, projection_head(), loss, name=method)
    return _construct(
        method,
        partial(MODELS[method], encoder=encoder, num_classes=num_classes, name=method),
        given,
    )


__all__ = ["LOSSES", "MODELS", "build_model", "check_method"]
