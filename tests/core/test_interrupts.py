"""A Ctrl-C that a callback swallows ends the work all the same."""

import contextlib
import signal

import numpy as np
import pytest

import supcon_tf
from supcon_tf import EvaluateConfig, ExportConfig, PredictConfig
from supcon_tf.core.files import write_json
from supcon_tf.core.interrupts import check_interrupts, noting_interrupts
from supcon_tf.exporting import export, prediction
from supcon_tf.stages import evaluation


@pytest.fixture(autouse=True)
def usual_handler():
    """Python's own, which it does not install where Ctrl-C is ignored, as in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def swallow():
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_it_is_raised_at_once_and_forgotten_afterwards():
    with pytest.raises(KeyboardInterrupt), noting_interrupts():
        signal.raise_signal(signal.SIGINT)
    check_interrupts()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_it_is_raised_at_the_end_of_the_outermost_block():
    reached = []

    @noting_interrupts()
    def outer():
        with noting_interrupts():
            swallow()
        reached.append(1)

    with pytest.raises(KeyboardInterrupt):
        outer()
    assert reached == [1]


def test_nothing_is_written_afterwards(tmp_path):
    @noting_interrupts()
    def write():
        swallow()
        write_json(tmp_path / "a.json", {})

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


def test_handlers_of_the_program_are_left_alone():
    found, before = [], signal.signal(signal.SIGINT, lambda *_: found.append(1))
    try:
        with noting_interrupts():
            swallow()
            check_interrupts()
    finally:
        signal.signal(signal.SIGINT, before)
    assert found == [1]


def test_export_leaves_no_bundle(finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_write_tflite", lambda *_: swallow())
    config = ExportConfig(run_dir=str(finished_run), saved_models_dir=str(tmp_path / "saved"))
    with pytest.raises(KeyboardInterrupt):
        supcon_tf.export(config)
    assert list(tmp_path.iterdir()) == []


def test_evaluate_records_nothing(finished_run, monkeypatch):
    extract = evaluation.extract_features

    def swallowing(*args, **kwargs):
        swallow()
        return extract(*args, **kwargs)

    before = (finished_run / "metrics.json").read_bytes()
    monkeypatch.setattr(evaluation, "extract_features", swallowing)
    with pytest.raises(KeyboardInterrupt):
        supcon_tf.evaluate(EvaluateConfig(run_dir=str(finished_run), knn_neighbors=3))
    assert (finished_run / "metrics.json").read_bytes() == before


def test_predict_stops_at_the_batch(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")

    def classify(batch):
        swallow()
        return np.ones((len(batch), 1))

    results = prediction._results(
        (["a"], False, classify), {str(tmp_path / "a.png"): ""}, PredictConfig()
    )
    with pytest.raises(KeyboardInterrupt), noting_interrupts():
        next(results)
