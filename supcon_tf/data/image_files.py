"""Image files: which files of a folder are images, which are ignored, and their content."""

import importlib.util
import io
import os
import stat
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from supcon_tf.data.images import InvalidImage, decode_checked

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
HEIC_EXTENSIONS = (".heic", ".heif")  # Read by the optional package pillow-heif.
_HEIC_ADVICE = "pip install 'supcon_tf[heic]'"
_JUNK = {"thumbs.db", "desktop.ini", "__macosx"}  # Left behind by operating systems.


def is_junk(name: str) -> bool:
    """Whether a file or folder is hidden, or was left behind by the operating system."""
    return name.startswith(".") or name.lower() in _JUNK


def has_heic() -> bool:
    """Whether HEIC files can be read here."""
    return importlib.util.find_spec("pillow_heif") is not None


def extensions() -> tuple[str, ...]:
    """The extensions of files that count as images here, in lower case."""
    return EXTENSIONS + HEIC_EXTENSIONS * has_heic()


def is_heic(path: Path) -> bool:
    """Whether a file has a HEIC extension."""
    return path.suffix.lower() in HEIC_EXTENSIONS


def files_in(folder: Path, refuse: bool = True) -> list[Path]:
    """The files in a folder, at any depth, in a fixed order.

    Junk (`is_junk`) is left out, and links to folders are not followed.

    Args:
        folder: its path.
        refuse: whether a folder that cannot be read is an error; otherwise it is skipped.

    Raises:
        OSError: if it, or a folder in it, cannot be read.
    """

    def fail(error):
        raise error

    found = []
    for path, folders, files in os.walk(folder, onerror=fail if refuse else None):
        folders[:] = [name for name in folders if not is_junk(name)]
        found += [Path(path, name) for name in files if not is_junk(name)]
    return sorted(found)


def images_in(folder: Path) -> list[Path]:
    """The files in a folder with an image extension, at any depth, in a fixed order.

    A file that cannot be inspected, such as a dangling link, is included; it is found unreadable
    later, and named.

    Args:
        folder: its path.

    Raises:
        OSError: if it, or a folder in it, cannot be read.
    """
    return images_among(file for file in files_in(folder) if _is_file(file))


def images_among(files: Iterable[Path]) -> list[Path]:
    """The files that have an image extension, in a fixed order."""
    known = extensions()
    return sorted(file for file in files if file.suffix.lower() in known)


def _is_file(path):
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def ignored_line(ignored: Iterable[Path]) -> str | None:
    """A line such as "2 files ignored: 1 .heic (pip install supcon_tf[heic]), 1 .txt".

    Args:
        ignored: files that are not used.

    Returns:
        The line; None if there are no such files.
    """
    counts = Counter(_kind(file) for file in ignored)
    if not counts:
        return None
    advice = {ending: f" ({_HEIC_ADVICE})" for ending in HEIC_EXTENSIONS if not has_heic()}
    kinds = [f"{count} {kind}{advice.get(kind, '')}" for kind, count in sorted(counts.items())]
    total = counts.total()
    return f"{total} file{'s' * (total > 1)} ignored: {', '.join(kinds)}"


def _kind(file):
    ending = file.suffix.lower()
    return ending if ending.isprintable() and ending else "without an extension"


def others_in(folder: Path) -> str:
    """A sentence, after a space, on the files in a folder without images; '' if it has none."""
    ignored = ignored_line(files_in(folder, refuse=False))
    return f" {ignored}." if ignored else ""


def decodable(content: bytes, path: Path) -> bytes:
    """The content of an image file in a form that `decode` takes: HEIC becomes an upright PNG.

    Args:
        content: content of the file.
        path: its name, whose extension identifies HEIC files.

    Raises:
        InvalidImage: if it is a HEIC file that cannot be decoded, or pillow-heif is missing.
    """
    return _heic_as_png(content) if is_heic(path) else content


def _heic_as_png(content):
    try:
        import pillow_heif
    except ImportError as error:
        raise InvalidImage(f"HEIC files need pillow-heif. Run: {_HEIC_ADVICE}.") from error
    try:
        if not pillow_heif.is_supported(content):
            return content  # Perhaps another format under this name.
        # In 8 bits; rotated as the file specifies; the primary image if there are several.
        image = pillow_heif.read_heif(content).to_pillow().convert("RGB")
    except MemoryError:
        raise  # Not the image's fault.
    except Exception as error:  # Damage shows in many ways, SyntaxError among them.
        raise InvalidImage(
            f"the HEIC image cannot be decoded ({error}). Check the file."
        ) from error
    png = io.BytesIO()
    image.save(png, "PNG", compress_level=1)
    return png.getvalue()


def fault_in(content: bytes, path: Path) -> str | None:
    """The reason why an image file cannot be used, as a sentence; None for a sound one.

    Damage that a decoder conceals, as JPEG's does within a picture, goes unnoticed.

    Args:
        content: content of the file.
        path: its name.
    """
    try:
        decode_checked(decodable(content, path))
    except InvalidImage as error:
        return str(error)
    return None
