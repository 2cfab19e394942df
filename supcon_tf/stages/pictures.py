"""Pictures of curves, embeddings and errors; PNG files, drawn without a screen."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from supcon_tf.core.files import writing
from supcon_tf.stages.scores import unit_rows

_STAGES = {"pretrain": "pretraining", "classifier": "classifier"}
# Curves by what they are, with the label of each; what is in none of them is a term of the loss.
_SHARES = {
    "accuracy": "training images right",
    "knn_top1": "validation images right (k-NN)",
    "knn_map": "validation average precision (k-NN)",
    "label_accuracy": "training classes right",
    "validation_map": "validation average precision",
    "pseudo_label_top1": "pseudo-labels right",
    "smoothed_top1": "smoothed pseudo-labels right",
    "confident": "pseudo-labels confident",
}
_EMBEDDINGS = {"alignment": "alignment", "uniformity": "uniformity"}
_RATE = {"learning_rate": "learning rate"}
# Sets of classes that have a colour of their own in a map.
_NAMED_SETS = 9
_NOT_CURVES = {
    "seconds",
    "positives_per_anchor",
    "anchors_without_positives",
    "effective_rank",
    "graph_degree",
}


def save(figure: Figure, path: Path) -> None:
    """Writes a picture as PNG; names in it are shown as they are, not read as formulas."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with writing(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # Shown as boxes.
        figure.savefig(temporary, format="png", dpi=120)


def learning_curves(
    histories: Mapping[str, Mapping[str, Sequence[float]]], path: Path, title: str
) -> None:
    """Draws each stage's curves over the epochs: loss, scores, embeddings, learning rate.

    Args:
        histories: by stage, by metric, one value per epoch.
        path: PNG file.
        title: of the figure.
    """
    rows = [list(_panels(stage, history)) for stage, history in histories.items()]
    columns = max(map(len, rows))
    figure = Figure(figsize=(4.7 * columns, 0.4 + 3.2 * len(rows)), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for axis, panel in zip(axes.flat, _filled(rows, columns), strict=True):
        if panel is None:
            axis.set_axis_off()
            continue
        heading, unit, curves = panel
        for label, values in curves.items():
            known = [(at, value) for at, value in enumerate(values, 1) if value is not None]
            # A single point draws no line.
            axis.plot(*zip(*known, strict=True), label=label, marker="." * (len(known) == 1))
        axis.set(title=heading, xlabel="epoch", ylabel=unit)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend()
    save(figure, path)


def _filled(rows, columns):
    """The panels of all rows, and None for each place of a row that has none."""
    return [panel for row in rows for panel in (*row, *[None] * (columns - len(row)))]


def _panels(stage, history):
    """Title, label of the y axis, and curves by label, of each panel that has curves."""
    known = _NOT_CURVES | _SHARES.keys() | _EMBEDDINGS.keys() | _RATE.keys()
    terms = {name: name for name in history if name not in known}
    loss = "cross entropy (nats per image)" if stage == "classifier" else "loss (mean per anchor)"
    for quantity, unit, names in (
        ("loss", loss, terms),
        ("scores", "share of images (%)", _SHARES),
        ("embeddings", "alignment and uniformity (no unit)", _EMBEDDINGS),
        ("learning rate", "learning rate (per step)", _RATE),
    ):
        scale = 100 if names is _SHARES else 1
        curves = {
            label: [None if value is None else scale * value for value in history[name]]
            for name, label in names.items()
            if any(value is not None for value in history.get(name, ()))
        }
        if curves:
            yield f"{_STAGES.get(stage, stage)}: {quantity}", unit, curves


def curves_title(run: str, scores: Mapping[str, Mapping]) -> str:
    """The name of a run and its final scores.

    Args:
        run: its name.
        scores: by stage, as in metrics.json.
    """
    pretrained, classifier = scores.get("pretrain", {}), scores.get("classifier", {})
    shown = []
    if "knn_map" in pretrained:
        shown.append(f"k-NN average precision {100 * pretrained['knn_map']:.1f} %")
    elif "knn_top1" in pretrained:
        shown.append(f"k-NN {100 * pretrained['knn_top1']:.1f} % of validation images")
    elif "loss" in pretrained:
        shown.append(f"loss {pretrained['loss']:.3g} after pretraining")
    if "train_top1" in classifier:
        shown.append(f"classifier {100 * classifier['train_top1']:.1f} % of training images")
    if "train_map" in classifier:
        found = 100 * classifier["train_map"]
        shown.append(f"classifier {found:.1f} % average precision on training images")
    return f"{run}: {', '.join(shown)}"


def embedding_maps(
    embeddings: Mapping[str, tuple[np.ndarray, np.ndarray]],
    class_names: Sequence[str],
    path: Path,
    seed: int = 0,
) -> None:
    """Draws two-dimensional maps of features side by side, coloured by class.

    t-SNE of the unit-norm features; principal components if there are too few images for it.

    Args:
        embeddings: by title, features float [N, F] and labels int [N]; or bool [N, C] for several
            classes per image: the sets of classes then have the colours.
        class_names: name of each label.
        path: PNG file.
        seed: seed of the map.
    """
    if next(iter(embeddings.values()))[1].ndim == 2:
        embeddings, class_names = _by_set(embeddings, class_names)
    figure = Figure(figsize=(6 * len(embeddings), 5.5), layout="constrained")
    colors = matplotlib.colormaps["tab10" if len(class_names) <= 10 else "turbo"]
    axes = np.atleast_1d(figure.subplots(1, len(embeddings)))
    for axis, (title, (features, labels)) in zip(axes, embeddings.items(), strict=True):
        points = _two_dimensions(features, seed)
        shown = np.unique(labels)
        for label in shown:
            color = colors(label if len(class_names) <= 10 else label / len(class_names))
            here = points[labels == label]
            axis.scatter(*here.T, s=8, color=color, label=class_names[label])
        axis.set(title=title, xticks=[], yticks=[])
    if len(shown) <= 20:
        axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2)
    save(figure, path)


def _by_set(embeddings, class_names):
    """The same with labels int [N] of sets of classes, and their names; the rarest share one."""
    every = np.concatenate([labels for _, labels in embeddings.values()])
    sets, counts = np.unique(every, axis=0, return_counts=True)
    sets = sets[np.argsort(-counts, kind="stable")][:_NAMED_SETS]
    names = [" + ".join(np.array(class_names)[shown]) or "none" for shown in sets]

    def place(labels):
        same = (labels[:, None] == sets).all(axis=2)  # [N, sets]
        return np.where(same.any(axis=1), same.argmax(axis=1), len(sets))

    found = {title: (rows, place(labels)) for title, (rows, labels) in embeddings.items()}
    return found, [*names, "others"]


def _two_dimensions(features, seed):
    unit = unit_rows(features)
    if len(unit) < 30 or np.ptp(unit, axis=0).max() == 0:
        return (
            PCA(2).fit_transform(np.pad(unit, [(0, 0), (0, 2)])) if len(unit) > 1 else unit[:, :2]
        )
    # t-SNE's threads wait for each other by spinning: under load, two are far slower than one.
    with threadpool_limits(1, user_api="openmp"):
        perplexity = min(30, len(unit) / 4)
        # Twice as many iterations lower its objective by a hundredth.
        tsne = TSNE(2, perplexity=perplexity, init="pca", max_iter=500, random_state=seed)
        return tsne.fit_transform(unit)


def confusion(counts: np.ndarray, class_names: Sequence[str], path: Path) -> None:
    """Draws a confusion matrix; the colour is the share of the true class.

    Args:
        counts: int [C, C], true class by predicted class.
        class_names: C names.
        path: PNG file.
    """
    size = min(16, 3.5 + 0.4 * len(class_names))
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    axis = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the true class")
    axis.set(xlabel="predicted", ylabel="true")
    if len(class_names) <= 30:
        ticks = np.arange(len(class_names))
        axis.set_xticks(ticks, class_names, rotation=45, ha="right")
        axis.set_yticks(ticks, class_names)
        for row, column in np.argwhere(counts):
            shade = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, counts[row, column], ha="center", va="center", color=shade)
    save(figure, path)


def robustness(scores: Mapping[str, Mapping], clean: Mapping[str, float], path: Path) -> None:
    """Draws accuracy and calibration against the severity of corruptions, and their means.

    Args:
        scores: by corruption, `error` and `ece`, shares by severity.
        clean: the same for clean images, one each; they are severity 0.
        path: PNG file.
    """
    figure = Figure(figsize=(12, 5), layout="constrained")
    colors = matplotlib.colormaps["tab20"]
    for axis, kind, label in zip(
        figure.subplots(1, 2),
        ("error", "ece"),
        ("images right, %", "expected calibration error, %"),
        strict=True,
    ):
        lines = {name: np.array([clean[kind], *own[kind]]) for name, own in scores.items()}
        lines = {n: 100 * (1 - line if kind == "error" else line) for n, line in lines.items()}
        for number, (name, line) in enumerate(lines.items()):
            axis.plot(line, label=name, color=colors(number), linewidth=1)
        axis.plot(np.mean(list(lines.values()), axis=0), label="mean", color="black", linewidth=3)
        axis.set(xlabel="severity (0: clean images)", ylabel=label)
        axis.grid(alpha=0.3)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    save(figure, path)
