"""What a reader needs to know to repeat a run."""

import contextlib
import datetime
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import tensorflow as tf

_PACKAGES = ("supcon_tf", "tensorflow", "keras", "tensorflow-datasets", "numpy", "scikit-learn")


def manifest(seed: int, dataset: dict) -> dict:
    """What a reader needs to know, or to repeat, a stage.

    Args:
        seed: the stage's seed.
        dataset: `ImageDataset.describe()`.

    Returns:
        A dict ready for JSON.
    """
    return {
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command_line": sys.argv,
        "seed": seed,
        "dataset": dataset,
        "git_commit": _git_commit(),
        "versions": {"python": platform.python_version(), **_versions()},
        "hardware": {
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "devices": [device.name for device in tf.config.list_logical_devices()],
        },
    }


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def _git_commit() -> str | None:
    """The commit of the source tree that this package runs from; None when installed."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
