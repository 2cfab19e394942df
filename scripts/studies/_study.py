"""The parts of a comparison."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Study:
    """Arms that differ in a few settings.

    Attributes:
        title: of the figure.
        base: settings of `PretrainConfig` that all arms share.
        arms: title to the settings in which an arm differs; those that differ in none share one
            pretraining run per seed.
        scores: of the held-out split, in the order of the table; the first is drawn.
        curves: of the history, drawn over the epochs.
        classifier: settings of `ClassifierConfig`.
        classifiers: title to the settings in which an arm's classifier differs.
        evaluation: settings of `EvaluateConfig`.
        reached: a curve: the table says in which epoch its mean over the seeds first reaches the
            first arm's last value; '' for none.
        gain: two curves: the table says by how much the first is above the second, in percentage
            points, averaged over the epochs; () for none.
    """

    title: str
    base: dict
    arms: dict[str, dict]
    scores: tuple[str, ...] = ("top1", "knn_top1")
    curves: tuple[str, ...] = ()
    classifier: dict = dataclasses.field(default_factory=dict)
    classifiers: dict[str, dict] = dataclasses.field(default_factory=dict)
    evaluation: dict = dataclasses.field(default_factory=dict)
    reached: str = ""
    gain: tuple[str, ...] = ()
