"""Tables of what runs scored."""

from collections.abc import Mapping, Sequence

from supcon_tf.stages.run_directory import RunDirectory


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up, the first to the left and the others to the right."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (header, *rows)]
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


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal; empty for None."""
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
        scores = [percent(test.get(name)) for name in ("top1", "top5", "knn_top1")]
        rows.append([title, *scores, seconds])
    return format_table(["held-out split", "top-1", "top-5", "k-NN", "training"], rows)


def export_table(scores: Mapping) -> str:
    """What each export of a bundle scored, beside the model it was made of.

    Args:
        scores: `export`'s or `compare_exports`'s result.
    """
    compared = {
        name: found
        for name, found in scores.items()
        if isinstance(found, Mapping) and "top1" in found
    }
    rows = [
        [
            name.replace("_", " ") + " (left out)" * found.get("left_out", False),
            percent(found["top1"]),
            percent(found["model_top1"]),
            f"{found['max_difference']:.1e}",
            f"{found['bytes'] / 1024:,.0f} KiB",
            f"{found['ms']:.2f} ms",
        ]
        for name, found in compared.items()
    ]
    if "keras_ms" in scores:
        top1 = percent(next(iter(compared.values()))["model_top1"])
        rows.insert(0, ["Keras", top1, top1, "", "", f"{scores['keras_ms']:.2f} ms"])
    header = [
        "exported",
        "top-1",
        "top-1 of the model",
        "largest probability difference",
        "size",
        "one image",
    ]
    return format_table(header, rows)


def added_table(scores: Mapping) -> str:
    """Held-out scores of a bundle that classes were added to.

    Args:
        scores: `add_class`'s result.
    """
    rows = [
        ["old classes, before", f"{scores['old_images']:,}", percent(scores["old_top1_before"])],
        ["old classes", f"{scores['old_images']:,}", percent(scores["old_top1"])],
        ["new classes", f"{scores['new_images']:,}", percent(scores["new_top1"])],
    ]
    for name, top1 in scores["per_class"].items():
        rows.append([f"  {name}, from {scores['learned_from'][name]} images", "", percent(top1)])
    return format_table(["held-out images", "number", "top-1"], rows)
