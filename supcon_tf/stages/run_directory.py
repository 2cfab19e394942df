"""Run directories: the settings, provenance, state and results of a run.

config.json     settings of each stage;  metrics.json, history.json  its scores and curves
manifest.json   versions, seed, commit, data set, hardware and command line of each stage
checkpoints/    <stage>/<step>/;  logs/  TensorBoard;  pictures/  PNG;  evaluation/  CSV
encoder.keras   the pretrained encoder;  classifier.keras  encoder (perhaps fine-tuned) and head
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from supcon_tf.config import PretrainConfig, RunConfig
from supcon_tf.core.errors import UserError
from supcon_tf.core.files import (
    LOCK,
    TEMPORARY_PREFIX,
    lock,
    read_json,
    remove,
    unlock,
    updating,
    without_links,
    write_json,
    writing,
)
from supcon_tf.core.keras_settings import check_keras
from supcon_tf.core.provenance import initial_run, is_manifest, manifest, resumption
from supcon_tf.data.datasets import from_config
from supcon_tf.data.splits import ImageDataset
from supcon_tf.engine import checkpoints
from supcon_tf.networks.kept import load_kept
from supcon_tf.stages.overwriting import (
    DERIVED_FILES,
    JSON_FILES,
    is_interrupted,
    put_back,
    set_aside,
)
from supcon_tf.stages.removal import check_there
from supcon_tf.stages.same_data import check_same_initial_run, check_same_splits
from supcon_tf.stages.same_settings import check_same_settings


class RunDirectory(contextlib.AbstractContextManager):
    """One run directory.

    Args:
        path: the directory; nothing is written before `begin`.
    """

    def __init__(self, path: str):
        check_keras()  # Whatever the stage.
        self.path = without_links(path)
        self.pictures = self.path / "pictures"
        self._locked = False

    def __exit__(self, *error) -> None:
        self.release()  # Other processes may write into the run again.

    def _read(self, name: str) -> dict:
        file = self.path / name
        content = read_json(file) if file.exists() else {}
        if not isinstance(content, dict):
            raise UserError(f"{file} does not belong to a run. Give another directory as run_dir.")
        return content

    def _update(self, name: str, changes: dict[str, Any], only: tuple[str, ...] = ()) -> None:
        with updating(self.path):
            content = {k: v for k, v in self._read(name).items() if not only or k in only}
            write_json(self.path / name, {**content, **changes})

    def stages(self) -> dict[str, dict]:
        """The settings of each stage begun so far.

        Raises:
            UserError: if the directory's config.json is not a run's.
        """
        stages = self._read("config.json")
        known = set(stages) <= set(DERIVED_FILES)
        if not known or not all(isinstance(settings, dict) for settings in stages.values()):
            file = self.path / "config.json"
            raise UserError(f"{file} does not belong to a run. Give another directory as run_dir.")
        return stages

    def metrics(self) -> dict:
        """The scores recorded so far, by stage; raises `UserError` if their file is damaged."""
        return self._read_stages("metrics.json", lambda scores: isinstance(scores, dict))

    def history(self) -> dict:
        """The curves recorded so far, by stage; raises `UserError` if their file is damaged."""
        return self._read_stages("history.json", checkpoints.is_history)

    def _read_stages(self, name: str, is_sound: Callable[[Any], bool]) -> dict:
        content = self._read(name)
        if not all(map(is_sound, content.values())):
            raise UserError(f"{self.path / name} is damaged. Restore it, or move it away.")
        return content

    def checkpoints(self, stage: str) -> Path:
        """The folder of a stage's checkpoints."""
        return checkpoints.folder_of(self.path, stage)

    def has_finished(self, stage: str) -> bool:
        """Whether the stage's model has been saved."""
        return (self.path / DERIVED_FILES[stage][0]).exists()

    def check(self, stage: str, config: RunConfig) -> None:
        """Refuses a stage that would collide with existing results.

        Nothing is written, except that an overwrite interrupted by a kill is undone.

        Args:
            stage: "pretrain" or "classifier".
            config: the stage's settings.

        Raises:
            UserError: if the directory is not a run's, or holds the stage already and neither
                `resume` nor `overwrite` lets it continue, or holds no sound checkpoint to resume
                from.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"run_dir is a file. Received: {self.path}. Give another directory.")
        self._undo_interrupted_overwrite()
        stages = self.stages()
        for name in JSON_FILES:
            self._read(name)
        if not stages and self._holds_files():
            raise UserError(
                f"run_dir holds files but no run. Received: {self.path}. Give another directory."
            )
        # Some methods train a classifier without that stage.
        taken = stage in stages or self.has_finished(stage)
        if not taken or config.overwrite:
            return
        if not config.resume or stage not in stages:
            resume = "--resume to continue it, " * (stage in stages)
            raise UserError(
                f"{self.path} already holds a {stage} stage. Pass {resume}--overwrite to replace "
                "it, or another --run_dir."
            )
        check_same_settings(self.path, stages[stage], config)
        if not self.has_finished(stage):
            checkpoints.newest(self.checkpoints(stage))

    def _holds_files(self) -> bool:
        entries = self.path.iterdir() if self.path.is_dir() else ()
        return any(not entry.name.startswith((TEMPORARY_PREFIX, LOCK)) for entry in entries)

    def begin(self, stage: str, config: RunConfig, dataset: dict) -> None:
        """Writes the settings and the manifest of a stage, after `check`.

        Args:
            stage: "pretrain" or "classifier".
            config: the stage's settings.
            dataset: `ImageDataset.describe()`.

        Raises:
            UserError: if the directory cannot be written, or the run to resume had different data.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock()
            self.check(stage, config)  # Another process may have changed it since.
            for left in list(self.path.rglob(f"{TEMPORARY_PREFIX}*")):
                remove(left)  # Half-written, by a process that was killed.
            entry = self._entry(stage, config, dataset)
            with self._replacing(stage if config.overwrite else None):
                # In this order: without a manifest, --overwrite still knows the run.
                self._update("config.json", {stage: config.to_dict()})
                self._update("manifest.json", {stage: entry})
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"cannot write to run_dir {self.path}: {reason}.") from error

    def _entry(self, stage: str, config: RunConfig, dataset: dict) -> dict:
        """The stage's entry in the manifest: a new one, or that of the run to resume."""
        source = getattr(config, "initial_run", "")
        origin = {"initial_run": initial_run(source)} if source else {}
        if not (config.resume and stage in self.stages()):
            return {**manifest(config.seed, dataset), **origin}
        entry = self._stage_manifest(stage)
        check_same_initial_run(self.path, entry, origin)
        self.check_same_data(stage, dataset)
        return {**entry, "resumed": [*entry.get("resumed", []), resumption()]}

    def _undo_interrupted_overwrite(self) -> None:
        """Puts back what a process moved away before it was killed at the start of an overwrite."""
        if is_interrupted(self.path):
            self._lock()
            put_back(self.path)

    def _lock(self) -> None:
        """Keeps other processes from writing into the run until `release`."""
        if not self._locked and not lock(self.path):
            raise UserError(
                f"another process is writing to run_dir {self.path}. Wait for it, or stop it."
            )
        self._locked = True

    def release(self) -> None:
        """Lets other processes write into the run; so does the end of this process."""
        if self._locked:
            unlock(self.path)
            self._locked = False

    @contextlib.contextmanager
    def _replacing(self, stage: str | None):
        """Removes what a stage left behind once the block succeeds; None for nothing."""
        if stage is None or not (stage in self.stages() or self.has_finished(stage)):
            yield
            return
        with set_aside(self.path, DERIVED_FILES[stage]):
            if stage == "classifier":
                for name in ("metrics.json", "history.json"):
                    self._update(name, {}, only=("pretrain",))  # The rest is the classifier's.
            yield

    def _stage_manifest(self, stage: str) -> dict:
        entry = self._read("manifest.json").get(stage)
        if not is_manifest(entry):
            raise UserError(f"{self.path}/manifest.json is damaged. Run {stage} with --overwrite.")
        return entry

    def record(self, stage: str, metrics: dict, history: dict | None = None) -> None:
        """Adds a stage's scores to metrics.json, and its curves to history.json."""
        check_there(self.path)
        self._update("metrics.json", {stage: metrics})
        if history is not None:
            self._update("history.json", {stage: history})

    def pretrain_config(self, unfinished: bool = False) -> PretrainConfig:
        """The settings that the encoder was trained with.

        Args:
            unfinished: whether a pretraining run that was stopped is accepted.

        Raises:
            UserError: if there is no finished pretraining run here.
        """
        stages = self.stages()
        if "pretrain" not in stages:
            fault = f"run_dir has no pretrained encoder. Received: {self.path}."
            raise UserError(f"{fault} Run supcon-tf pretrain first.")
        if not unfinished and not self.has_finished("pretrain"):
            fault = f"pretraining in {self.path} is not finished."
            raise UserError(f"{fault} Run supcon-tf pretrain with --resume first.")
        return PretrainConfig.from_dict(stages["pretrain"], run_dir=str(self.path))

    def open_dataset(self, unfinished: bool = False) -> ImageDataset:
        """Opens the data set that the encoder was trained on.

        Args:
            unfinished: whether a pretraining run that was stopped is accepted.

        Raises:
            UserError: if there is no finished pretraining run here, or the content of a split has
                changed since (a held-out image might have been trained on).
        """
        config = self.pretrain_config(unfinished)
        dataset = from_config(config, **self._findings("bad_images", "copies"))
        self.check_same_data("pretrain", dataset.describe())
        return dataset

    def open_checked(self, config: PretrainConfig) -> ImageDataset:
        """Opens the data set of a run that begins or continues pretraining; checks every image.

        A run that continues is split as it was when it began.
        """
        resumed = config.resume and "pretrain" in self.stages()
        return from_config(config, **self._findings("copies") if resumed else {})

    def _findings(self, *names: str) -> dict[str, list]:
        """Findings of the check of the images when the run began."""
        found = self._stage_manifest("pretrain")["dataset"]
        return {name: found.get(name, []) for name in names}

    def check_same_data(self, stage: str, now: dict) -> None:
        """Raises `UserError` unless `ImageDataset.describe` gives the stage's original splits."""
        check_same_splits(self.path, self._stage_manifest(stage)["dataset"], now)

    def save_model(self, model: keras.Model, name: str) -> None:
        """Saves a model of Keras's own layers as `<name>.keras`."""
        with writing(self.path / f"{name}.keras") as temporary:
            model.save(temporary)

    def load_model(self, name: str) -> keras.Model:
        """Loads `<name>.keras`.

        Raises:
            UserError: if it is missing or cannot be read.
        """
        file = self.path / f"{name}.keras"
        if not file.exists():
            stage = "classify" if name == "classifier" else "pretrain"
            raise UserError(f"{file} not found. Run supcon-tf {stage} --run_dir={self.path} first.")
        return load_kept(file, is_classifier=name == "classifier")
