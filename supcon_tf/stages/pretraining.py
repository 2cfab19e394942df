"""Stage 1: train an encoder."""

import sys
from collections.abc import Callable

import tensorflow as tf

from supcon_tf.config import PretrainConfig
from supcon_tf.core.errors import UserError
from supcon_tf.core.files import has_lost_lock
from supcon_tf.core.provenance import code
from supcon_tf.data.datasets import naming_lost_images
from supcon_tf.engine import precision
from supcon_tf.engine.devices import make_strategy
from supcon_tf.engine.loop import Watching, fit
from supcon_tf.engine.saving import Saving, restore_best
from supcon_tf.engine.workers import (
    agreed,
    check_alike,
    check_same_weights,
    chief_first,
    everywhere,
    is_chief,
)
from supcon_tf.networks.initial import initial_weights
from supcon_tf.stages import pictures
from supcon_tf.stages.building import compiled_model, encoder_of, steps_per_epoch_of, stream_of
from supcon_tf.stages.checks import data_checks, settings_checks
from supcon_tf.stages.features import extract_features
from supcon_tf.stages.learning import OnlineKnn, describe_data, measure_baseline
from supcon_tf.stages.removal import check_there
from supcon_tf.stages.run_directory import RunDirectory

_MAPPED_IMAGES = 1000
# Settings that may differ between the workers of one run.
_OF_A_WORKER = ("run_dir", "data_dir", "resume", "overwrite", "dry_run", "verbose")


def pretrain(
    config: PretrainConfig,
    *,
    stop_when: Callable[[dict], bool] | None = None,
    maps: bool = True,
) -> dict:
    """Trains an encoder and writes it to the run directory.

    All settings and the data are checked before anything is written. With several workers, all
    of them call this with the same settings and a shared run directory; the chief writes.

    Args:
        config: the settings.
        stop_when: as in `Watching`. A run that it stops is not finished: its checkpoint is saved
            but no encoder; the same call with `resume` continues it as if it had never stopped.
        maps: whether to draw the maps of held-out images' features.

    Returns:
        The stage's scores, as in metrics.json: the last epoch's loss and the seconds taken; {} on
        the workers that are not the chief, and with `dry_run`.

    Raises:
        UserError: if a setting, the data or the run directory cannot be used.
    """
    if config.dry_run:
        from supcon_tf.stages.planning import print_plan

        print_plan(config)
        return {}
    strategy = make_strategy(config.strategy)  # Workers join before any other use of TensorFlow.
    run = everywhere(strategy, lambda: RunDirectory(config.run_dir))
    check_alike(strategy, _in_common(config, stop_when))
    everywhere(strategy, lambda: [check() for check in settings_checks(config)])
    chief = is_chief(strategy)
    slowness = precision.slowness_warning(config.precision)
    if slowness:
        print(f"warning: {slowness}; leave --precision out", file=sys.stderr)
    if not chief:
        print("this worker is training too; the first worker shows the progress", file=sys.stderr)
    with run:
        chief_first(strategy, lambda: run.check("pretrain", config))
        dataset = _open_dataset(config, run, strategy)
        steps = steps_per_epoch_of(config, dataset)
        with strategy.scope():
            model = compiled_model(config, dataset, steps, strategy.num_replicas_in_sync)
        check_same_weights(strategy, model)
        chief_first(strategy, lambda: run.begin("pretrain", config, dataset.describe()))
        if agreed(strategy, int(config.resume and run.has_finished("pretrain"))):
            return _nothing_to_do(run) if chief else {}
        history, baseline = _train(config, dataset, model, run, steps, stop_when)
        if not chief:
            return {}
        if len(history["loss"]) < config.epochs:
            return {"loss": history["loss"][-1], "seconds": sum(history["seconds"])}
        return _keep(config, dataset, model, run, history, steps, maps, baseline)


def _in_common(config, stop_when):
    """The settings, code and arithmetic that all workers must share."""
    # The data's content is compared once it is open; its path may differ between machines.
    own = {f"setting {n}": value for n, value in vars(config).items() if n not in _OF_A_WORKER}
    own["setting dataset"] = config.dataset.partition(":")[0]
    versions = code()["versions"]  # Not the commit: a copy beside a checkout has none.
    return {
        **own,
        "stop_when": stop_when is not None,
        **{f"version of {package}": version for package, version in versions.items()},
        "TensorFloat-32": tf.config.experimental.tensor_float_32_execution_enabled(),
    }


def _open_dataset(config, run, strategy):
    """The data set, checked; several workers wait until the chief has prepared it."""
    chiefs = chief_first(strategy, lambda: run.open_checked(config))
    dataset = everywhere(strategy, lambda: chiefs or run.open_checked(config))
    content = dataset.describe()
    del content["name"]  # It contains a folder's path, which may differ between machines.
    check_alike(strategy, content)
    checks = data_checks(config, dataset, strategy.num_replicas_in_sync)
    everywhere(strategy, lambda: [check() for check in checks])
    if is_chief(strategy):
        for line in (*dataset.remarks, describe_data(dataset)):
            print(line, file=sys.stderr)
    return dataset


def _nothing_to_do(run):
    print(f"{run.path} is finished; nothing to resume", file=sys.stderr)
    return run.metrics().get("pretrain", {})


def _train(config, dataset, model, run, steps, stop_when):
    """Fits the model; returns its curves, and its `Baseline` if there are validation images."""
    watched = is_chief(model.distribute_strategy) and dataset.validation is not None
    knn = OnlineKnn(dataset) if watched else None
    baseline = measure_baseline(config, dataset, knn) if watched else None
    collapse = _CollapseWatch(config, model)

    def said(history):
        return collapse(history) or (baseline and baseline.news(history, config.epochs))

    with naming_lost_images(dataset.all_images, dataset.validation):
        history = fit(
            model,
            stream_of(config, dataset),
            epochs=config.epochs,
            steps_per_epoch=steps,
            folder=run.path,
            stage="pretrain",
            saving=Saving(
                config.checkpoint_steps,
                keep=config.keep_checkpoints,
                best_metric=config.best_metric,
            ),
            watching=Watching(
                _online_knn(config, knn, model),
                said,
                stop_when,
                images_per_step=config.batch_size,
                verbose=config.verbose,
            ),
        )
    return history, baseline


def _online_knn(config, knn, model):
    """A function from an epoch to its k-NN score; to {} without validation images."""
    return knn.after_epochs(config, model.evaluation_encoder) if knn else lambda epoch: {}


class _CollapseWatch:
    """Warns when the loss stays at the value of identical embeddings.

    That is log(V B - 1) for V views of B images under SupCon. Every run begins with about this
    loss, so it has to stay there for five epochs, or for two if the embeddings are indeed
    identical. Each collapse is reported once.
    """

    def __init__(self, config, model):
        self.collapsed = model.collapsed_loss(config.batch_size, config.views_per_image())

    def __call__(self, history):
        if self.collapsed is None:
            return None
        losses, spread = history["loss"], history["uniformity"]
        if not self._sits(losses, spread) or self._sits(losses[:-1], spread[:-1]):
            return None
        return (
            f"warning: the loss stays at {losses[-1]:.3f}, the value for identical embeddings "
            f"({self.collapsed:.3f}): nothing is learned. Lower learning_rate or temperature, or "
            "lengthen the warm-up."
        )

    def _sits(self, losses, spread):
        near = [abs(loss - self.collapsed) < 0.01 * self.collapsed for loss in losses]
        epochs = [*near[::-1], False].index(False)
        return epochs >= 5 or (epochs >= 2 and spread[-1] > -0.05)


def _keep(config, dataset, model, run, history, steps, maps, baseline) -> dict:
    """Saves scores, pictures and the models that the method keeps; returns the scores."""
    metrics = {"loss": history["loss"][-1], "seconds": sum(history["seconds"])}
    best = None
    if not has_lost_lock(run.path):  # Otherwise only the last epoch's weights exist.
        saved = run.checkpoints("pretrain")
        best = restore_best(model, history, config.best_metric, saved, steps)
    if best is not None:
        metrics |= {"best_epoch": best + 1, config.best_metric: history[config.best_metric][best]}
    for name in ("knn_top1", "knn_map"):
        if name in history:
            metrics.setdefault(name, history[name][-1])
    if baseline:
        metrics |= baseline.scores(metrics["knn_top1"])
        print(f"pretrain {baseline.sentence(metrics['knn_top1'])}", file=sys.stderr)
    kept = model.kept()
    check_there(run.path, **kept)
    title = pictures.curves_title(run.path.name, {"pretrain": metrics})
    pictures.learning_curves({"pretrain": history}, run.pictures / "learning_curves.png", title)
    if maps:
        _draw_maps(run, config, dataset, kept["encoder"])
    check_there(run.path, **kept)
    run.record("pretrain", metrics, history)
    # The encoder comes last: once it is there, the stage is finished.
    for name in sorted(kept, key=lambda name: name == "encoder"):
        run.save_model(kept[name], name)
    return metrics


def _draw_maps(run, config, dataset, encoder):
    """The features of held-out images, before and after training."""
    print("drawing the map of the embeddings", file=sys.stderr)
    networks = {"after training": encoder}
    try:
        with initial_weights(config.seed):
            networks = {"before training": encoder_of(config, dataset.image_size_px), **networks}
    except UserError as error:  # The file of its weights is gone; the trained encoder is kept.
        print(f"no map of the untrained encoder: {error}", file=sys.stderr)
    pictures.embedding_maps(
        {
            title: extract_features(network, dataset.test, limit=_MAPPED_IMAGES)
            for title, network in networks.items()
        },
        dataset.class_names,
        run.pictures / "embeddings.png",
        seed=config.seed,
    )
