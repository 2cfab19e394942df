"""Trains the arms of a comparison over seeds; what is finished is not trained again."""

import dataclasses
import shutil
import sys

from supcon_tf import (
    ClassifierConfig,
    EvaluateConfig,
    PretrainConfig,
    evaluate,
    pretrain,
    train_classifier,
)
from supcon_tf.core.errors import UserError
from supcon_tf.core.files import read_json, writing
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
        Of each arm its settings and, for each seed, the held-out scores, the curve of the online
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
    """Pretrains where that has not been done, and copies the run where there is none."""
    config = PretrainConfig(**study.base, seed=seed, run_dir=str(source))
    if target.exists():
        return
    if not RunDirectory(str(source)).has_finished("pretrain"):
        pretrain(config.replace(resume=source.exists()), maps=False)
    with writing(target) as temporary:
        shutil.copytree(source, temporary)


def _run(study, title, seed, run):
    path, settings = str(run.path), {**study.base, **study.arms[title]}
    config = PretrainConfig(**{**settings, "seed": seed, "run_dir": path})
    if "test" in run.metrics():
        kept = run.pretrain_config().replace(run_dir=path, resume=False)
        if kept != config:
            raise UserError(f"{path} holds a run with other settings. Pass another --study_dir.")
    else:
        pretrain(config.replace(resume=run.path.exists()), maps=False)
        if not run.has_finished("classifier"):
            begun = "classifier" in run.stages()
            how = {**study.classifier, **study.classifiers.get(title, {})}
            train_classifier(ClassifierConfig(run_dir=path, resume=begun, **how))
        evaluate(EvaluateConfig(run_dir=path, **study.evaluation))
    return _found(study, run)


def _found(study, run):
    """What the report says of a run that was evaluated."""
    manifest = read_json(run.path / "manifest.json")
    try:
        metrics, history = run.metrics(), run.history()["pretrain"]
        return {
            "scores": metrics["test"],
            "seconds": metrics["pretrain"]["seconds"],
            "commit": manifest["pretrain"]["git_commit"],
            "history": {name: history[name] for name in ("loss", *study.curves) if name in history},
        }
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{run.path} is damaged: it lacks {error}. Remove it; then it is trained again."
        ) from error
