"""Content of the pictures."""

import numpy as np
import pytest

from supcon_tf.stages import pictures
from supcon_tf.stages.run_directory import RunDirectory


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws curves; returns the figure."""

    def draw(histories, title="photos"):
        figures = []
        monkeypatch.setattr(pictures, "save", lambda figure, path: figures.append(figure))
        pictures.learning_curves(histories, tmp_path / "curves.png", title)
        return figures[0]

    return draw


def curves(axis):
    return {
        line.get_label(): [line.get_xdata().tolist(), line.get_ydata().tolist()]
        for line in axis.lines
    }


HISTORIES = {
    "pretrain": {
        "loss": [3.0, 2.0, 1.0],
        "alignment": [0.5, 0.4, 0.3],
        "uniformity": [-1.0, -2.0, -3.0],
        "effective_rank": [9.0, 9.0, 9.0],
        "accuracy": [0.2, 0.4, 0.6],
        "knn_top1": [None, 0.5, 0.75],
        "learning_rate": [0.1, 0.2, 0.1],
        "seconds": [1.0, 1.0, 1.0],
    },
    "classifier": {"loss": [1.0], "accuracy": [0.9], "learning_rate": [0.5], "seconds": [1.0]},
}


def test_every_panel_says_what_it_shows_and_in_which_unit(drawn):
    figure = drawn(HISTORIES, "photos: k-NN 75.0 %")
    assert figure.get_suptitle() == "photos: k-NN 75.0 %"
    shown = [axis for axis in figure.axes if axis.axison]
    titles = [axis.get_title() for axis in shown]
    assert titles == [
        "pretraining: loss",
        "pretraining: scores",
        "pretraining: embeddings",
        "pretraining: learning rate",
        "classifier: loss",
        "classifier: scores",
        "classifier: learning rate",
    ]
    units = [axis.get_ylabel() for axis in shown]
    assert units[:2] == ["loss (mean per anchor)", "share of images (%)"]
    assert units[4] == "cross entropy (nats per image)"
    assert all(units)
    assert {axis.get_xlabel() for axis in shown} == {"epoch"}


def test_validation_is_drawn_beside_training_at_the_epochs_that_have_it(drawn):
    scores = drawn(HISTORIES).axes[1]
    assert curves(scores) == {
        "training images right": [[1, 2, 3], [20.0, 40.0, 60.0]],
        "validation images right (k-NN)": [[2, 3], [50.0, 75.0]],
    }


def test_terms_of_a_loss_are_drawn_together_and_empty_panels_left_out(drawn):
    history = {"loss": [3.0], "supervised": [1.0], "knn_top1": [None], "learning_rate": [0.1]}
    figure = drawn({"pretrain": history})
    assert [axis.get_title() for axis in figure.axes] == [
        "pretraining: loss",
        "pretraining: learning rate",
    ]
    assert set(curves(figure.axes[0])) == {"loss", "supervised"}


def test_the_title_holds_the_run_and_its_final_scores(finished_run):
    scores = {"pretrain": {"loss": 2.345, "knn_top1": 0.879}, "classifier": {"train_top1": 0.991}}
    assert pictures.curves_title("photos", scores) == (
        "photos: k-NN 87.9 % of validation images, classifier 99.1 % of training images"
    )
    found = pictures.curves_title("run", RunDirectory(str(finished_run)).metrics())
    assert found.startswith("run: loss ")
    assert "after pretraining, classifier 9" in found


def test_names_of_runs_are_no_formulas(tmp_path):
    pictures.learning_curves({"pretrain": {"loss": [1.0]}}, tmp_path / "a.png", "run_$x^2: 1 %")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_a_confusion_matrix_of_many_classes_is_drawn(tmp_path):
    pictures.confusion(np.eye(120, dtype=int), [f"{n}" for n in range(120)], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
