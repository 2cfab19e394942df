"""Layout of bundles: names, versions, files, and the SHA-256 sums over the files.

saved_models/<name>/<version>/
    saved_model.pb, variables/   SavedModel, its preprocessing inside the graph
    tflite/<precision>.tflite    float32, float16, dynamic and int8
    model.onnx                   if the format onnx was requested
    labels.txt                   one class per line
    index/                       names and thumbnails of the images among which neighbours are found
    held_out.npz                 features and labels of the held-out images, with an index only
    metadata.json, metrics.json  what it is, how it was made, how it scores
    MODEL_CARD.md                the same, for readers
    SHA256SUMS                   of every file above
"""

import re
from pathlib import Path

from supcon_tf.core.errors import UserError
from supcon_tf.core.files import sha256

SUMS, HELD_OUT = "SHA256SUMS", "held_out.npz"
ONNX = "model.onnx"
THUMBNAILS, INDEX_IMAGES = "index/thumbnails.zip", "index/images.csv"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VERSION = re.compile("[1-9][0-9]{0,9}")


def tflite_file(bundle: Path, precision: str) -> Path:
    """Path of a bundle's TFLite model."""
    return bundle / "tflite" / f"{precision}.tflite"


def check_name(name: str) -> str:
    """Returns a model's name.

    Raises:
        UserError: if it is not made of letters, digits, dots, dashes and underscores.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            "name must be letters, digits, dots, dashes and underscores, the first a letter or "
            f"digit. Received: {name!r}. Pass --name."
        )
    return name


def find_versions(folder: Path) -> list[int]:
    """The versions of a model in `<saved_models>/<name>`, oldest first; links are passed over."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if _VERSION.fullmatch(path.name))
    return sorted(int(path.name) for path in found if path.is_dir() and not path.is_symlink())


def next_version(folder: Path, version: int | None = None) -> Path:
    """The directory that a new version of a model is written to.

    Args:
        folder: `<saved_models>/<name>`.
        version: None for one more than the newest.

    Raises:
        UserError: if the version exists.
    """
    version = version or max(find_versions(folder), default=0) + 1
    if version >= 2**31:
        raise UserError(
            f"{folder} has version {version - 1}, and no higher number is possible. Remove it."
        )
    if (folder / str(version)).exists():
        raise UserError(
            f"{folder / str(version)} exists; a version is never overwritten. Received: version="
            f"{version}. Leave it out, or give another."
        )
    return folder / str(version)


def read_class_names(bundle: Path) -> list[str]:
    """The lines of labels.txt."""
    return (bundle / "labels.txt").read_text("utf-8").removesuffix("\n").split("\n")


def newest_bundle(model: str | Path) -> Path:
    """The version directory to load.

    Args:
        model: a version directory, or `<saved_models>/<name>`, whose newest version is taken.

    Raises:
        UserError: if there is neither.
    """
    if not str(model):
        raise UserError("no model given. Pass --model=saved_models/NAME.")
    folder = Path(model)
    if any((folder / name).is_file() for name in ("saved_model.pb", SUMS)):
        return folder
    if versions := find_versions(folder):
        return folder / str(versions[-1])  # Perhaps damaged; loading will tell.
    fault = "holds no exported SavedModel" if folder.exists() else "not found"
    advice = "Give a directory that supcon-tf export wrote, such as saved_models/NAME"
    if re.fullmatch(r"[\w.-]+:[0-9]+", str(model)):
        advice = f"For a server give http://{model}"
    raise UserError(f"model {fault}. Received: {str(model)!r}. {advice}.")


def write_sums(bundle: Path) -> None:
    """Writes SHA256SUMS for every file of a bundle, as `sha256sum --check` reads it."""
    lines = [f"{sha256(bundle / name)}  {name}\n" for name in _files(bundle)]
    (bundle / SUMS).write_text("".join(lines), "utf-8")


def check_sums(bundle: Path) -> None:
    """Compares every file of a bundle with SHA256SUMS.

    Raises:
        UserError: if a file is missing, changed, a link, or not listed.
    """
    advice = "Export it again, or copy it again."
    try:
        lines = (bundle / SUMS).read_text("utf-8").splitlines()
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError) as error:
        raise UserError(f"bundle {bundle} has no readable {SUMS}. {advice}") from error
    present = set(_files(bundle))
    for name in sorted({*sums, *present}):
        if name not in present:
            raise UserError(f"bundle {bundle} lacks {name}. {advice}")
        if name not in sums:
            raise UserError(f"bundle {bundle} holds {name}, which does not belong to it. {advice}")
        path = bundle / name
        if path.is_symlink() or not path.is_file() or sha256(path) != sums[name]:
            raise UserError(
                f"bundle {bundle} is damaged: the SHA-256 of {name} does not match. {advice}"
            )


def _files(bundle: Path) -> list[str]:
    """Names of a bundle's files except for the sums; a link counts as a file."""
    paths = (path for path in bundle.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path.relative_to(bundle).as_posix() for path in paths if path.name != SUMS)
