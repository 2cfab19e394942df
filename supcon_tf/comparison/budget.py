"""Equal budgets: the epochs of every arm, and the time that a training run takes."""

import statistics
import time
from collections.abc import Mapping

from supcon_tf.comparison.arms import final_config
from supcon_tf.config import PretrainConfig
from supcon_tf.config.comparison import CompareConfig
from supcon_tf.core.files import read_json, write_json
from supcon_tf.data.splits import ImageDataset
from supcon_tf.engine.devices import make_strategy
from supcon_tf.engine.loop import train_function
from supcon_tf.engine.workers import distribute_stream
from supcon_tf.search.search_directory import SearchDirectory
from supcon_tf.stages.building import compiled_model, steps_per_epoch_of, stream_of

_TIMED_STEPS = 5


def seconds_per_epoch(config: PretrainConfig, dataset: ImageDataset) -> float:
    """Times a few steps of a pretraining run; nothing is written.

    Args:
        config: the settings.
        dataset: its data.

    Returns:
        Steps per epoch, times the median of five steps after the first, which builds the graph.
    """
    strategy, steps = make_strategy(config.strategy), steps_per_epoch_of(config, dataset)
    with strategy.scope():
        model = compiled_model(config, dataset, steps, strategy.num_replicas_in_sync)
        model.optimizer.build(model.trainable_variables)
        stream = stream_of(config, dataset)
        batches = iter(distribute_stream(strategy, lambda *share: stream(0, *share)))
        train = train_function(model)
        train(batches)
        taken = []
        for _ in range(_TIMED_STEPS):
            started = time.perf_counter()
            float(train(batches)["loss"])
            taken.append(time.perf_counter() - started)
    return steps * statistics.median(taken)


def epochs_of_arms(
    config: CompareConfig, base: PretrainConfig, dataset: ImageDataset, place: SearchDirectory
) -> dict[str, int]:
    """The epochs of every arm.

    With equal epochs all arms see equally many views of equally many images. With equal wall-clock
    time each arm gets as many whole epochs as fit into `config.seconds`, at least one, estimated
    from a few timed steps; the epochs are kept in the directory, for the cells still to come.

    Args:
        config: the comparison's settings.
        base: the shared recipe.
        dataset: its training images.
        place: the comparison's directory.
    """
    if config.seconds is None:
        return dict.fromkeys(config.arm_names(), base.epochs)
    file = place.path / "epochs.json"
    known: Mapping[str, int] = read_json(file) if file.exists() else {}
    for arm in config.arm_names():
        if arm not in known:
            one = seconds_per_epoch(final_config(base, arm), dataset)
            known = {**known, arm: max(1, int(config.seconds / one))}
            write_json(file, known)
    return {arm: known[arm] for arm in config.arm_names()}


def budget_line(config: CompareConfig, base: PretrainConfig, images: int) -> str:
    """The budget that is equal for all arms, in a sentence.

    Args:
        config: the comparison's settings.
        base: the shared recipe.
        images: training images.
    """
    if config.seconds is not None:
        return (
            f"equal wall-clock: as many whole epochs of training as fit into {config.seconds:g} "
            "seconds at the speed of each arm's steps on this machine"
        )
    seen = images // base.batch_size * base.batch_size * base.num_views * base.epochs
    return (
        f"equal number of images seen: {base.epochs} epochs of {images:,} images x "
        f"{base.num_views} views, {seen:,} in all"
    )
