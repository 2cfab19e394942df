"""Half precision on CPUs: how slow it is, measured and said before the work."""

import pytest

from supcon_tf import PretrainConfig, UserError, pretrain
from supcon_tf.engine import precision


def test_the_ratio_is_of_the_two_arithmetics(monkeypatch):
    clock = iter([0.0, 6.0, 6.0, 8.0] * 5)  # The half takes 6 s, the whole 2 s.
    monkeypatch.setattr(precision.time, "perf_counter", lambda: next(clock))
    assert precision.slowdown("mixed_bfloat16") == 3.0


@pytest.mark.parametrize("name", ["mixed_bfloat16", "mixed_float16"])
def test_it_is_a_positive_ratio(name):
    assert 0 < precision.slowdown(name) < 1e4


def test_float32_is_not_measured(monkeypatch):
    monkeypatch.setattr(precision, "_step", None)
    assert precision.slowdown("float32") == 1.0


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (11.2, "mixed_bfloat16 takes 11 times as long as float32 on this CPU, which has no"),
        (1.4, None),
    ],
)
def test_people_are_told_before_the_work(ratio, expected, small_config, capsys, monkeypatch):
    monkeypatch.setattr(precision, "slowdown", lambda name: ratio)
    settings = {**small_config, "precision": "mixed_bfloat16", "run_dir": "never"}
    pretrain(PretrainConfig(**settings, dry_run=True))
    shown = capsys.readouterr().out
    assert (expected or "nothing written; ready") in shown
    assert ("times as long" in shown) == bool(expected)


def test_a_training_says_so_before_anything_else(finished_run, small_config, capsys, monkeypatch):
    monkeypatch.setattr(precision, "slowdown", lambda name: 7.0)
    config = PretrainConfig(**small_config, precision="mixed_float16", run_dir=str(finished_run))
    with pytest.raises(UserError, match="--resume"):
        pretrain(config)
    assert "warning: mixed_float16 takes 7 times as long" in capsys.readouterr().err
