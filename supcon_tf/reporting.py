"""Tables of what runs scored."""

from collections.abc import Mapping, Sequence

from supcon_tf.runs import RunDirectory


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up, the first to the left and the others to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]

    def row(cells):
        first, *rest = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        rest = [cell.strip().rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        return f"| {' | '.join([first, *rest])} |"

    rule = (
        "|"
        + "|".join(
            "-" * (width + 2) if not column else "-" * (width + 1) + ":"
            for column, width in enumerate(widths)
        )
        + "|"
    )
    return "\n".join([row(header), rule, *(row(line) for line in rows)])


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def comparison_table(runs: Mapping[str, RunDirectory]) -> str:
    """Held-out scores of several runs, one a row.

    Args:
        runs: by title; each evaluated.
    """
    rows = []
    for title, run in runs.items():
        metrics = run.metrics()
        test = metrics["test"]
        seconds = f"{metrics['pretrain']['seconds']:.0f} s"
        scores = [_percent(test.get(name)) for name in ("top1", "top5", "knn_top1")]
        rows.append([title, *scores, seconds])
    return format_table(["held-out split", "top-1", "top-5", "k-NN", "training"], rows)


def export_table(scores: Mapping) -> str:
    """What each export of a bundle scored against Keras.

    Args:
        scores: `export`'s result.
    """
    rows = [
        [
            name.replace("_", " ") + " (left out)" * found.get("left_out", False),
            _percent(found["top1"]),
            _percent(found["keras_top1"]),
            f"{found['max_difference']:.1e}",
            f"{found['bytes'] / 1024:.0f} KiB",
        ]
        for name, found in scores.items()
        if isinstance(found, Mapping)
    ]
    header = ["exported", "top-1", "Keras top-1", "largest probability difference", "size"]
    return format_table(header, rows)
