"""SHA-256 sums over the files of a bundle."""

from pathlib import Path

from supcon_tf.core.errors import UserError
from supcon_tf.core.files import sha256

SUMS = "SHA256SUMS"


def write_sums(bundle: Path) -> None:
    """Writes SHA256SUMS over every file of a bundle, as `sha256sum --check` reads it."""
    lines = [f"{sha256(bundle / name)}  {name}\n" for name in _files(bundle)]
    (bundle / SUMS).write_text("".join(lines), "utf-8")


def _files(bundle: Path) -> list[str]:
    paths = (path for path in bundle.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path.relative_to(bundle).as_posix() for path in paths if path.name != SUMS)


def check_sums(bundle: Path) -> None:
    """Compares every file of a bundle with SHA256SUMS.

    Raises:
        UserError: if a file is missing, changed, a link, or not listed.
    """
    advice = "Export it again, or copy it anew."
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
            raise UserError(f"bundle {bundle} holds {name}, which is not of it. {advice}")
        path = bundle / name
        if path.is_symlink() or not path.is_file() or sha256(path) != sums[name]:
            raise UserError(f"bundle {bundle} is damaged: {name} has another SHA-256. {advice}")
