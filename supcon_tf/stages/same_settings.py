"""The settings of a stage that is continued: those it began with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supcon_tf.config import RunConfig
from supcon_tf.core.errors import UserError


def check_same_settings(path: Path, kept: Mapping[str, Any], config: RunConfig) -> None:
    """Refuses to continue a stage with other settings.

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
            raise UserError(
                f"{path} holds another configuration: {name} was {before.get(name)!r}. "
                f"Received: {now.get(name)!r}. Give the same settings, or another --run_dir."
            )
