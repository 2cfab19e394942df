"""Checks that a stage is continued with the settings that it began with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supcon_tf.config import PretrainConfig, RunConfig
from supcon_tf.core.errors import UserError


def check_same_settings(path: Path, kept: Mapping[str, Any], config: RunConfig) -> None:
    """Refuses to continue a stage with different settings.

    Args:
        path: the run directory, for the message.
        kept: the stage's settings as it began; one that is missing had its default.
        config: the settings now.

    Raises:
        UserError: if one of them differs.
    """
    before, now = {**type(config)().to_dict(), **kept}, config.to_dict()
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            advice = "Give the same settings, or another --run_dir."
            if name == "epochs" and isinstance(config, PretrainConfig):
                advice = (
                    "The schedule of the learning rate depends on it. Begin another run from "
                    f"this one's encoder, with --initial_run={path} and another --run_dir."
                )
            raise UserError(
                f"{path} holds a different configuration: {name} was {before.get(name)!r}. "
                f"Received: {now.get(name)!r}. {advice}"
            )
