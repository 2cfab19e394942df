"""Pictures for people who would rather look than read; PNG files, drawn without a screen."""

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

_NOT_CURVES = (
    "learning_rate",
    "seconds",
    "positives_per_anchor",
    "anchors_without_positives",
    "effective_rank",
)


def save(figure: Figure, path: Path) -> None:
    """Writes a picture as PNG; names in it are shown as they are, not read as formulas."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with writing(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # Shown as boxes.
        figure.savefig(temporary, format="png", dpi=120)


def learning_curves(histories: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Draws each stage's metrics over the epochs, and its learning rate.

    Args:
        histories: by stage, by metric, one value per epoch.
        path: PNG file.
    """
    figure = Figure(figsize=(14, 3.2 * len(histories)), layout="constrained")
    axes = figure.subplots(len(histories), 3, squeeze=False)
    for (stage, history), (left, middle, right) in zip(histories.items(), axes, strict=True):
        curves = [name for name in history if name not in _NOT_CURVES]
        panels = {
            left: [name for name in curves if name == "loss"],
            middle: [name for name in curves if name != "loss"],
            right: ["learning_rate"],
        }
        for panel, names in panels.items():
            for name in names:
                known = [
                    (at, value) for at, value in enumerate(history[name], 1) if value is not None
                ]
                panel.plot(*zip(*known, strict=True), label=name)
            panel.set(title=stage, xlabel="epoch")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            if names:
                panel.legend()
    save(figure, path)


def embedding_maps(
    embeddings: Mapping[str, tuple[np.ndarray, np.ndarray]],
    class_names: Sequence[str],
    path: Path,
    seed: int = 0,
) -> None:
    """Draws two-dimensional maps of features side by side, coloured by class.

    t-SNE of the unit-norm features; principal components where there are too few images for it.

    Args:
        embeddings: by title, features float [N, F] and labels int [N].
        class_names: name of each label.
        path: PNG file.
        seed: seed of the map.
    """
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


def _two_dimensions(features, seed):
    unit = unit_rows(features)
    if len(unit) < 30 or np.ptp(unit, axis=0).max() == 0:
        return (
            PCA(2).fit_transform(np.pad(unit, [(0, 0), (0, 2)])) if len(unit) > 1 else unit[:, :2]
        )
    # Its threads wait for each other by spinning: beside other work two are far slower than one.
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
