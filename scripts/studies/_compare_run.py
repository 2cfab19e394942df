"""Trains the arms of a comparison over seeds; what is finished is not trained again."""

import dataclasses
import shutil
import sys

from supcon_tf import PretrainConfig, pretrain
from supcon_tf.comparison.cells import finish_cell
from supcon_tf.core.files import writing
from supcon_tf.core.provenance import hardware, resumption
from supcon_tf.stages.run_directory import RunDirectory


def run_study(study, seeds, folder, data_dir=""):
    """Runs every arm with every seed.

    Args:
        study: a `Study`.
        seeds: how many, from 0 on.
        folder: where the runs lie.
        data_dir: where TensorFlow Datasets keeps its files; '' for its default.

    Returns:
        For each arm its settings and, for each seed, the held-out scores, the curve of the online
        k-NN, the seconds of training and the commit it began at; the code and the hardware.
    """
    arms, base = {}, study.base
    if data_dir:
        study = dataclasses.replace(study, base={**base, "data_dir": data_dir})
    for title, arm in study.arms.items():
        runs = []
        for seed in range(seeds):
            print(f"{title}, seed {seed}", file=sys.stderr)
            run = RunDirectory(str(folder / title.replace(" ", "_") / str(seed)))
            if not arm:
                _copy_pretraining(study, seed, folder / "pretrained" / str(seed), run.path)
            runs.append({"seed": seed, **_run(study, title, seed, run)})
        settings = {**base, **arm}
        classifier = {**study.classifier, **study.classifiers.get(title, {})}
        arms[title] = {"settings": settings, "classifier": classifier, "runs": runs}
    return {"title": study.title, "arms": arms, "hardware": hardware(), **resumption()}


def _copy_pretraining(study, seed, source, target):
    """Pretrains if that has not been done, and copies the run if the target does not exist."""
    config = PretrainConfig(**study.base, seed=seed, run_dir=str(source))
    if target.exists():
        return
    if not RunDirectory(str(source)).has_finished("pretrain"):
        pretrain(config.replace(resume=source.exists()), maps=False)
    with writing(target) as temporary:
        shutil.copytree(source, temporary)


def _run(study, title, seed, run):
    settings = {**study.base, **study.arms[title], "seed": seed, "run_dir": str(run.path)}
    how = {**study.classifier, **study.classifiers.get(title, {})}
    return finish_cell(
        PretrainConfig(**settings),
        classifier=how,
        evaluation=study.evaluation,
        curves=study.curves,
    )
