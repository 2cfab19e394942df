"""The comparison itself: for every arm a learning rate, then one run per seed, then the report."""

import dataclasses
from collections.abc import Mapping

from supcon_tf.comparison.arms import arm_config, final_config, shared_recipe
from supcon_tf.comparison.budget import budget_line, epochs_of_arms
from supcon_tf.comparison.cells import finish_cell
from supcon_tf.comparison.progress import Progress
from supcon_tf.comparison.report import write_report
from supcon_tf.comparison.selection import Selection, select_rate, trials_of
from supcon_tf.config import PretrainConfig
from supcon_tf.config.arms import ARMS
from supcon_tf.config.comparison import CompareConfig
from supcon_tf.core.errors import StorageError, UserError
from supcon_tf.core.files import printing_to, read_json
from supcon_tf.data.datasets import ImageDataset, from_config
from supcon_tf.search.preparation import check_data, check_settings
from supcon_tf.search.search_directory import SearchDirectory
from supcon_tf.search.trials import free_memory

# From comparison.json: how a comparison was begun.
_ORIGIN = ("started", "git_commit", "versions", "hardware")


def compare(config: CompareConfig, base: PretrainConfig) -> dict:
    """Compares methods at an equal budget, each with a learning rate chosen on validation images.

    Everything is checked before anything is written. A stopped comparison continues where it
    stopped; more seeds, arms or factors of the learning rate extend it.

    Args:
        config: the comparison's settings.
        base: the recipe that all arms share; its `method_args` are for the arm of its `method`.

    Returns:
        As `write_report`.

    Raises:
        UserError: if a setting, the data or the directory cannot be used, or an arm cannot be
            trained.
    """
    base, dataset = prepare(config, base)
    place = SearchDirectory(config.comparison_dir, "comparison")
    place.check(resume=True)
    content = {
        "settings": config.to_dict(),
        "base": base.to_dict(),
        "data": dataset.describe(),
    }
    place.begin(content, resume=True)
    try:
        epochs = epochs_of_arms(config, base, dataset, place)
        arms = _run(config, base, epochs, place)
        report = {
            "settings": {**config.to_dict(), "seeds": config.seeds},
            "recipe": base.to_dict(),
            "data": _sizes(dataset),
            "budget": budget_line(config, base, dataset.train.num_examples),
            "reference": config.reference,
            "arms": arms,
            **{name: read_json(place.file).get(name) for name in _ORIGIN},
        }
        return write_report(report, place.path)
    finally:
        place.release()


def prepare(config: CompareConfig, base: PretrainConfig) -> tuple[PretrainConfig, ImageDataset]:
    """The recipe that all cells share, and the data of the final cells, all checked.

    Raises:
        UserError: if a setting or the data cannot be used.
    """
    base = shared_recipe(base, config.arm_names())
    base.check_outside_data("comparison_dir", config.comparison_dir)
    config.check_base(base)
    if config.is_tuned():
        tuning = arm_config(base, config.reference)
        check_data(tuning, from_config(tuning))
    for arm in config.arm_names():
        check_settings(final_config(base, arm))
    dataset = from_config(final_config(base, config.reference))
    if dataset.multi_label:
        raise UserError(
            "compare needs images of one class each. Received: "
            f"dataset={dataset.name}, whose images have several. Give other data."
        )
    for arm in config.arm_names():
        try:
            check_data(final_config(base, arm), dataset)
        except UserError as error:
            raise UserError(f"arm {arm}: {error}") from error
    return base, dataset


def _sizes(dataset: ImageDataset) -> dict:
    splits = {"train": dataset.train, "test": dataset.test}
    return {
        "name": dataset.name,
        "image_size_px": dataset.image_size_px,
        **{f"{name}_images": split.num_examples for name, split in splits.items()},
        **{f"{name}_fingerprint": split.fingerprint for name, split in splits.items()},
    }


def _run(
    config: CompareConfig,
    base: PretrainConfig,
    epochs: Mapping[str, int],
    place: SearchDirectory,
) -> dict[str, dict]:
    """Every arm's selection, and then the runs of all arms, seed by seed."""
    trials = {arm: trials_of(config, base, arm, epochs[arm]) for arm in epochs}
    progress = Progress(sum(map(len, trials.values())) + len(epochs) * config.seeds)
    chosen = {
        arm: select_rate(config, base, arm, own, place, progress.trial_ended)
        for arm, own in trials.items()
    }
    runs: dict[str, list[dict]] = {arm: [] for arm in epochs}
    for seed in range(config.seeds):
        for arm in epochs:
            how = {"seed": seed, "epochs": epochs[arm], "learning_rate": chosen[arm].rate}
            run = _final_run(config, final_config(base, arm, **how), arm, chosen[arm].factor, place)
            progress.cell_ended(f"{arm} seed {seed}", run)
            runs[arm].append(_kept(seed, run))
    return {arm: _described(arm, base, epochs[arm], chosen[arm], runs[arm]) for arm in epochs}


def _final_run(
    config: CompareConfig, cell: PretrainConfig, arm: str, factor: float, place: SearchDirectory
) -> dict:
    """The result of a final cell, as from `finish_cell`; its output goes to its log.

    Its directory is named after the arm and the rate factor, so that runs with another rate, chosen
    before more rates were tried, stay as they are.
    """
    runs, name, evaluation = place.path / "runs", f"{arm}-{factor:g}", {}
    if config.corruptions:
        limit = config.corruption_images
        evaluation = {"corruptions": True, "corruption_images": limit}
    cell = cell.replace(run_dir=str(runs / name / str(cell.seed)))
    try:
        with printing_to(runs / f"{name}-{cell.seed}.log"):
            return finish_cell(cell, evaluation=evaluation)
    except StorageError:
        raise
    except UserError as error:
        raise UserError(f"arm {arm}, seed {cell.seed}: {error}") from error
    finally:
        free_memory()


def _kept(seed: int, run: dict) -> dict:
    """The part of a cell that a report keeps: no scores by class, which its directory has."""
    scores = {
        name: value
        for name, value in run["scores"].items()
        if name == "corruptions" or isinstance(value, int | float)
    }
    names = ("seconds", "classifier_seconds", "commit")
    return {"seed": seed, "scores": scores, **{name: run[name] for name in names}}


def _described(
    arm: str, base: PretrainConfig, epochs: int, chosen: Selection, runs: list[dict]
) -> dict:
    settings = final_config(base, arm, epochs=epochs, learning_rate=chosen.rate).to_dict()
    selection = dataclasses.asdict(chosen)
    selection["scores"] = {f"{rate:g}": own for rate, own in chosen.scores.items()}
    return {
        "title": ARMS[arm].title,
        "settings": {k: v for k, v in settings.items() if v != base.to_dict()[k]},
        "selection": selection,
        "runs": runs,
    }
