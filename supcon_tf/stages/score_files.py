"""CSV files of an evaluation: the confusion matrix, and what was predicted for each image.

confusion_matrix.csv  counts, one row per true class and one column per predicted class
predictions.csv       one row per image, in the order of the split
misclassified.csv     those that are wrong, the most confident first
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from supcon_tf.core.files import writing
from supcon_tf.data.splits import Split

_HEADER = ("image", "true", "predicted", "probability_of_predicted", "probability_of_true")


def write_score_files(
    folder: Path,
    split: Split,
    probabilities: np.ndarray,
    labels: np.ndarray,
    counts: Sequence[Sequence[int]],
    class_names: Sequence[str],
) -> None:
    """Writes the files into a folder; each replaces one of an earlier evaluation.

    Args:
        folder: made if it is missing.
        split: the images, for their names; an image without one is called by its place in the
            split, from 0 on.
        probabilities: float [N, C], in the stored order of the split.
        labels: int [N].
        counts: int [C, C], true class by predicted class.
        class_names: C names.
    """
    matrix = ([name, *row] for name, row in zip(class_names, counts, strict=True))
    write_csv(folder / "confusion_matrix.csv", ["true \\ predicted", *class_names], matrix)
    rows, predicted = np.arange(len(labels)), probabilities.argmax(axis=1)
    names = split.names or rows
    confidence, truth = probabilities[rows, predicted], probabilities[rows, labels]
    lines = [
        [names[at], class_names[label], class_names[guess], f"{sure:.6f}", f"{right:.6f}"]
        for at, label, guess, sure, right in zip(
            rows, labels, predicted, confidence, truth, strict=True
        )
    ]
    write_csv(folder / "predictions.csv", _HEADER, lines)
    # A stable order: of equal ones, the first image first.
    wrong = [at for at in np.argsort(-confidence, kind="stable") if predicted[at] != labels[at]]
    write_csv(folder / "misclassified.csv", _HEADER, [lines[at] for at in wrong])


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Writes a CSV file; file names in it may hold bytes that are not UTF-8."""
    with (
        writing(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
