"""CSV files of an evaluation of images that have several classes each.

classes.csv        one row per class: its scores
predictions.csv    one row per image, in the order of the split: true and predicted classes, with |
                   between, and the probability of each class
misclassified.csv  those whose classes are not all correct, the surest error first
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from supcon_tf.data.splits import Split
from supcon_tf.stages.class_scores import THRESHOLD
from supcon_tf.stages.label_scores import joined
from supcon_tf.stages.score_files import write_csv

_SCORES = ("support", "precision", "recall", "f1", "roc_auc", "average_precision")


def write_label_files(
    folder: Path,
    split: Split,
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: Mapping[str, Mapping],
) -> None:
    """Writes the files into a folder; each replaces one of an earlier evaluation.

    Args:
        folder: made if it is missing.
        split: the images, for their names, as in `write_score_files`.
        probabilities: float [N, C], in the stored order of the split.
        labels: bool [N, C].
        classes: scores by class, as from `class_scores`.
    """
    scores = ([name, *(_cell(found[key]) for key in _SCORES)] for name, found in classes.items())
    write_csv(folder / "classes.csv", ("class", *_SCORES), scores)
    predicted = probabilities >= THRESHOLD
    names = split.names or range(len(labels))
    lines = [
        [name, joined(classes, true), joined(classes, found), *(f"{share:.6f}" for share in row)]
        for name, true, found, row in zip(names, labels, predicted, probabilities, strict=True)
    ]
    header = ("image", "true", "predicted", *classes)
    write_csv(folder / "predictions.csv", header, lines)
    error = np.abs(labels - probabilities).max(axis=1)
    order = np.argsort(-error, kind="stable")  # Of equal ones, the first image first.
    wrong = [at for at in order if (predicted[at] != labels[at]).any()]
    write_csv(folder / "misclassified.csv", header, [lines[at] for at in wrong])


def _cell(score):
    return "" if score is None else f"{score:.6g}"
