"""Run directories: what a run was, what it needs to continue, and what came of it.

    config.json     settings of each stage
    manifest.json   versions, seed, commit, data set, hardware and command line of each stage
    metrics.json    scores of each stage
    history.json    curves of each stage
    checkpoints/    <stage>/<epoch>/: weights, optimizer and curves
    encoder.keras   the trained encoder;  classifier.keras  encoder and linear head
    logs/           TensorBoard;  pictures/  PNG files

Files are written under a temporary name and renamed, so that none is ever half there.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import keras

from supcon_tf.config import PretrainConfig, RunConfig
from supcon_tf.data.datasets import ImageDataset, from_config
from supcon_tf.errors import UserError
from supcon_tf.files import TEMPORARY_PREFIX, read_json, sha256, write_json, writing
from supcon_tf.manifest import manifest

_KEPT_CHECKPOINTS = 2
# What each stage leaves behind, and --overwrite therefore removes; pretraining removes everything.
_STAGE_FILES = {"classifier": ("classifier.keras", "checkpoints/classifier", "logs/classifier")}


class RunDirectory:
    """One run directory.

    Args:
        path: the directory; nothing is written before `begin`.
    """

    def __init__(self, path: str):
        self.path = Path(path)
        self.pictures = self.path / "pictures"
        self.metrics = self.path / "metrics.json"

    def stages(self) -> dict[str, dict]:
        """The settings of each stage begun so far."""
        file = self.path / "config.json"
        return read_json(file) if file.exists() else {}

    def check(self, stage: str, config: RunConfig) -> None:
        """Refuses, without writing, a stage that would collide with what is there.

        Args:
            stage: "pretrain" or "classifier".
            config: the stage's settings.

        Raises:
            UserError: if the directory is not a run's, or holds the stage already and `resume` or
                `overwrite` do not allow to go on.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"run_dir is a file. Received: {self.path}. Give another directory.")
        stages = self.stages()
        foreign = (
            self.path.is_dir()
            and not stages
            and any(not entry.name.startswith(TEMPORARY_PREFIX) for entry in self.path.iterdir())
        )
        if foreign:
            raise UserError(
                f"run_dir holds files but no run. Received: {self.path}. Give another directory."
            )
        if stage not in stages or config.overwrite:
            return
        if not config.resume:
            raise UserError(
                f"{self.path} already holds a {stage} stage. Pass --resume to continue it, "
                "--overwrite to replace it, or another --run_dir."
            )
        before, now = stages[stage], config.to_dict()
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                raise UserError(
                    f"{self.path} holds another configuration: {name} was {before.get(name)!r}. "
                    f"Received: {now.get(name)!r}. Give the same settings, or another --run_dir."
                )

    def begin(self, stage: str, config: RunConfig, dataset: dict) -> None:
        """Writes the settings and the manifest of a stage, after `check`.

        Args:
            stage: "pretrain" or "classifier".
            config: the stage's settings.
            dataset: `ImageDataset.describe()`.

        Raises:
            UserError: if the directory cannot be written.
        """
        try:
            if config.overwrite:
                self._remove(stage)
            self.path.mkdir(parents=True, exist_ok=True)
            self._update("config.json", stage, config.to_dict())
            self._update("manifest.json", stage, manifest(config.seed, dataset))
        except OSError as error:
            raise UserError(f"cannot write to run_dir {self.path}: {error.strerror}.") from error

    def _remove(self, stage: str) -> None:
        if stage == "pretrain":
            if self.stages():
                shutil.rmtree(self.path)
            return
        for name in _STAGE_FILES[stage]:
            file = self.path / name
            if file.is_dir():
                shutil.rmtree(file)
            else:
                file.unlink(missing_ok=True)

    def _update(self, file: str, key: str, value: Any) -> None:
        path = self.path / file
        write_json(path, {**(read_json(path) if path.exists() else {}), key: value})

    def record(self, stage: str, metrics: dict, history: dict | None = None) -> None:
        """Adds a stage's scores to metrics.json, and its curves to history.json."""
        self._update("metrics.json", stage, metrics)
        if history is not None:
            self._update("history.json", stage, history)

    def read_metrics(self) -> dict:
        """The scores recorded so far, by stage."""
        return read_json(self.metrics) if self.metrics.exists() else {}

    def history(self) -> dict:
        """The curves recorded so far, by stage."""
        file = self.path / "history.json"
        return read_json(file) if file.exists() else {}

    def pretrain_config(self) -> PretrainConfig:
        """The settings that the encoder was trained with.

        Raises:
            UserError: if there is no finished pretraining here.
        """
        stages = self.stages()
        if "pretrain" not in stages:
            raise UserError(
                f"run_dir has no pretrained encoder. Received: {self.path}. Run pretrain.py first."
            )
        if not (self.path / "encoder.keras").exists():
            raise UserError(
                f"pretraining in {self.path} is not finished. Run pretrain.py with --resume first."
            )
        return PretrainConfig.from_dict(stages["pretrain"], run_dir=str(self.path))

    def open_dataset(self) -> ImageDataset:
        """Opens the data set that the encoder was trained on.

        Raises:
            UserError: if there is no finished pretraining here, or the content of a split changed
                since (a held-out image might have been trained on).
        """
        dataset = from_config(self.pretrain_config())
        described = dataset.describe()
        before = read_json(self.path / "manifest.json")["pretrain"]["dataset"]
        for split in ("train", "test"):
            if before[split] != described[split]:
                raise UserError(
                    f"split {split!r} of {described['name']} changed since {self.path} was "
                    f"pretrained: {before[split]['examples']} images then, "
                    f"{described[split]['examples']} now. Restore it, or pretrain again."
                )
        return dataset

    def save_model(self, model: keras.Model, name: str) -> None:
        """Saves a model of Keras's own layers as `<name>.keras`."""
        with writing(self.path / f"{name}.keras") as temporary:
            target = temporary.with_suffix(".keras")
            model.save(target)
            os.replace(target, temporary)

    def load_model(self, name: str) -> keras.Model:
        """Loads `<name>.keras`.

        Raises:
            UserError: if it is missing or cannot be read.
        """
        file = self.path / f"{name}.keras"
        if not file.exists():
            script = "train_classifier" if name == "classifier" else "pretrain"
            raise UserError(f"{file} not found. Run {script}.py --run_dir={self.path} first.")
        try:
            return keras.saving.load_model(file, compile=False)
        except Exception as error:  # A broken file fails in many ways inside Keras.
            raise UserError(
                f"{file} is corrupted ({type(error).__name__}). Train that stage again with "
                "--overwrite."
            ) from error

    def save_checkpoint(self, stage: str, epoch: int, model: keras.Model, history: dict) -> None:
        """Saves weights, optimizer and curves after an epoch; keeps the newest two."""
        target = self.path / "checkpoints" / stage / f"{epoch:06d}"
        if target.exists():
            shutil.rmtree(target)  # A corrupted one, which the run has passed over.
        with writing(target) as temporary:
            temporary.mkdir(parents=True)
            weights = temporary / "model.weights.h5"
            model.save_weights(weights)
            state = {"epoch": epoch, "history": history, "sha256": sha256(weights)}
            write_json(temporary / "state.json", state)
        for old in self._checkpoints(stage)[_KEPT_CHECKPOINTS:]:
            shutil.rmtree(old)

    def _checkpoints(self, stage: str) -> list[Path]:
        """Newest first."""
        folder = self.path / "checkpoints" / stage
        return sorted((path for path in folder.glob("[0-9]*") if path.is_dir()), reverse=True)

    def restore_checkpoint(self, stage: str, model: keras.Model) -> tuple[int, dict]:
        """Loads the newest sound checkpoint; says so when it passes one over.

        Args:
            stage: "pretrain" or "classifier".
            model: compiled and built as when it was saved.

        Returns:
            Epochs done and the curves so far; `(0, {})` where there is no checkpoint.

        Raises:
            UserError: if there are checkpoints and none is sound.
        """
        checkpoints = self._checkpoints(stage)
        for path in checkpoints:
            try:
                state = json.loads((path / "state.json").read_text())
                weights = path / "model.weights.h5"
                if sha256(weights) == state["sha256"]:
                    model.load_weights(weights)
                    return state["epoch"], state["history"]
            except (OSError, ValueError, KeyError):
                pass
            print(f"checkpoint {path} is corrupted; passing it over.", file=sys.stderr)
        if checkpoints:
            raise UserError(
                f"no sound checkpoint among {len(checkpoints)} in {checkpoints[0].parent}. Start "
                "again with --overwrite."
            )
        return 0, {}
