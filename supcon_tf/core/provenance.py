"""Provenance of a run: versions, commit, command, data, hardware."""

import contextlib
import datetime
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import tensorflow as tf

from supcon_tf.core.files import sha256

SPLITS = ("train", "test")
_CPU_INFO = Path("/proc/cpuinfo")
# Names of instruction sets, and the flags by which Linux lists them.
_INSTRUCTION_SETS = {"AMX": "amx_tile", "AVX-512": "avx512f", "AVX2": "avx2"}
_PACKAGES = ("supcon_tf", "tensorflow", "keras", "tensorflow-datasets", "numpy", "scikit-learn")


def manifest(seed: int, dataset: dict) -> dict:
    """Provenance of a stage, so that it can be repeated.

    Args:
        seed: the stage's seed.
        dataset: `ImageDataset.describe()`.

    Returns:
        A dict ready for JSON.
    """
    return {
        **resumption(),
        "seed": seed,
        "dataset": dataset,
        "hardware": hardware(),
    }


def initial_run(path: str) -> dict:
    """The run whose encoder another run starts from.

    Args:
        path: its directory.
    """
    return {"path": path, "encoder_sha256": sha256(Path(path) / "encoder.keras")}


def is_manifest(entry: Any) -> bool:
    """Whether JSON is a stage's entry in manifest.json, as far as it is read back."""
    dataset = entry.get("dataset") if isinstance(entry, dict) else None
    if not isinstance(dataset, dict) or not isinstance(entry.get("resumed", []), list):
        return False
    splits = [dataset.get(split) for split in SPLITS]
    splits += [dataset["unlabelled"]] if "unlabelled" in dataset else []
    copies = dataset.get("copies", [])
    names = [dataset.get("bad_images", []), *(copies if isinstance(copies, list) else [None])]
    return all(
        isinstance(split, dict) and isinstance(split.get("examples"), int) for split in splits
    ) and all(
        isinstance(group, list) and all(isinstance(name, str) for name in group) for group in names
    )


def hardware() -> dict:
    """The machine: its processor, its cores, and its GPUs or logical CPU devices."""
    return {
        "machine": platform.machine(),
        **processor(),
        "cpus": os.cpu_count(),
        "devices": _devices(),
    }


def processor() -> dict[str, str]:
    """The processor's model, and its instruction sets that speed depends on.

    Returns:
        {"cpu": model, "instructions": "AVX-512, AVX2"}, without what the system does not report.
    """
    lines = _CPU_INFO.read_text().splitlines() if _CPU_INFO.is_file() else []
    found = {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    flags = found.get("flags", "").split()
    known = {
        "cpu": found.get("model name", platform.processor()),
        "instructions": ", ".join(s for s, flag in _INSTRUCTION_SETS.items() if flag in flags),
    }
    return {name: value for name, value in known.items() if value}


def resumption() -> dict:
    """When, by which command and with which code a stage was begun or continued."""
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command_line": sys.argv,
        **code(),
    }


def code() -> dict:
    """The code that runs: this package's commit, and the versions of what it is built on."""
    return {
        "git_commit": _git_commit(),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def _git_commit() -> str | None:
    """The commit of this package's source tree, with "-dirty" if files were changed.

    None when the package is installed.
    """
    root = Path(__file__).parents[2]
    try:
        if Path(_git(root, "rev-parse", "--show-toplevel")) != root:
            return None  # Installed inside somebody else's repository.
        return _git(root, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _devices() -> list[str]:
    """The GPUs by model, or the CPU by logical device."""
    gpus = [
        tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return gpus or [device.name for device in tf.config.list_logical_devices()]
