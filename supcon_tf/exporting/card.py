"""Model cards and tables of scores, for readers."""

from collections.abc import Mapping

from supcon_tf.config.dataset_names import without_place
from supcon_tf.stages.tables import class_table, format_table, percent

_WORST_CLASSES = 5
# Settings that say where something lay on somebody's machine.
_PLACES = ("dataset", "data_dir", "encoder_weights", "initial_run")


def model_card(metadata: Mapping, metrics: Mapping) -> str:
    """A bundle's MODEL_CARD.md.

    Args:
        metadata: content of metadata.json.
        metrics: content of metrics.json.

    Reference:
        Mitchell et al. 2019, "Model Cards for Model Reporting".
    """
    title = f"# {metadata['name']}, version {metadata['version']}"
    sections = [
        ("What it does", _purpose(metadata)),
        ("Data", _data(metadata)),
        ("Recipe", _recipe(metadata)),
        ("Scores", _scores(metadata, metrics)),
        ("Calibration", _calibration(metrics)),
        ("Limits", _limits(metadata, metrics)),
    ]
    if "added" in metadata:
        sections.insert(1, ("Added classes", _added(metadata["added"])))
    body = "\n\n".join(f"## {heading}\n\n{text}" for heading, text in sections)
    return f"{title}\n\n{body}\n"


def _purpose(metadata):
    names = metadata["class_names"]
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    steps = "; ".join(metadata["preprocessing"].values())
    side = metadata["image_size_px"]
    what = f"Classifies an image as one of {len(names)} classes: {shown}."
    if metadata.get("multi_label"):
        what = (
            f"Names which of {len(names)} classes an image shows: {shown}. Each has "
            "a probability of its own (a sigmoid); they do not sum to 1, and those of 0.5 or more "
            "count as shown."
        )
    return (
        f"{what}\n\n"
        f"Images are processed at {side} x {side} pixels: {steps}. The SavedModel does all of this "
        "itself; a TFLite or ONNX model expects images already cropped and resized, with "
        "values from 0 to 1, or for int8 uint8 values from 0 to 255."
    )


def _data(metadata):
    dataset = metadata["training"]["pretrain"]["dataset"]
    rows = [
        [title, f"{dataset[split]['examples']:,}", dataset[split]["fingerprint"][:16]]
        for split, title in (("train", "training"), ("test", "held out"))
    ]
    table = format_table(["split", "images", "fingerprint"], rows)
    left_out = len(dataset.get("bad_images", []))
    note = f"\n\nUnreadable images left out: {left_out}." if left_out else ""
    return f"{without_place(dataset['name'])}\n\n{table}{note}"


def _recipe(metadata):
    rows = [
        [f"{stage}: {name}", f"{value}"]
        for stage in ("pretrain", "classifier")
        for name, value in metadata["settings"].get(stage, {}).items()
        if value not in (None, "", {}) and name not in _PLACES
    ]
    made = metadata["training"]["pretrain"]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    commit = f"Commit {made['git_commit']}; " if made["git_commit"] else ""
    return (
        f"{format_table(['setting', 'value'], rows)}\n\nSettings that are not listed have the "
        f"defaults of the version below. {commit}{versions}. "
        f"Trained {made['started']}, exported {metadata['export']['started']}."
    )


def _scores(metadata, metrics):
    parts = [export_table(metrics["export"]) + _failed(metrics["export"])]
    test = metrics.get("test")
    if test and metadata.get("multi_label"):
        parts.append(_of_several(test))
    elif test:
        tuned = "fine_tuned" in metrics.get("classifier", {})
        whose = " (features of the encoder before it was fine-tuned)" * tuned
        top1 = percent(test["knn_top1"])
        parts.append(f"k-NN top-1 on {test['images']:,} held-out images{whose}: {top1}.")
        known = {name: top1 for name, top1 in test.get("per_class", {}).items() if top1 is not None}
        worst = sorted(known.items(), key=lambda item: item[1])[:_WORST_CLASSES]
        of = {  # Runs evaluated by earlier versions have no counts.
            name: f" of {scores['support']:,}" for name, scores in test.get("classes", {}).items()
        }
        shown = ", ".join(f"{name!r} {percent(top1)}{of.get(name, '')}" for name, top1 in worst)
        parts += [f"Lowest top-1 by class: {shown} images."] if worst else []
    if "added" in metrics:
        added = metrics["added"]
        parts[0] = f"The trained classes, as they were exported:\n\n{parts[0]}"
        parts.append(
            "This version, with the added classes. The old classes are scored on the held-out "
            "images that they came with, the new ones on those of their images that were not "
            "used to form the class (`--holdout_fraction`). Scores on few images are rough.\n\n"
            f"{added_table(added)}"
        )
        exports = export_table(added) + _failed(added)
        parts.append(f"Its exports on the added classes' images:\n\n{exports}")
    return "\n\n".join(parts)


def _of_several(test):
    """The held-out scores if images have several classes."""
    names = {
        "mean average precision": "mean_average_precision",
        "micro F1 at 0.5": "micro_f1",
        "macro F1 at 0.5": "macro_f1",
        "all classes of an image right": "exact_match",
        "mean average precision of k-NN": "knn_map",
    }
    rows = [[name, percent(test[key])] for name, key in names.items() if key in test]
    scores = format_table([f"{test['images']:,} held-out images", "score"], rows)
    return f"{scores}\n\n{class_table(test.get('classes', {}))}"


def _failed(scores):
    faults = scores.get("failed", {}).items()
    return "".join(f"\n\nLeft out: {name.replace('_', ' ')}, as {fault}." for name, fault in faults)


def _calibration(metrics):
    found = metrics.get("added", metrics["export"])["calibration"]
    how = (
        f"Temperature {found['temperature']:.3f}, fitted on the validation images."
        if found["fitted_on"]
        else "The temperature is 1, not fitted: the run set no validation images aside "
        "(--validation_fraction)."
    )
    columns = {"temperature 1": "_uncalibrated", "as exported": ""}
    if "ece_uncalibrated" not in found:
        del columns["temperature 1"]
    errors = {"expected calibration error": "ece", "negative log likelihood, nats": "nll"}
    rows = [
        [name, *(f"{found[key + ending]:.4f}" for ending in columns.values())]
        for name, key in errors.items()
    ]
    table = format_table(["held-out images", *columns], rows)
    return f"{how}\n\n{table}"


def _limits(metadata, metrics):
    score = (
        "; the out-of-distribution score of `neighbors` says how unusual it is, not whether "
        "the class is right"
    )
    lines = [
        "Every image is given one of the classes above, even if it shows none of them"
        + (score if metadata["neighbors"] else "")
        + "."
        if not metadata.get("multi_label")
        else "Every image is given at least one class, the most probable one, even if it shows "
        "none of them; the probability is then below 0.5.",
        "The scores hold for images like the held-out ones. Other cameras, countries, seasons or "
        "crops were not tried, and fairness between groups of people was not assessed.",
        "The bundle holds names"
        + (" and small pictures" if metadata["settings"]["export"]["thumbnails"] else "")
        + " of training images; share it only with those who may see them."
        if metadata["neighbors"]
        else "The bundle holds no training images.",
    ]
    index = metrics.get("added", metrics["export"])["index"]
    if index:
        share = percent(index["held_out_above_0.95"])
        lines.insert(
            1, f"{share} of the held-out images have an out-of-distribution score above 0.95."
        )
    return "\n".join(f"* {line}" for line in lines)


def _added(additions):
    rows = [
        [name, f"{count}", f"{added['from_version']}", added["started"][:10]]
        for added in additions
        for name, count in added["images"].items()
    ]
    table = format_table(["class", "images", "added to version", "on"], rows)
    return f"Added by nearest prototype, without training:\n\n{table}"


def export_table(scores: Mapping) -> str:
    """Scores of each export of a bundle, next to those of the model it was made from.

    Args:
        scores: `export`'s or `compare_exports`'s result.
    """
    compared = {
        name: found
        for name, found in scores.items()
        if isinstance(found, Mapping) and "max_difference" in found
    }
    several = any("map" in found for found in compared.values())
    key, title = ("map", "average precision") if several else ("top1", "top-1")
    rows = [
        [
            name.replace("_", " ") + " (left out)" * found.get("left_out", False),
            percent(found[key]),
            percent(found[f"model_{key}"]),
            f"{found['max_difference']:.1e}",
            f"{found['bytes'] / 1024:,.0f} KiB",
            f"{found['ms']:.2f} ms",
        ]
        for name, found in compared.items()
    ]
    if "keras_ms" in scores:
        own = percent(next(iter(compared.values()))[f"model_{key}"])
        rows.insert(0, ["Keras", own, own, "", "", f"{scores['keras_ms']:.2f} ms"])
    header = [
        "exported",
        title,
        f"{title} of the model",
        "largest difference of a probability from Keras",
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
    held_out = scores.get("held_out", {})  # Not in bundles of version 0.1.0.
    for name, top1 in scores["per_class"].items():
        learned_from = f"  {name}, from {scores['learned_from'][name]} images"
        rows.append([learned_from, f"{held_out.get(name, '')}", percent(top1)])
    return format_table(["held-out images", "number", "top-1"], rows)
