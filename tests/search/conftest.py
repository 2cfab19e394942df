"""What stands for the training of trials."""

import pytest
from search.fakes import Data, Training

from supcon_tf.search import pictures, running, tuning


@pytest.fixture
def training(monkeypatch):
    stand_in = Training()
    monkeypatch.setattr(running, "pretrain", stand_in.pretrain)
    monkeypatch.setattr(running, "_history", stand_in.history)
    monkeypatch.setattr(running, "validation_score", stand_in.score)
    monkeypatch.setattr(tuning, "check_first", lambda base, space: Data())
    monkeypatch.setattr(running, "_free_memory", lambda: None)
    stand_in.draw = pictures.draw
    monkeypatch.setattr(pictures, "draw", lambda *arguments: None)
    return stand_in
