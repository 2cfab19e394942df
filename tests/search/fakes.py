"""Searches whose trials are not trained."""

import json
import math

from supcon_tf import PretrainConfig, TuneConfig
from supcon_tf.search.search_directory import SearchDirectory
from supcon_tf.stages.run_directory import RunDirectory

BASE = PretrainConfig(validation_fraction=0.2, epochs=9)
SPACE = {
    "learning_rate": {"range": [0.01, 1.0], "scale": "log"},
    "optimizer": {"choices": ["sgd", "adamw"]},
    "nesterov": {"choices": [False, True], "when": {"optimizer": ["sgd"]}},
}
GRID = {**SPACE, "learning_rate": {"choices": [0.01, 0.1, 1.0]}}
ALGORITHMS = ("random", "bayesian", "hyperband", "grid")


class Data:
    """Stands for the data set."""

    def describe(self):
        return {"name": "digits"}


class Training:
    """Stands for `pretrain`: an epoch is a line of a file; a rate near 0.1 is best.

    Attributes:
        began: run directories in the order of the calls.
        failing: from a configuration to an error that its training raises, or None.
    """

    def __init__(self):
        self.began = []
        self.failing = lambda config: None

    def pretrain(self, config, *, stop_when=None, maps=True):
        assert config.resume
        assert not maps
        self.began.append(config.run_dir)
        error = self.failing(config)
        if error is not None:
            raise error
        history = self.history(RunDirectory(config.run_dir))
        history = history or {"loss": [], "knn_top1": [], "seconds": []}
        best = 1 - abs(math.log10(config.learning_rate) + 1) / 4 - 0.05 * config.nesterov
        while len(history["loss"]) < config.epochs:
            if history["loss"] and stop_when and stop_when(history):
                break
            history["knn_top1"].append(best * (1 - 0.5 ** (1 + len(history["loss"]))))
            history["loss"].append(1.0)
            history["seconds"].append(2.0)
            self.file(config.run_dir).parent.mkdir(parents=True, exist_ok=True)
            self.file(config.run_dir).write_text(json.dumps(history))
        return {}

    def file(self, run_dir):
        return RunDirectory(run_dir).path / "history.json"

    def history(self, run):
        file = self.file(str(run.path))
        return json.loads(file.read_text()) if file.exists() else {}

    def score(self, run, objective):
        score = self.history(run)["knn_top1"][-1]
        return -math.log(score) if objective == "nll" else score


def search_config(folder, algorithm="random", space=None, **changes):
    space = space or (GRID if algorithm == "grid" else SPACE)
    file = folder.parent / f"{folder.name}.json"
    file.write_text(json.dumps(space))
    if algorithm in ("random", "bayesian"):
        # Each proposal of the Gaussian process takes seconds; the first three are random.
        changes = {"max_trials": 5 if algorithm == "bayesian" else 7, **changes}
    if algorithm == "hyperband":
        changes = {"grace_epochs": 3, **changes}
    return TuneConfig(
        space=str(file), search_dir=str(folder), algorithm=algorithm, resume=True, **changes
    )


def outcome(folder):
    return [
        (result.trial, result.status, result.values, result.score, result.epochs, result.run)
        for result in SearchDirectory(str(folder)).results()
    ]
