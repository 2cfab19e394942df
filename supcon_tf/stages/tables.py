"""Markdown tables, and the scores of several runs in one."""

from collections.abc import Mapping, Sequence

from supcon_tf.stages.run_directory import RunDirectory


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up, the first to the left and the others to the right."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]

    def row(cells):
        first, *rest = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.strip().rjust(width) for cell, width in rest)]
        return f"| {' | '.join(padded)} |"

    first, *others = widths
    rule = "|".join(["", "-" * (first + 2), *("-" * (width + 1) + ":" for width in others), ""])
    head, *body = map(row, lines)
    return "\n".join([head, rule, *body])


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal; empty for None."""
    return "" if share is None else f"{100 * share:.1f} %"


def comparison_table(runs: Mapping[str, RunDirectory]) -> str:
    """Held-out scores of several runs, one per row.

    Args:
        runs: by title; each evaluated.
    """
    rows = []
    for title, run in runs.items():
        metrics = run.metrics()
        test = metrics["test"]
        seconds = f"{metrics['pretrain']['seconds']:.0f} s"
        scores = [percent(test.get(name)) for name in ("top1", "top5", "knn_top1")]
        rows.append([title, *scores, seconds])
    return format_table(["held-out split", "top-1", "top-5", "k-NN", "training"], rows)


def class_table(scores: Mapping[str, Mapping], width: int = 100) -> str:
    """Scores by class, one class per row.

    Args:
        scores: `classes` as from `class_scores`.
        width: columns of text at most; longer names are cut, at their end.
    """
    columns = {
        "recall": "recall",
        "precision": "precision",
        "F1": "f1",
        "ROC AUC": "roc_auc",
        "AP": "average_precision",
    }
    rows = [
        [f"{score['support']:,}", *(percent(score[key]) or "-" for key in columns.values())]
        for score in scores.values()
    ]
    header = ["images", *columns]
    taken = sum(max(map(len, column)) + 3 for column in zip(header, *rows, strict=True))
    room = width - taken - len("|  |")
    # A bar in a name is shown as two letters.
    names = [_cut(name, room - name[:room].count("|")) for name in scores]
    return format_table(
        ["class", *header], [[name, *row] for name, row in zip(names, rows, strict=True)]
    )


def _cut(name, length):
    return name if len(name) <= length else f"{name[: length - 3]}..."
