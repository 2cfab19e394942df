"""The training benchmark's results as text."""

import statistics

import numpy as np

PARTS = {"alone": "step alone", "pipeline": "input pipeline alone", "whole": "both together"}
_MEMORY = (
    "Extra memory is the peak of resident memory (VmHWM, counted again from just before the first "
    "step)\nover two steps, tracing and compilation included, less what was resident just before; "
    "the batch was.\nTotal is that peak itself, the libraries included."
)
_SHOWN_KINDS = 25


def _mib(number):
    return f"{number / 2**20:,.0f} MiB"


def _table(header, rows):
    from supcon_tf.stages.tables import format_table

    return format_table(header, rows)


def views_per_second(speed):
    """Medians over the rounds, by part."""
    return {part: statistics.median(speed[part]) for part in PARTS}


def _speed(results):
    speed = results["speed"]
    medians = views_per_second(speed)
    rows = [
        [title, f"{medians[part]:.1f}", f"{min(speed[part]):.1f}", f"{max(speed[part]):.1f}"]
        for part, title in PARTS.items()
    ]
    share = medians["whole"] / min(medians["alone"], medians["pipeline"])
    start = statistics.median(speed["start_seconds"])
    return (
        f"{_table(['views per second', 'median', 'least', 'most'], rows)}\n"
        f"both together / slower of the two: {share:.3f}    first batch after {start:.1f} s"
    )


def arithmetic(results):
    """FLOP of the step, forward and backward, and its rate compared with a matrix product's."""
    forward = results["contestants"]["default"]["forward_flops"]
    product = statistics.median(results["speed"]["flops_per_second"])
    rate = 3 * forward * views_per_second(results["speed"])["alone"]
    return {
        "forward_flops_a_view": forward,
        "step_flops_per_second": rate,
        "product_flops_per_second": product,
        "share": rate / product,
    }


def _arithmetic(results):
    found = results["arithmetic"]
    rows = [
        ["forward pass of a view", f"{found['forward_flops_a_view'] / 1e9:.3f} GFLOP"],
        ["step, three times that", f"{found['step_flops_per_second'] / 1e9:.1f} GFLOP/s"],
        ["matrix product, float32", f"{found['product_flops_per_second'] / 1e9:.1f} GFLOP/s"],
        ["step / matrix product", f"{100 * found['share']:.1f} %"],
    ]
    return _table(["arithmetic", "default"], rows)


def _contestants(results):
    config, found = results["settings"], results["contestants"]
    views = config["batch_size"] * config["num_views"]
    default = found["default"]["median_seconds"]
    rows = []
    for name, one in found.items():
        seconds = one["seconds"]
        low, high = (f"{value:.3f}" for value in np.percentile(seconds, [25, 75]))
        rows.append(
            [
                name,
                f"{one['median_seconds']:.3f} s",
                f"{low} to {high}",
                f"{min(seconds):.3f} to {max(seconds):.3f}",
                f"{default / one['median_seconds']:.3f}",
                f"{views / one['median_seconds']:.1f}",
                f"{one['first_seconds']:.1f} s",
                _mib(one["extra_bytes"]),
            ]
        )
    header = ["step", "median", "quartiles", "least to most", "default / this", "views per second"]
    return _table([*header, "first step", "extra memory"], rows)


def _memory(results):
    found = results["memory"]
    first = next(iter(found.values()))
    rows = []
    for text, one in found.items():
        images, _, micro_batch = text.partition(":")
        rows.append(
            [
                f"{images} images" + f", {micro_batch} at once" * bool(micro_batch),
                _mib(one["extra_bytes"]),
                f"{one['extra_bytes'] / first['extra_bytes']:.2f}",
                _mib(one["peak_bytes"]),
                f"{one['peak_bytes'] / first['peak_bytes']:.2f}",
                f"{one['seconds']:.2f} s",
            ]
        )
    header = ["step", "extra memory", "of the first", "total", "of the first", "second step"]
    return f"{_table(header, rows)}\n{_MEMORY}"


def report(results):
    """The tables, as a list of texts."""
    texts = [_speed(results), _arithmetic(results), _contestants(results)]
    return [*texts, *([_memory(results)] if results["memory"] else [])]


def profile(found):
    """Where a step's time goes, the longest first.

    Args:
        found: `seconds` of a step and `kinds`, rows of a type, calls and seconds per step.
    """
    total = sum(seconds for _, _, seconds in found["kinds"])
    shown, rest = found["kinds"][:_SHOWN_KINDS], found["kinds"][_SHOWN_KINDS:]
    others = ["others", sum(calls for _, calls, _ in rest), sum(spent for *_, spent in rest)]
    rows = [
        [kind, f"{calls:.0f}", f"{1e3 * spent:.2f} ms", f"{100 * spent / total:.1f} %"]
        for kind, calls, spent in [*shown, *([others] if rest else [])]
    ]
    return (
        f"{_table(['operation', 'calls per step', 'time', 'share'], rows)}\n"
        f"A traced step takes {found['seconds']:.3f} s; its operations {total:.3f} s, summed over "
        "the threads\nthat run them side by side."
    )
