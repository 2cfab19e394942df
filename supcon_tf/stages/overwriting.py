"""Files of a stage that is overwritten: moved away until the new one has begun, or put back."""

import contextlib
from collections.abc import Iterable
from pathlib import Path

from supcon_tf.core.files import TEMPORARY_PREFIX, remove

# Where they are kept until then, and the list of their names.
_ASIDE, _MOVED = f"{TEMPORARY_PREFIX}old", ".moved"

JSON_FILES = ("metrics.json", "history.json", "manifest.json", "config.json")
# Files derived from each stage, removed when it is replaced; a user's own files stay.
_CLASSIFIER_FILES = (
    "classifier.keras",
    "checkpoints/classifier",
    "logs/classifier",
    "evaluation",
    "pictures/confusion_matrix.png",
    "pictures/confusion_matrix_validation.png",
)
_PRETRAIN_FILES = (
    "encoder.keras",
    *_CLASSIFIER_FILES,
    "checkpoints",
    "logs",
    "pictures/learning_curves.png",
    "pictures/embeddings.png",
    *JSON_FILES,
)
DERIVED_FILES = {"pretrain": _PRETRAIN_FILES, "classifier": _CLASSIFIER_FILES}


@contextlib.contextmanager
def set_aside(folder: Path, names: Iterable[str]):
    """Moves files away and gives them up when the block succeeds; they come back if it fails.

    Args:
        folder: where they are.
        names: relative to it; what is not there is passed over.
    """
    aside, names = folder / _ASIDE, list(names)
    remove(aside)
    names = [name for name in names if str(Path(name).parent) not in names]
    aside.mkdir()
    (aside / _MOVED).write_text("\n".join(names))
    try:
        for name in names:
            _move(folder / name, aside / name)
        yield
    except BaseException:
        put_back(folder)
        raise
    # From here on the old files are given up; a kill while they are removed brings nothing back.
    (aside / _MOVED).unlink()
    remove(aside)


def is_interrupted(folder: Path) -> bool:
    """Whether a process was killed inside `set_aside`."""
    return (folder / _ASIDE).exists()


def put_back(folder: Path) -> None:
    """Puts back what was set aside."""
    aside = folder / _ASIDE
    if (aside / _MOVED).exists():
        for name in (aside / _MOVED).read_text().splitlines():
            if _is_there(aside / name):
                remove(folder / name)
                _move(aside / name, folder / name)
    remove(aside)


def _move(old: Path, new: Path) -> None:
    if _is_there(old):
        new.parent.mkdir(parents=True, exist_ok=True)
        old.rename(new)


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()
