"""Images of classes that are added to an exported model: found, checked and split."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from supcon_tf.config import AddClassConfig
from supcon_tf.config.dataset_names import plain_path_advice
from supcon_tf.core.errors import UserError
from supcon_tf.data.datasets import image_split
from supcon_tf.data.folder import ignored_in, list_classes
from supcon_tf.data.holding_out import Example, hold_out, tie
from supcon_tf.data.image_checks import check_images, copies_lines, faults_line
from supcon_tf.data.splits import Split
from supcon_tf.exporting.bundle import Bundle


@dataclasses.dataclass(frozen=True)
class NewClasses:
    """Classes to add.

    Attributes:
        names: of the classes.
        support: images to learn from.
        held_out: images to score on.
    """

    names: Sequence[str]
    support: Split
    held_out: Split


def find_images(config: AddClassConfig, bundle: Bundle) -> NewClasses:
    """The images of new classes, checked and split; what a user should know of them is printed.

    Args:
        config: their folder, and how it is split.
        bundle: the bundle that they are added to.

    Raises:
        UserError: if the folder's images or class names cannot be used.
    """
    root = Path(config.images)
    if not config.images or not root.is_dir():
        raise UserError(
            "images must be a folder with one subfolder per new class. Received: "
            f"{config.images!r}.{plain_path_advice(config.images)}"
        )
    examples = list_classes(root)
    names = sorted({name for _, name in examples})
    if not names:
        raise UserError(f"folder {root} has no class subfolders. Give it one subfolder per class.")
    for name in names:
        if name in bundle.class_names or not name.isprintable():
            raise UserError(
                f"class names must be new and printable. Received: {name!r}, with "
                f"{len(bundle.class_names)} classes in {bundle.path}. Rename the folder."
            )
    every = [*bundle.class_names, *names]
    parts = _checked_parts(root, examples, config)
    return NewClasses(names, *(image_split(root, part, every) for part in parts))


def _checked_parts(root: Path, examples: Sequence[Example], config: AddClassConfig):
    """The examples to learn from and those to score on."""
    files = [name for name, _ in examples]
    faults, copies = check_images(root, files)
    if faults:
        them = "it" if len(faults) == 1 else "them"
        raise UserError(f"{faults_line(root, faults)} Remove or replace {them}.")
    ignored = ignored_in(root, files)
    for line in [*([ignored] if ignored else []), *copies_lines(copies, dict(examples), {})]:
        print(line, file=sys.stderr)
    return hold_out(
        f"folder {root}",
        examples,
        config.holdout_fraction,
        config.seed,
        "holdout_fraction",
        tie(files, copies),
    )
