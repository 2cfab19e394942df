"""One cell of a comparison: a run that is pretrained, classified and scored, or continued."""

from collections.abc import Mapping, Sequence
from typing import Any

from supcon_tf.config import ClassifierConfig, EvaluateConfig, PretrainConfig
from supcon_tf.core.errors import UserError
from supcon_tf.core.files import read_json
from supcon_tf.stages.classification import train_classifier
from supcon_tf.stages.evaluation import evaluate_run
from supcon_tf.stages.pretraining import pretrain
from supcon_tf.stages.run_directory import RunDirectory


def finish_cell(
    config: PretrainConfig,
    *,
    classifier: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    curves: Sequence[str] = (),
) -> dict:
    """Does what is left of a cell: pretraining, a classifier if the method has none, scores.

    Finished stages are kept, and a stage that was stopped continues.

    Args:
        config: the pretraining; `run_dir` is the cell's.
        classifier: settings of `ClassifierConfig`.
        evaluation: settings of `EvaluateConfig`.
        curves: names of curves of the history to return in addition to the loss.

    Returns:
        `scores` of the held-out split, `seconds` of pretraining and of the classifier stage, the
        `commit` that the cell began at, and the `history`.

    Raises:
        UserError: if the directory holds a run with other settings, or a stage cannot be run.
    """
    run, evaluation = RunDirectory(config.run_dir), evaluation or {}
    _check_same(run, config)
    if not run.has_finished("pretrain"):
        pretrain(config.replace(resume=run.path.exists()), maps=False)
    if not run.has_finished("classifier"):
        begun = "classifier" in run.stages()
        train_classifier(
            ClassifierConfig(run_dir=config.run_dir, resume=begun, **(classifier or {}))
        )
    if not _is_scored(run, evaluation):
        evaluate_run(EvaluateConfig(run_dir=config.run_dir, **evaluation))
    return _found(run, curves)


def _found(run, curves):
    """The result of `finish_cell`, read from a finished run."""
    manifest = read_json(run.path / "manifest.json")
    try:
        metrics, history = run.metrics(), run.history()["pretrain"]
        return {
            "scores": metrics["test"],
            "seconds": metrics["pretrain"]["seconds"],
            "classifier_seconds": metrics.get("classifier", {}).get("seconds", 0.0),
            "commit": manifest["pretrain"]["git_commit"],
            "history": {name: history[name] for name in ("loss", *curves) if name in history},
        }
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{run.path} is damaged: it lacks {error}. Remove it to train it again."
        ) from error


def _check_same(run: RunDirectory, config: PretrainConfig) -> None:
    """Refuses a finished pretraining run with other settings; `pretrain` refuses a stopped one."""
    if not run.has_finished("pretrain"):
        return
    if run.pretrain_config().to_dict() != config.to_dict():
        raise UserError(f"{run.path} holds a run with different settings. Give another directory.")


def _is_scored(run: RunDirectory, evaluation: Mapping[str, Any]) -> bool:
    """Whether the scores are there, including those on the wanted number of corrupted images."""
    scores = run.metrics().get("test", {})
    if not scores or not evaluation.get("corruptions"):
        return bool(scores)
    wanted = min(evaluation.get("corruption_images") or scores["images"], scores["images"])
    return scores.get("corruptions", {}).get("images") == wanted
