"""Figures of a search: which settings its trials had, and which of them mattered."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

from supcon_tf.config.search import OBJECTIVES
from supcon_tf.search.results import Result
from supcon_tf.search.space import SearchSpace
from supcon_tf.stages.pictures import save

# Fewer trials say nothing about importance.
_LEAST_TRIALS = 8
_TREES, _PERMUTATIONS = 200, 20
# Below this R² on unseen trials the figure says that it cannot tell.
_BELIEVED = 0.3
# Where a setting that was not active is drawn, below the first value at 0.
_INACTIVE = -0.15


def draw(folder: Path, results: Sequence[Result], space: SearchSpace, objective: str) -> None:
    """Draws parallel_coordinates.png and, from eight trials on, importance.png.

    Args:
        folder: where the pictures go.
        results: all trials; those without a score, or paused on the way, are left out.
        space: what was searched.
        objective: name of the score.
    """
    scored = [result for result in results if result.status in ("finished", "pruned")]
    if not scored:
        return
    places = np.array([_places(result, space) for result in scored])
    scores = np.array([result.score for result in scored])
    _parallel_coordinates(folder / "parallel_coordinates.png", places, scores, space, objective)
    if len(scored) >= _LEAST_TRIALS and np.ptp(scores) > 0:
        _importance(folder / "importance.png", places, scores, space.names, objective)


def _places(result: Result, space: SearchSpace) -> list[float]:
    """Where a trial's settings lie between the first and the last value, [P]."""
    return [
        space.place(name, result.values[name]) if name in result.values else _INACTIVE
        for name in space.names
    ]


def _parallel_coordinates(path, places, scores, space, objective):
    """A line for each trial over an axis for each setting and one for the score."""
    figure = Figure(figsize=(2.2 * (places.shape[1] + 1) + 1, 5), layout="constrained")
    axis = figure.subplots()
    spread, best_high = np.ptp(scores) or 1.0, OBJECTIVES[objective] == "max"
    heights = (scores - scores.min()) / spread
    colors = matplotlib.colormaps["viridis"]
    # Coloured by rank, so that one bad trial does not make all others look alike; the best on top.
    for rank, order in enumerate(np.argsort(heights if best_high else -heights), 1):
        line = [*places[order], heights[order]]
        axis.plot(range(len(line)), line, color=colors(rank / len(scores)), alpha=0.8)
    for at, name in enumerate(space.names):
        _label_axis(axis, at, name, space)
    last = places.shape[1]
    for share in (0, 0.5, 1):
        axis.text(last + 0.03, share, f"{scores.min() + share * spread:.4g}", va="center")
    axis.set_xticks(range(last + 1), [*space.names, objective])
    axis.set(yticks=[], ylim=(_INACTIVE - 0.05, 1.05), xlim=(-0.1, last + 0.4))
    for place in range(last + 1):
        axis.axvline(place, color="grey", linewidth=0.8, zorder=0)
    axis.set_title(
        f"{len(scores)} trials, the best in yellow; settings that do not apply lie below their axis"
    )
    save(figure, path)


def _label_axis(axis, at, name, space):
    values = space.shown(name)
    for value in values if len(values) <= 8 else (values[0], values[-1]):
        text = "none" if value is None else f"{value:.4g}" if _is_real(value) else str(value)
        paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1}
        height = space.place(name, value)
        axis.text(at + 0.03, height, text, va="center", fontsize=8, bbox=paper)


def _is_real(value):
    return isinstance(value, float)


def _importance(path, places, scores, names, objective):
    """How much worse a forest predicts the score when one setting is shuffled."""
    forest = RandomForestRegressor(_TREES, oob_score=True, min_samples_leaf=2, random_state=0)
    forest.fit(places, scores)
    found = permutation_importance(forest, places, scores, n_repeats=_PERMUTATIONS, random_state=0)
    order = np.argsort(found.importances_mean)
    doubt = "" if forest.oob_score_ >= _BELIEVED else ", too low to tell"
    figure = Figure(figsize=(8, 1.6 + 0.4 * len(names)), layout="constrained")
    axis = figure.subplots()
    axis.barh(
        [names[at] for at in order],
        found.importances_mean[order],
        xerr=found.importances_std[order],
    )
    axis.set_xlabel("loss of R² when the setting is shuffled (mean and deviation)")
    axis.set_title(
        f"Permutation importance for {objective}: random forest over {len(scores)} trials,\n"
        f"R² on trials that its trees have not seen: {forest.oob_score_:.2f}{doubt}",
        fontsize=10,
    )
    save(figure, path)
