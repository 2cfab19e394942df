"""The search for settings: each trial is a pretraining run, scored on its validation set."""

from supcon_tf.config import PretrainConfig
from supcon_tf.config.search import TuneConfig
from supcon_tf.core.errors import UserError
from supcon_tf.search.budget import Budget
from supcon_tf.search.preparation import open_first, prepare
from supcon_tf.search.report import write_report
from supcon_tf.search.search_directory import SearchDirectory
from supcon_tf.search.tuner import PretrainTuner, awaited_result
from supcon_tf.search.workers import role_of_process, run_tuner, wait_for_chief


def tune(config: TuneConfig, base: PretrainConfig) -> dict:
    """Searches for the settings that score best on the validation set.

    The space, the settings and the data are checked before anything is written. With Keras Tuner's
    environment variables, one process (whose KERASTUNER_TUNER_ID holds "chief") proposes trials and
    the others run them; all are called with the same arguments, on a shared search directory.

    Args:
        config: the search's settings.
        base: the recipe whose settings are searched; its `run_dir`, `resume` and `overwrite` are
            not used.

    Returns:
        As `write_report`: the best trial, all trials and what they cost; {} on the workers.

    Raises:
        UserError: if a setting, the space, the data or the directory cannot be used, or every
            trial failed.
    """
    role = role_of_process()
    base.check_outside_data("search_dir", config.search_dir)
    space, oracle = prepare(config, base)
    place = SearchDirectory(config.search_dir)
    if role == "worker":
        place.check(resume=True)
        wait_for_chief(place)
    else:
        place.check(config.resume)
    content = {
        "settings": config.to_dict(),
        "base": base.to_dict(),
        "entries": space.content,
        "data": open_first(base, space).describe(),
    }
    if role == "worker":
        place.check_same(content)
    else:
        place.begin(content, config.resume)
    try:
        oracle.budget = Budget(place, config, space, oracle)
        tuner = PretrainTuner(oracle, place, config, base, space)
        if role != "worker" and oracle.file.exists():
            oracle.reload()
        run_tuner(tuner, role)
        return {} if role == "worker" else _report(oracle, place, config, base, space, role)
    finally:
        place.release()


def _report(oracle, place, config, base, space, role) -> dict:
    """Writes the report of a search that has ended."""
    if oracle.failure is not None:
        raise UserError(
            f"the chief stopped: {str(oracle.failure).rstrip('.')}. Fix the cause, then continue "
            "with --resume."
        ) from oracle.failure
    for trial in oracle.end_order:
        awaited_result(place, trial, **({} if role == "chief" else {"patience": 0}))
    return write_report(place, config, base, space)
