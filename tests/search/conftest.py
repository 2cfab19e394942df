"""A replacement for the training of trials."""

import pytest
from search.fakes import Data, Training

from supcon_tf.search import figures, trials, tuning


@pytest.fixture
def training(monkeypatch):
    stand_in = Training()
    monkeypatch.setattr(trials, "pretrain", stand_in.pretrain)
    monkeypatch.setattr(trials, "_history", stand_in.history)
    monkeypatch.setattr(trials, "validation_score", stand_in.score)
    monkeypatch.setattr(tuning, "open_first", lambda base, space: Data())
    stand_in.draw = figures.draw
    monkeypatch.setattr(figures, "draw", lambda *arguments: None)
    return stand_in
