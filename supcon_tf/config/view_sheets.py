"""Settings of a sheet of views."""

import dataclasses
from pathlib import Path

from supcon_tf.config.settings import Config, setting
from supcon_tf.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShowViewsConfig(Config):
    """A picture of training images and their views."""

    output_file: str = setting("", "PNG file to write.", identity=False)
    num_images: int = setting(8, "Training images to show, one per row.", at_least=1, at_most=64)
    step: int = setting(
        0, "Step whose views are drawn; they differ from step to step.", at_least=0, below=2**40
    )
    overwrite: bool = setting(False, "Replace the file if it exists.", identity=False)

    def __post_init__(self):
        super().__post_init__()
        file = Path(self.output_file)
        if file.suffix.lower() != ".png":
            raise UserError(
                f"output_file must be a .png file. Received: {self.output_file!r}. Pass "
                "--output_file=views.png."
            )
        if file.is_dir():
            raise UserError(
                f"output_file is a folder. Received: {self.output_file!r}. Pass a file."
            )
        if file.exists() and not self.overwrite:
            raise UserError(
                f"output_file already exists. Received: {self.output_file!r}. Pass another, or "
                "--overwrite."
            )
