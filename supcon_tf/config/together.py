"""Checks of pretraining's settings against each other."""

from supcon_tf.config.dataset_names import absolute
from supcon_tf.core.errors import UserError


def check_together(config) -> None:
    """Raises `UserError` if settings of a `PretrainConfig` do not go together."""
    if config.warmup_epochs is not None and config.warmup_epochs >= config.epochs:
        raise UserError(
            f"warmup_epochs must be below epochs ({config.epochs}). Received: "
            f"{config.warmup_epochs:g}. Pass a lower --warmup_epochs, or more --epochs."
        )
    if config.small_view_size_px is not None and not config.small_views:
        raise UserError(
            "small_view_size_px is for small_views. Received: "
            f"{config.small_view_size_px}. Leave it out, or pass --small_views."
        )
    if "temperature" in config.method_args:
        raise UserError(
            "method_args must not hold temperature. Received: "
            f"{config.method_args['temperature']!r}. Pass it as --temperature."
        )
    _check_balanced(config)
    _check_initial_run(config)


def _check_balanced(config):
    classes, images = config.classes_per_batch, config.images_per_class
    if (classes is None) != (images is None):
        raise UserError(
            "classes_per_batch and images_per_class go together. Received: "
            f"{classes} and {images}. Give both, or neither."
        )
    if classes is not None and classes * images != config.batch_size:
        raise UserError(
            f"batch_size must be classes_per_batch x images_per_class, {classes} x {images}. "
            f"Received: {config.batch_size}. Pass --batch_size={classes * images}."
        )


def _check_initial_run(config):
    if config.initial_run and config.encoder_weights:
        raise UserError(
            "initial_run and encoder_weights are mutually exclusive. Received: "
            f"{config.initial_run!r} and {config.encoder_weights!r}. Give one of them."
        )
    if config.initial_run == absolute(config.run_dir):
        raise UserError(
            f"initial_run must not be run_dir itself. Received: {config.initial_run!r}. "
            "Pass another --run_dir."
        )
