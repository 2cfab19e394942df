"""Run directories that are removed while a stage is using them."""

from pathlib import Path

import keras

from supcon_tf.core.errors import UserError
from supcon_tf.core.files import has_lost_lock, writing


def check_there(run_dir: Path, **models: keras.Model) -> None:
    """Refuses a run directory that was removed or replaced since the stage began.

    Args:
        run_dir: the run directory.
        **models: what has been trained, by name; in that case saved beside the directory.

    Raises:
        UserError: if it was; the message says where the models are.
    """
    if (run_dir / "config.json").exists() and not has_lost_lock(run_dir):
        return
    place = run_dir.resolve()
    files = {place.with_name(f"{place.name}-{name}.keras"): models[name] for name in models}
    for file, model in files.items():
        with writing(file) as temporary:
            model.save(temporary)
    kept = f"Saved instead: {', '.join(map(str, files))}." if files else "No score is recorded."
    raise UserError(f"run_dir {run_dir} was removed or replaced while it was in use. {kept}")
