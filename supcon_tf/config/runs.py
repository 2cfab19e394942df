"""Settings that every stage with a run directory has."""

import dataclasses

from supcon_tf.config.settings import Config, setting
from supcon_tf.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """A stage that writes into a run directory."""

    run_dir: str = setting("runs/run", "Directory that the run reads and writes.", identity=False)
    resume: bool = setting(False, "Continue the run if it has begun.", identity=False)
    overwrite: bool = setting(False, "Replace this stage's earlier results.", identity=False)

    def __post_init__(self):
        super().__post_init__()
        if not self.run_dir:
            raise UserError("run_dir must name a directory. Received: ''.")
        if self.resume and self.overwrite:
            raise UserError(
                "resume and overwrite are mutually exclusive. Received: both. Leave out "
                "overwrite to continue."
            )
