"""Checks of image files before training: which do not decode, and which are copies of others."""

import concurrent.futures
import hashlib
import os
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from supcon_tf.data.image_files import fault_in

_NAMED = 20  # The largest number of files that a line names.

Copies = Sequence[Sequence[str]]  # Groups of two or more names of identical files.


def check_images(root: Path, names: Sequence[str]) -> tuple[dict[str, str], Copies]:
    """Reads every file once, and decodes it as training would.

    Args:
        root: folder that the names are relative to.
        names: of the files.

    Returns:
        The fault, as a sentence, of each file that does not decode; groups of names of the other
        files that have the same content, byte for byte.
    """
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        checks = pool.map(lambda name: _check(root / name), names)
        shown = tqdm(
            checks, "checking images", len(names), leave=False, disable=not sys.stderr.isatty()
        )
        found = dict(zip(names, shown, strict=True))
    faults = {name: fault for name, (fault, _) in found.items() if fault}
    same: dict[bytes, list[str]] = {}
    for name, (_, digest) in found.items():
        if name not in faults:
            same.setdefault(digest, []).append(name)
    return faults, [group for group in same.values() if len(group) > 1]


def _check(file):
    """The fault, None for a sound file, and the SHA-256 of its content."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return "it is not a regular file.", b""  # Reading a pipe would block.
        content = file.read_bytes()
    except OSError as error:
        return f"{error.strerror}.", b""
    return fault_in(content, file), hashlib.sha256(content).digest()


def faults_line(root: Path, faults: Mapping[str, str]) -> str:
    """A sentence that names the files that `check_images` has found, with the reasons."""
    if len(faults) == 1:
        name, fault = next(iter(faults.items()))
        return f"cannot read image {root / name}: {fault}"
    named = {str(root / name): fault for name, fault in faults.items()}
    return f"cannot read {len(faults)} images: {list_faults(named)}."


def list_faults(faults: Mapping[str, str]) -> str:
    """Files and reasons, as "a.png (Permission denied), b.png (...) and 3 more"."""
    return listed(f"{name} ({_first_sentence(fault)})" for name, fault in faults.items())


def _first_sentence(text):
    return text.partition(". ")[0].removesuffix(".")


def listed(texts: Iterable[str]) -> str:
    """The first texts, separated by commas, and the number of the others."""
    texts = list(texts)
    more = f" and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    return ", ".join(texts[:_NAMED]) + more


def copies_lines(
    copies: Copies, label_of: Mapping[str, str], split_of: Mapping[str, str]
) -> list[str]:
    """Lines for the user about copies.

    Args:
        copies: as `check_images` finds them.
        label_of: class of each file; '' if it is not known.
        split_of: "train", "test" or "validation" of files in splits that the user has made.

    Returns:
        Lines: how many there are, files under two classes, copies between such splits.
    """
    if not copies:
        return []
    count = sum(map(len, copies)) - len(copies)
    found = f"exact copies: {count}, of {len(copies)} images"
    lines = [f"{found}; they stay together when images are held out or set aside"]
    doubted = [twins for group in copies if len(twins := _one_per_class(group, label_of)) > 1]
    if doubted:
        pairs = listed(" = ".join(twins) for twins in doubted)
        several = isinstance(label_of[doubted[0][0]], tuple)
        what = "copies with different labels" if several else "one image under several classes"
        lines.append(f"{what}: {pairs}")
    for split in ("test", "validation"):
        leaked = [
            name
            for group in copies
            if "train" in map(split_of.get, group)
            for name in group
            if split_of.get(name) == split
        ]
        if leaked:
            count = f"{len(leaked)} ({listed(leaked)})"
            lines.append(f"copies of training images in the {split} split: {count}")
    return lines


def _one_per_class(names, label_of):
    """The first file of each class that is known."""
    first: dict[str, str] = {}
    for name in names:
        if label_of.get(name, "") != "":
            first.setdefault(label_of[name], name)
    return list(first.values())
